"""The aggregator's side of the secure sum. It is trusted with nothing but being there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from common.errors import SecureSumError
from common.privacy.secure_sum import masks, shamir
from common.privacy.secure_sum.identity import signed_by
from common.privacy.secure_sum.roster import Roster
from common.privacy.secure_sum.transcript import Transcript, check_advert, commitment
from common.privacy.secure_sum.wire import (
    Advert,
    Certificate,
    Enrolment,
    Mailbag,
    MaskedVectorHeader,
    Message,
    ShareBundle,
    SurvivorList,
    SurvivorSignature,
    UnmaskShares,
    parse_survivor_reply,
    split_frame,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from common.privacy.secure_sum.ring import Words


class _ServerState(Message):
    kind: Literal["server-state"] = "server-state"
    roster: Roster
    adverts: tuple[Advert, ...]
    bundles: tuple[ShareBundle, ...]


class SecureSumServer:
    """Enrols the platforms of a run, once, and hands out rounds.

    Every ``add_*`` takes the name under which the transport knows the sender, and refuses a message in another's name.
    """

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self._adverts: dict[str, Advert] = {}
        self._bundles: dict[str, ShareBundle] = {}
        self._transcript: Transcript | None = None

    def add_advert(self, platform: str, data: bytes) -> None:
        """Take a platform's advert.

        Raises:
            SecureSumError: not its own, not signed for this roster, or enrolment is closed.
        """
        advert = Advert.from_bytes(data)
        check_sender(platform, advert.platform)
        check_advert(self.roster, advert)
        if self._transcript is not None and advert not in self._transcript.adverts:
            raise SecureSumError(
                f"platform {platform!r} came after the enrolment of run {self.roster.run_id!r} was closed"
            )
        self._adverts[platform] = advert

    def enrolment(self) -> bytes:
        """Close the enrolment; the message for every platform that enrolled.

        Raises:
            SecureSumError: fewer than P − r enrolled.
        """
        if self._transcript is None:
            self._transcript = Transcript(self.roster, tuple(self._adverts[name] for name in sorted(self._adverts)))
        return Enrolment(adverts=self._transcript.adverts).to_bytes()

    @property
    def transcript(self) -> Transcript:
        if self._transcript is None:
            raise SecureSumError(f"run {self.roster.run_id!r}: the enrolment is still open")
        return self._transcript

    def add_shares(self, platform: str, data: bytes) -> None:
        """Take a platform's envelopes for the others."""
        bundle = ShareBundle.from_bytes(data)
        check_sender(platform, bundle.platform)
        receivers = [name for name in self.transcript.names if name != platform] if self.roster.dropouts else []
        if sorted(bundle.envelopes) != receivers:
            raise SecureSumError(f"shares of {platform!r}: not one envelope for each other enrolled platform")
        self._bundles[platform] = bundle

    def mailbag(self, platform: str) -> bytes:
        """The envelopes for a platform; sent along with its first round.

        Raises:
            SecureSumError: a platform that enrolled has sent none. Enrol again without it.
        """
        missing = sorted(set(self.transcript.names) - set(self._bundles))
        if missing and self.roster.dropouts:
            raise SecureSumError(f"shares of {', '.join(missing)} are missing; enrol again without them")
        envelopes = {name: bundle.envelopes[platform] for name, bundle in self._bundles.items() if name != platform}
        return Mailbag(envelopes=envelopes if self.roster.dropouts else {}).to_bytes()

    def to_state(self) -> bytes:
        """Roster, adverts and envelopes, none of them secret from the aggregator.

        A round in progress is not kept: it is opened again, and the platforms repeat the same masked vectors.
        """
        bundles = tuple(self._bundles[name] for name in sorted(self._bundles))
        return _ServerState(roster=self.roster, adverts=self.transcript.adverts, bundles=bundles).to_bytes()

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        """Go on where ``to_state`` stopped.

        Raises:
            SecureSumError: the state is damaged.
        """
        parsed = _ServerState.from_bytes(state)
        server = cls(parsed.roster)
        server._transcript = Transcript(parsed.roster, parsed.adverts)
        server._adverts = {advert.platform: advert for advert in parsed.adverts}
        server._bundles = {bundle.platform: bundle for bundle in parsed.bundles}
        return server

    def open_round(self, round_index: int, length: int, context: bytes) -> SecureSumRound:
        """A round over vectors of ``length`` values, in answer to the broadcast with the digest ``context``."""
        if not 0 <= round_index < len(self.roster.rounds):
            raise SecureSumError(
                f"round {round_index}: run {self.roster.run_id!r} has {len(self.roster.rounds)} rounds"
            )
        return SecureSumRound(self.transcript, round_index, length, context)


