"""All platforms and the aggregator in one process: for the simulator and for tests. Messages stay bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from common.privacy.secure_sum.client import SecureSumClient
from common.privacy.secure_sum.identity import PlatformIdentity
from common.privacy.secure_sum.roster import Roster, RosterPolicy, RoundSpec
from common.privacy.secure_sum.server import SecureSumServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

LostAt = Literal["before masking", "masking", "upload", "signature"]
"""The step after which a platform is not heard of again in the round: ``masking`` has made the masked vector but not
delivered it, ``upload`` has delivered it, ``signature`` has answered the survivor list."""


@dataclass(frozen=True)
class RoundResult:
    """A finished round.

    Attributes:
        total: int64 ``[n]``, the exact sum over ``survivors``.
        survivors: the platforms in the sum.
        messages: requests that a platform which was there throughout has answered.
        upload_bytes: of one masked vector.
    """

    total: NDArray[np.int64]
    survivors: tuple[str, ...]
    messages: int
    upload_bytes: int


def local_federation(
    names: Iterable[str], *, rounds: tuple[RoundSpec, ...], colluders: int = 1, dropouts: int = 0, run_id: str = "local"
) -> tuple[SecureSumServer, dict[str, SecureSumClient]]:
    """An aggregator and the platforms ``names`` with new identities, enrolled and ready for the first round.

    State is not saved.

    Raises:
        SecureSumError: the terms are unsafe.
    """
    identities = {name: PlatformIdentity.generate() for name in names}
    public = {name: identity.public for name, identity in identities.items()}
    roster = Roster.agree(run_id=run_id, identities=public, colluders=colluders, dropouts=dropouts, rounds=rounds)
    policy = RosterPolicy(
        fingerprints={name: identity.fingerprint for name, identity in identities.items()},
        colluders=colluders,
        dropouts=dropouts,
        rounds=rounds,
    )
    server = SecureSumServer(roster)
    clients = {
        name: SecureSumClient.join(roster, platform=name, identity=identity, policy=policy, save=lambda _state: None)
        for name, identity in identities.items()
    }
    enrol_all(server, clients)
    return server, clients


def enrol_all(server: SecureSumServer, clients: Mapping[str, SecureSumClient]) -> None:
    """Advertise and share; once a run.

    Raises:
        SecureSumError: a step was refused.
    """
    for name, client in clients.items():
        server.add_advert(name, client.advertise())
    enrolment = server.enrolment()
    for name, client in clients.items():
        server.add_shares(name, client.enrol(enrolment))
    if server.roster.dropouts:
        for name, client in clients.items():
            client.receive_shares(server.mailbag(name))


def run_round(
    server: SecureSumServer,
    clients: Mapping[str, SecureSumClient],
    inputs: Mapping[str, NDArray[np.int64]],
    *,
    round_index: int = 0,
    noise_std: float = 0.0,
    context: bytes = bytes(32),
    lost_at: Mapping[str, LostAt] | None = None,
) -> RoundResult:
    """One round over ``inputs`` (name to int64 ``[n]``, noise included); ``lost_at`` plays platforms that vanish.

    Raises:
        SecureSumError: a step was refused, or too few platforms were left for it.
    """
    lost = dict(lost_at or {})
    length = len(next(iter(inputs.values())))
    current = server.open_round(round_index, length, context)
    upload_bytes = 0
    for name, client in clients.items():
        if lost.get(name) == "before masking":
            continue
        masked = client.mask(round_index, inputs[name], noise_std=noise_std, context=context)
        upload_bytes = len(masked)
        if lost.get(name) != "masking":
            current.add_masked(name, masked)
    if not server.roster.dropouts:
        return RoundResult(current.sum(), current.survivors, 1, upload_bytes)
    request = current.survivor_list()
    for name in current.survivors:
        if lost.get(name) != "upload":
            current.add_survivor_reply(name, clients[name].answer_survivors(request))
    messages = 2
    if current.needs_certificate:
        messages, certificate = 3, current.certificate()
        for name in current.survivors:
            if name not in lost:
                current.add_survivor_reply(name, clients[name].answer_certificate(certificate))
    return RoundResult(current.sum(), current.survivors, messages, upload_bytes)
