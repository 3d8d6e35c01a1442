"""The platform's side of the secure sum: a state machine that refuses every step that could reveal a part."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import ValidationError

from common.errors import SecureSumError
from common.privacy.secure_sum import envelopes, masks, shamir
from common.privacy.secure_sum.identity import PlatformIdentity
from common.privacy.secure_sum.roster import Roster, RosterPolicy
from common.privacy.secure_sum.state import ClientState, fresh_state
from common.privacy.secure_sum.transcript import Transcript
from common.privacy.secure_sum.wire import (
    Certificate,
    Enrolment,
    Mailbag,
    MaskedVectorHeader,
    ShareBundle,
    SurvivorList,
    SurvivorSignature,
    UnmaskShares,
    frame,
    malformed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


class SecureSumClient:
    """One platform in one run.

    ``save`` receives the state and must make it durable before it returns; it is called before any bytes are handed
    out, so that a restart (``from_state``) never answers as if it had not. The state holds secrets and must not be
    rolled back: a store restored from a backup must give its runs up.

    Guarantees (each with a test):
        - a round's masks are used for one vector; a repeat must be identical, and yields identical bytes;
        - at most one survivor list is accepted a round, and never one of fewer than P − r platforms;
        - for no platform are shares of both its mask key and its self-mask given out.
    """

    def __init__(self, state: ClientState, identity: PlatformIdentity, save: Callable[[bytes], None]) -> None:
        self._state, self._identity, self._save = state, identity, save
        self._enrolled = Transcript(state.roster, state.adverts) if state.adverts else None

    @classmethod
    def join(
        cls,
        roster: Roster,
        *,
        platform: str,
        identity: PlatformIdentity,
        policy: RosterPolicy,
        save: Callable[[bytes], None],
    ) -> Self:
        """Accept a roster that this platform's ``policy`` allows, with fresh keys for every round.

        The caller joins a run once; if enrolment fails before anything was masked it may join again, and the others do.

        Raises:
            SecureSumError: the policy refuses the roster, or ``identity`` is not this platform's on it.
        """
        policy.check(roster)
        if roster.identity_of(platform) != identity.public:
            raise SecureSumError(f"roster: the key of {platform!r} is not this platform's own; was it made elsewhere?")
        state = fresh_state(roster, platform, identity)
        client = cls(state, identity, save)
        client._commit(state)
        return client

    @classmethod
    def from_state(cls, state: bytes, *, identity: PlatformIdentity, save: Callable[[bytes], None]) -> Self:
        """Go on where ``to_state`` stopped.

        Raises:
            SecureSumError: the state is damaged or another platform's.
        """
        try:
            parsed = ClientState.model_validate_json(state)
        except ValidationError as error:
            raise malformed("saved state", error) from None
        if parsed.roster.identity_of(parsed.platform) != identity.public:
            raise SecureSumError("saved state: it belongs to another identity key; load the key it was made with")
        return cls(parsed, identity, save)

    def to_state(self) -> bytes:
        return self._state.model_dump_json().encode()

    def _commit(self, state: ClientState) -> None:
        self._save(state.model_dump_json().encode())
        self._state = state

    @property
    def roster(self) -> Roster:
        return self._state.roster

    def advertise(self) -> bytes:
        """The advert. Its signature accepts the roster."""
        return self._state.advert.to_bytes()

    def enrol(self, data: bytes) -> bytes:
        """Take everyone's adverts; give the envelopes of shares (none if the roster tolerates no dropout).

        Raises:
            SecureSumError: an advert is not its platform's, this platform's own is missing or altered, too few
                enrolled, or other adverts were accepted before.
        """
        adverts, state = Enrolment.from_bytes(data).adverts, self._state
        if state.adverts and adverts != state.adverts:
            raise SecureSumError(f"enrolment: other adverts were accepted before in run {self.roster.run_id!r}")
        if state.bundle is None:
            transcript = Transcript(state.roster, adverts)
            if transcript.advert_of(state.platform) != state.advert:
                raise SecureSumError("enrolment: this platform's own advert was altered")
            bundle = self._deal(transcript) if state.roster.dropouts else {}
            held = {state.platform: bundle.pop(state.platform)} if bundle else {}
            sealed = {
                name: envelopes.seal(state.encryption_secret, transcript, state.platform, name, shares)
                for name, shares in bundle.items()
            }
            sent = ShareBundle(platform=state.platform, envelopes=sealed)
            self._commit(state.model_copy(update={"adverts": adverts, "bundle": sent, "held": held}))
            self._enrolled = transcript
        assert self._state.bundle is not None
        return self._state.bundle.to_bytes()

    def _deal(self, transcript: Transcript) -> dict[str, envelopes.Shares]:
        """Shares of every round's two secrets for each enrolled platform, this one included."""
        state, roster = self._state, self.roster
        points = {name: roster.position(name) for name in transcript.names}
        split = [
            tuple(shamir.split(secret, list(points.values()), roster.threshold) for secret in pair)
            for pair in zip(state.mask_secrets, state.self_secrets, strict=True)
        ]
        return {name: tuple((key[point], own[point]) for key, own in split) for name, point in points.items()}

    def receive_shares(self, data: bytes) -> None:
        """Open the envelopes of all other enrolled platforms. Comes before the first round if dropouts are tolerated.

        Opening also proves that each of them, now, has the same adverts: the keys are bound to the transcript.

        Raises:
            SecureSumError: an envelope is missing, altered or made for another transcript.
        """
        mailbag, transcript, state = Mailbag.from_bytes(data).envelopes, self._transcript(), self._state
        others = [name for name in transcript.names if name != state.platform]
        if sorted(mailbag) != others:
            raise SecureSumError(
                "shares: not one envelope from each other enrolled platform; enrol again without the missing"
            )
        if not self.roster.dropouts or len(state.held) == len(transcript.names):
            return
        opened = {
            name: envelopes.open_sealed(state.encryption_secret, transcript, name, state.platform, mailbag[name])
            for name in others
        }
        held = {**opened, state.platform: state.held[state.platform]}
        self._commit(state.model_copy(update={"held": held, "encryption_secret": b""}))

    def _transcript(self) -> Transcript:
        if self._enrolled is None:
            raise SecureSumError(f"run {self.roster.run_id!r}: not enrolled yet; the adverts come first")
        return self._enrolled

    def check_open(self, round_index: int) -> None:
        """Raise unless a new vector may be masked in a round; looks at no vector.

        Raises:
            SecureSumError: not enrolled, the round is unknown, closed or has its vector, or others' shares are missing.
        """
        state, roster, transcript = self._state, self.roster, self._transcript()
        if not 0 <= round_index < len(roster.rounds):
            raise SecureSumError(f"round {round_index}: run {roster.run_id!r} has {len(roster.rounds)} rounds")
        if roster.dropouts and set(state.held) != set(transcript.names):
            raise SecureSumError(
                f"round {round_index}: the others' shares are missing, so that a dropout could not be mended"
            )
        if round_index <= state.round_index:
            raise SecureSumError(f"round {round_index} is closed: round {state.round_index} has begun")

    def mask(self, round_index: int, units: NDArray[np.int64], *, noise_std: float, context: bytes) -> bytes:
        """The masked vector of a round.

        Args:
            round_index: 0 for the first round of the roster; later ones close it for good.
            units: int64 ``[n]`` in grid units, noise share included: the arrays of a privatised contribution.
            noise_std: standard deviation of that noise share in grid units, as the mechanism states it.
            context: 32 bytes, the digest of what this platform was told; masks cancel only between platforms that were
                told the same.

        Raises:
            SecureSumError: not enrolled, the round is closed or unknown, less noise than the roster promises, or a
                vector other than the one already masked in this round, or the same for another ``context``.
        """
        state, roster, transcript = self._state, self.roster, self._transcript()
        if not 0 <= round_index < len(roster.rounds):
            raise SecureSumError(f"round {round_index}: run {roster.run_id!r} has {len(roster.rounds)} rounds")
        if roster.dropouts and set(state.held) != set(transcript.names):
            raise SecureSumError(
                f"round {round_index}: the others' shares are missing, so that a dropout could not be mended"
            )
        if units.dtype != np.int64 or units.ndim != 1 or not units.size:
            raise SecureSumError(f"round {round_index}: units must be one-dimensional int64 and not empty")
        spec = roster.rounds[round_index]
        if not noise_std >= spec.noise_std * (1 - 1e-9):
            raise SecureSumError(
                f"round {round_index} ({spec.label}): the values carry less noise than the roster promises; only what "
                "the privacy mechanism released may be masked"
            )
        if round_index < state.round_index:
            raise SecureSumError(f"round {round_index} is closed: round {state.round_index} has begun")
        masked = self._masked_bytes(transcript, round_index, units, context)
        digest = hashlib.sha256(masked).digest()
        if round_index > state.round_index:
            self._commit(state.masking(round_index, digest))
        elif digest != state.masked:
            raise SecureSumError(
                f"round {round_index}: another vector was masked in it; repeat the journaled bytes, for the same mask "
                "over two vectors reveals their difference"
            )
        return masked

    def _masked_bytes(
        self, transcript: Transcript, round_index: int, units: NDArray[np.int64], context: bytes
    ) -> bytes:
        state, ring = self._state, self.roster.rounds[round_index].ring
        secret, name = state.mask_secrets[round_index], state.platform
        keys = [
            transcript.pair_mask(name, peer, round_index, context=context, secret=secret, secret_of=name)
            for peer in transcript.names
            if peer != name
        ]
        if state.self_secrets:
            own = state.self_secrets[round_index]
            key = masks.self_key(own, transcript=transcript.digest, round_index=round_index, platform=name)
            keys.append((key, 1))
        words = ring.encode(units)
        masks.add_streams(words, keys)
        header = MaskedVectorHeader(platform=name, round_index=round_index, context=context, length=len(words))
        return frame(header, ring.pack(words))

    def answer_survivors(self, data: bytes) -> bytes:
        """Answer the list of platforms whose masked vectors arrived.

        If it names all that enrolled the answer is the unmasking shares: see the package's security argument for why
        that needs no signatures. Otherwise it is this platform's signature, and shares follow on a certificate.

        Raises:
            SecureSumError: another round, another list than the one accepted, too few platforms, or not this one.
        """
        request = SurvivorList.from_bytes(data)
        transcript = self._accept(request.round_index, request.survivors)
        if request.survivors == transcript.names:
            return self._shares(transcript, request.survivors)
        signature = self._identity.sign(transcript.survivors_digest(request.round_index, request.survivors))
        return SurvivorSignature(
            platform=self._state.platform, round_index=request.round_index, signature=signature
        ).to_bytes()

    def answer_certificate(self, data: bytes) -> bytes:
        """The unmasking shares for a list that at least ``threshold`` platforms have signed.

        Raises:
            SecureSumError: as ``answer_survivors``, or too few valid signatures.
        """
        request = Certificate.from_bytes(data)
        transcript = self._accept(request.round_index, request.survivors)
        transcript.check_signatures(request.round_index, request.survivors, request.signatures)
        return self._shares(transcript, request.survivors)

    def _accept(self, round_index: int, survivors: tuple[str, ...]) -> Transcript:
        """Hold this platform to ``survivors`` for the round, durably, or refuse."""
        state, transcript = self._state, self._transcript()
        if not self.roster.dropouts:
            raise SecureSumError(
                f"run {self.roster.run_id!r} tolerates no dropout: no share exists that could unmask a part"
            )
        if round_index != state.round_index:
            raise SecureSumError(
                f"round {round_index}: not the round that this platform masked last; it unmasks no other"
            )
        transcript.check_survivors(survivors)
        if state.platform not in survivors:
            raise SecureSumError(
                f"round {round_index}: this platform is not on the survivor list and helps no sum without it"
            )
        if state.accepted and state.accepted != survivors:
            raise SecureSumError(
                f"round {round_index}: a second, different survivor list; the difference of the two sums would be one "
                "platform's part"
            )
        if not state.accepted:
            self._commit(state.model_copy(update={"accepted": survivors}))
        return transcript

    def _shares(self, transcript: Transcript, survivors: tuple[str, ...]) -> bytes:
        state = self._state
        missing = set(transcript.names) - set(survivors)
        return UnmaskShares(
            platform=state.platform,
            round_index=state.round_index,
            self_mask_shares={name: state.held[name][state.round_index][1] for name in survivors},
            mask_key_shares={name: state.held[name][state.round_index][0] for name in sorted(missing)},
        ).to_bytes()