class SecureSumRound:
    """One round: masked vectors are added up as they arrive, then unmasked together. Holds one vector of words."""

    def __init__(self, transcript: Transcript, round_index: int, length: int, context: bytes) -> None:
        self._transcript, self._index, self._length, self._context = transcript, round_index, length, context
        self._spec = transcript.roster.rounds[round_index]
        self._words: Words = np.zeros(length, dtype=self._spec.ring.dtype)
        self._arrived: set[str] = set()
        self._signatures: dict[str, bytes] = {}
        self._shares: dict[str, UnmaskShares] = {}
        self._closed = False
        self._total: NDArray[np.int64] | None = None

    @property
    def survivors(self) -> tuple[str, ...]:
        """The platforms whose masked vectors arrived, in roster order."""
        return tuple(sorted(self._arrived))

    @property
    def complete(self) -> bool:
        """Whether the vectors of all that enrolled are in."""
        return self.survivors == self._transcript.names

    def add_masked(self, platform: str, data: bytes) -> None:
        """Add a platform's masked vector to the sum.

        Raises:
            SecureSumError: another round, broadcast, length, ring or sender; a second vector; or the survivor list is
                out.
        """
        text, payload = split_frame(data)
        header = MaskedVectorHeader.from_header(text)
        check_sender(platform, header.platform)
        self._check_round(platform, header.round_index)
        self._transcript.advert_of(platform)
        if self._closed or platform in self._arrived:
            reason = "its vector is in already" if platform in self._arrived else "it came after the survivor list"
            raise SecureSumError(f"masked vector of {platform!r}: {reason}; it is not counted")
        if header.context != self._context:
            raise SecureSumError(
                f"masked vector of {platform!r}: it answers another request or vocabulary than was sent, so that its masks "
                "would not cancel; it is not counted"
            )
        if header.length != self._length:
            raise SecureSumError(
                f"masked vector of {platform!r}: {header.length} values where {self._length} are summed"
            )
        self._words += self._spec.ring.unpack(payload, self._length)
        self._arrived.add(platform)

    def survivor_list(self) -> bytes:
        """Close the round to further vectors; the message for every survivor.

        Raises:
            SecureSumError: fewer than P − r arrived. The round is lost.
        """
        self._transcript.check_survivors(self.survivors)
        self._closed = True
        return SurvivorList(round_index=self._index, survivors=self.survivors).to_bytes()

    def add_survivor_reply(self, platform: str, data: bytes) -> None:
        """Take a signature or the unmasking shares, whichever the platform answered."""
        reply = parse_survivor_reply(data)
        check_sender(platform, reply.platform)
        self._check_round(platform, reply.round_index)
        if platform not in self._arrived:
            raise SecureSumError(f"platform {platform!r} is not among the survivors of round {self._index}")
        if isinstance(reply, SurvivorSignature):
            digest = self._transcript.survivors_digest(self._index, self.survivors)
            if not signed_by(self._transcript.roster.identity_of(platform), reply.signature, digest):
                raise SecureSumError(f"signature of {platform!r}: not over this round's survivor list")
            self._signatures[platform] = reply.signature
        else:
            missing = set(self._transcript.names) - self._arrived
            if set(reply.self_mask_shares) != self._arrived or set(reply.mask_key_shares) != missing:
                raise SecureSumError(f"shares of {platform!r}: not one for each enrolled platform")
            self._shares[platform] = reply

    @property
    def needs_certificate(self) -> bool:
        """Whether platforms are missing, so that the survivors must see each other's signatures first."""
        return not self.complete

    def certificate(self) -> bytes:
        """The signed survivor list, for every survivor.

        Raises:
            SecureSumError: fewer than ``threshold`` signed.
        """
        if len(self._signatures) < self._transcript.roster.threshold:
            raise SecureSumError(
                f"round {self._index}: {len(self._signatures)} platforms signed the survivor list where "
                f"{self._transcript.roster.threshold} must; the round is lost"
            )
        return Certificate(round_index=self._index, survivors=self.survivors, signatures=self._signatures).to_bytes()

    def sum(self) -> NDArray[np.int64]:
        """The exact sum over ``survivors``, int64 ``[length]`` in grid units.

        Raises:
            SecureSumError: too few shares, an altered share, or a sum outside its public bound.
        """
        if self._total is not None:
            return self._total
        roster = self._transcript.roster
        if not roster.dropouts and not self.complete:
            raise SecureSumError(f"round {self._index}: platforms are missing and this roster tolerates no dropout")
        if roster.dropouts:
            masks.add_streams(self._words, self._surviving_masks())
        total = self._spec.ring.decode(self._words)
        self._spec.ring.check_sum(total, len(self._arrived))
        self._total = total
        return total

    def _surviving_masks(self) -> list[tuple[bytes, masks.Sign]]:
        """The masks that did not cancel in the sum, with the sign that takes each away."""
        transcript, index = self._transcript, self._index
        keys: list[tuple[bytes, masks.Sign]] = []
        for name in self.survivors:
            secret = self._combine({helper: reply.self_mask_shares[name] for helper, reply in self._shares.items()})
            if commitment(secret) != transcript.advert_of(name).commitments[index]:
                raise SecureSumError(f"round {index}: shares of {name!r} were altered; the round is lost")
            keys.append((masks.self_key(secret, transcript=transcript.digest, round_index=index, platform=name), -1))
        for name in (name for name in transcript.names if name not in self._arrived):
            secret = self._combine({helper: reply.mask_key_shares[name] for helper, reply in self._shares.items()})
            if masks.public_key(secret) != transcript.advert_of(name).mask_keys[index]:
                raise SecureSumError(f"round {index}: shares of {name!r} were altered; the round is lost")
            for survivor in self.survivors:
                key, sign = transcript.pair_mask(
                    survivor, name, index, context=self._context, secret=secret, secret_of=name
                )
                keys.append((key, -1 if sign == 1 else 1))
        return keys

    def _combine(self, shares: dict[str, bytes]) -> bytes:
        roster = self._transcript.roster
        return shamir.combine({roster.position(helper): share for helper, share in shares.items()}, roster.threshold)

    def _check_round(self, platform: str, round_index: int) -> None:
        if round_index != self._index:
            raise SecureSumError(f"platform {platform!r} answered round {round_index} in round {self._index}")


def check_sender(platform: str, claimed: str) -> None:
    """Refuse a message that one platform sends in another's name."""
    if platform != claimed:
        raise SecureSumError(f"platform {platform!r} sent a message in the name of {claimed!r}")
