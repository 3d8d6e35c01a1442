"""This platform's part in the run's secure sums: enrolment, masking, and answers to the aggregator's survivor lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from logging import getLogger
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.privacy.secure_sum.masking import MaskedContribution, mask_contribution
from client.privacy.secure_sum.state import SecureStateFile
from common.config.federation import FederationPlan
from common.contributions.kind import masked_name
from common.contributions.masked_rounds import round_index, secure_rounds
from common.contributions.registry import kinds_by_wire_name
from common.errors import SecureSumError
from common.privacy.contribution import PrivatizedContribution
from common.privacy.secure_sum import PlatformIdentity, Roster, RosterPolicy, SecureSumClient
from common.wire.exchange import AgentRequest

_log = getLogger(__name__)


class SecureMember:
    """One platform's secure-sum client over all runs, its state durable before any answer.

    Args:
        platform: its name.
        identity: its key pair.
        fingerprints: of all platforms' identities, compared out of band; from the platform's own configuration.
        plan: the public parameters, from the same.
        folder: where the state of the current run is kept.
    """

    def __init__(
        self,
        platform: str,
        identity: PlatformIdentity,
        fingerprints: Mapping[str, str],
        plan: FederationPlan,
        folder: Path,
    ) -> None:
        self._platform = platform
        self._identity = identity
        self._fingerprints = dict(fingerprints)
        self._plan = plan
        self._file = SecureStateFile(folder)
        self._client: SecureSumClient | None = None

    @property
    def public_key(self) -> NDArray[np.uint8]:
        """uint8 ``[32]``."""
        return np.frombuffer(self._identity.public, dtype=np.uint8)

    def answer(self, request: AgentRequest, n_items: int) -> NDArray[np.uint8]:
        """Answer one step of the protocol.

        Args:
            request: ``config["step"]`` names the step; ``arrays["message"]`` is the aggregator's message.
            n_items: m, which fixes the length of what is masked.

        Raises:
            SecureSumError: the step is unknown or refused.
        """
        message = request.arrays["message"].tobytes()
        step = request.config.get("step")
        if step == "advertise":
            return _bytes(self._join(Roster.from_bytes(message), request.run_id, n_items).advertise())
        steps: dict[str, Callable[[SecureSumClient], bytes]] = {
            "enrol": lambda client: client.enrol(message),
            "receive": lambda client: _received(client, message),
            "survivors": lambda client: client.answer_survivors(message),
            "certificate": lambda client: client.answer_certificate(message),
        }
        if not isinstance(step, str) or step not in steps:
            raise SecureSumError("the aggregator asks for an unknown step of the secure sum")
        return _bytes(steps[step](self._enrolled(request.run_id)))

    def check_open(self, request: AgentRequest) -> None:
        """Raise unless a contribution to ``request`` could be masked: to be asked before it is charged.

        Raises:
            SecureSumError: not enrolled, or the round is closed.
        """
        kind = kinds_by_wire_name(self._plan)[request.kind]
        self._enrolled(request.run_id).check_open(round_index(self._plan, kind, request.server_round))

    def mask(self, contribution: PrivatizedContribution, run_id: str, context: bytes) -> MaskedContribution:
        """Mask a contribution in its round of the sum (:func:`common.contributions.masked_rounds.round_index`).

        ``context`` is the digest of what this platform was told (:func:`common.contributions.broadcast.round_context`).

        Raises:
            SecureSumError: not enrolled, or the round is closed.
        """
        kind = kinds_by_wire_name(self._plan)[masked_name(contribution.kind)]
        index = round_index(self._plan, kind, contribution.server_round)
        return mask_contribution(contribution, self._enrolled(run_id), index, context)

    def _join(self, roster: Roster, run_id: str, n_items: int) -> SecureSumClient:
        if roster.run_id != run_id or len(roster.members) != self._plan.platforms:
            raise SecureSumError("the roster is of another run or of another number of platforms than was agreed")
        earlier = self._client or self._saved_if_usable()
        if earlier is not None and earlier.roster == roster:
            self._client = earlier
            return earlier
        if earlier is not None and earlier.roster.run_id == run_id:
            raise SecureSumError("this run has enrolled with another roster; start a new run")
        policy = RosterPolicy(
            fingerprints=self._fingerprints,
            colluders=self._plan.privacy.colluders,
            dropouts=self._plan.privacy.dropouts,
            rounds=secure_rounds(self._plan, platforms=len(roster.members), n_items=n_items),
        )
        self._client = SecureSumClient.join(
            roster, platform=self._platform, identity=self._identity, policy=policy, save=self._file.write
        )
        return self._client

    def _enrolled(self, run_id: str) -> SecureSumClient:
        if self._client is None:
            self._client = self._saved()
        if self._client is None or self._client.roster.run_id != run_id:
            raise SecureSumError("this platform is not enrolled in the secure sum of this run; enrol first")
        return self._client

    def check(self) -> None:
        """Raises: SecureSumError when the kept state cannot be used; the message says what was lost and how to mend it."""
        self._saved()

    def _saved(self) -> SecureSumClient | None:
        state = self._file.read()
        if state is None:
            return None
        try:
            return SecureSumClient.from_state(state, identity=self._identity, save=self._file.write)
        except SecureSumError as error:
            raise self._file.unusable(str(error)) from error

    def _saved_if_usable(self) -> SecureSumClient | None:
        """Return what is lost stays lost: who enrols then has fresh keys, which open nothing that was masked before."""
        try:
            return self._saved()
        except SecureSumError as error:
            _log.warning("%s", error)
            return None


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8)


def _received(client: SecureSumClient, message: bytes) -> bytes:
    client.receive_shares(message)
    return b"ok"
