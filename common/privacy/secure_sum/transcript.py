"""Digests what an enrolment fixes: who takes part, with which keys, under which roster. Client and server check it alike."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from common.errors import SecureSumError
from common.privacy.secure_sum.identity import PlatformIdentity, signed_by
from common.privacy.secure_sum.masks import Sign, bind, pair_key, public_key
from common.privacy.secure_sum.roster import Roster
from common.privacy.secure_sum.wire import Advert

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Transcript:
    """The enrolled platforms of a run, each advert checked against the roster.

    Raises:
        SecureSumError: an advert is missing, doubled, unsigned or not on the roster, or too few platforms enrolled.
    """

    roster: Roster
    adverts: tuple[Advert, ...]

    def __post_init__(self) -> None:
        roster, names = self.roster, self.names
        if list(names) != sorted(set(names)):
            raise SecureSumError("enrolment: adverts must be in roster order, one a platform")
        for advert in self.adverts:
            check_advert(roster, advert)
        if len(names) < roster.fewest_survivors:
            raise SecureSumError(
                f"enrolment: {len(names)} platforms, while run {roster.run_id!r} needs at least "
                f"{roster.fewest_survivors}; start the run when more are there, or agree on a smaller roster"
            )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(advert.platform for advert in self.adverts)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that stand for the roster and every key."""
        return bind("transcript", self.roster.digest, *(advert_digest(self.roster, advert) for advert in self.adverts))

    def advert_of(self, name: str) -> Advert:
        for advert in self.adverts:
            if advert.platform == name:
                return advert
        raise SecureSumError(f"platform {name!r} did not enrol in run {self.roster.run_id!r}")

    def pair_mask(
        self, adder: str, other: str, round_index: int, *, context: bytes, secret: bytes, secret_of: str
    ) -> tuple[bytes, Sign]:
        """Key of the mask between two platforms in a round, and the sign with which ``adder`` adds it.

        ``secret`` is the mask secret of ``secret_of``, one of the two: a platform uses its own, while the aggregator
        takes a missing platform's masks out of the others' vectors with the missing one's. ``context`` is the digest of
        what the platforms were told in the round; the aggregator uses that of what it sent.
        """
        public = self.advert_of(other if secret_of == adder else adder).mask_keys[round_index]
        pair = (adder, other) if adder < other else (other, adder)
        key = pair_key(secret, public, transcript=self.digest, round_index=round_index, context=context, pair=pair)
        return key, 1 if adder < other else -1

    def survivors_digest(self, round_index: int, survivors: tuple[str, ...]) -> bytes:
        """Return what a platform signs when it accepts a survivor list."""
        return bind("survivors", self.digest, round_index.to_bytes(4, "big"), *(name.encode() for name in survivors))

    def check_survivors(self, survivors: tuple[str, ...]) -> None:
        """Refuse a list of which no sum may be revealed.

        Raises:
            SecureSumError: doubled, unsorted or foreign names, or fewer than P − r.
        """
        if list(survivors) != sorted(set(survivors)) or not set(survivors) <= set(self.names):
            raise SecureSumError("survivor list: names must be enrolled, unique and in roster order")
        if len(survivors) < self.roster.fewest_survivors:
            raise SecureSumError(
                f"survivor list: {len(survivors)} platforms, and no sum over fewer than {self.roster.fewest_survivors} "
                "is unmasked: it would carry less noise than promised; the round is given up"
            )

    def check_signatures(self, round_index: int, survivors: tuple[str, ...], signatures: Mapping[str, bytes]) -> None:
        """Refuse a list that fewer than ``threshold`` of its platforms have signed.

        Raises:
            SecureSumError: too few valid signatures for just this list.
        """
        digest = self.survivors_digest(round_index, survivors)
        signed = [
            name
            for name in survivors
            if name in signatures and signed_by(self.roster.identity_of(name), signatures[name], digest)
        ]
        if len(signed) < self.roster.threshold:
            raise SecureSumError(
                f"round {round_index}: {len(signed)} platforms signed this survivor list where {self.roster.threshold} "
                "must; the aggregator may have shown others another list"
            )


def advert_digest(roster: Roster, advert: Advert) -> bytes:
    """Return what a platform's identity signs in its advert."""
    keys = (advert.encryption_key, *advert.mask_keys, *advert.commitments)
    return bind("advert", roster.digest, advert.platform.encode(), *keys)


def make_advert(
    roster: Roster,
    platform: str,
    identity: PlatformIdentity,
    *,
    encryption_secret: bytes,
    mask_secrets: tuple[bytes, ...],
    self_secrets: tuple[bytes, ...],
) -> Advert:
    """The signed public half of a platform's secrets for a run."""
    unsigned = Advert(
        platform=platform,
        encryption_key=public_key(encryption_secret),
        mask_keys=tuple(public_key(secret) for secret in mask_secrets),
        commitments=tuple(commitment(secret) for secret in self_secrets),
        signature=bytes(64),
    )
    return unsigned.model_copy(update={"signature": identity.sign(advert_digest(roster, unsigned))})


def check_advert(roster: Roster, advert: Advert) -> None:
    """Refuse an advert that its platform's pinned identity did not sign for this roster.

    Raises:
        SecureSumError: forged, made for other terms, or without a key for every round.
    """
    commitments = len(roster.rounds) if roster.dropouts else 0
    if len(advert.mask_keys) != len(roster.rounds) or len(advert.commitments) != commitments:
        raise SecureSumError(f"advert of {advert.platform!r}: not one key a round")
    if not signed_by(roster.identity_of(advert.platform), advert.signature, advert_digest(roster, advert)):
        raise SecureSumError(
            f"advert of {advert.platform!r}: not signed by its identity key for this roster; the aggregator or the "
            "network may have replaced its keys, or that platform was given other terms"
        )


def commitment(secret: bytes) -> bytes:
    """Digest of a self-mask secret; hides it, because the secret has 256 random bits."""
    return hashlib.sha256(b"crossfed self-mask commitment" + secret).digest()
