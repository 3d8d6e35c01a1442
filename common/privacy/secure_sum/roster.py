"""Who takes part in a run's secure sums, on which terms, and what a platform demands of those terms."""

from __future__ import annotations

import math
import struct
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.config.base import FrozenModel
from common.errors import SecureSumError
from common.privacy.secure_sum.identity import fingerprint
from common.privacy.secure_sum.masks import bind
from common.privacy.secure_sum.ring import RingConfig
from common.privacy.secure_sum.wire import Message, WireModel

MINIMUM_PLATFORMS = 3
"""With two platforms each learns the other's part from the sum."""


def check_terms(platforms: int, *, colluders: int, dropouts: int) -> None:
    """Refuse numbers of which no roster could be made, before there is one.

    Raises:
        SecureSumError: a sum could give a platform away, or could not be unmasked.
    """
    _check_number(platforms)
    threshold = smallest_threshold(platforms, colluders)
    if threshold > platforms - dropouts:
        raise SecureSumError(
            f"privacy.dropouts: {dropouts} of {platforms} platforms with {colluders} colluders; a secure sum then stands at "
            f"most {most_dropouts(platforms, colluders)}"
        )
    _check_sharers(platforms, colluders, dropouts)


def smallest_threshold(platforms: int, colluders: int) -> int:
    """Fewest platforms that must help to unmask, so that no two lists of survivors can both be answered."""
    return (platforms + colluders) // 2 + 1


def _check_number(platforms: int) -> None:
    if platforms < MINIMUM_PLATFORMS:
        raise SecureSumError(
            f"roster.members: {platforms} platforms, but a secure sum needs at least {MINIMUM_PLATFORMS}: with two "
            "each learns the other's part; set privacy.noise to per_platform"
        )


def _check_sharers(platforms: int, colluders: int, dropouts: int) -> None:
    if platforms - colluders - dropouts < 2:
        raise SecureSumError(
            f"roster: {platforms} platforms less {colluders} colluders and {dropouts} dropouts leave a sum over one honest "
            "platform, which hides nothing; lower colluders or dropouts"
        )


class RoundSpec(WireModel):
    """One round of summation: what is summed, in which ring, with how much noise."""

    label: Annotated[str, Field(min_length=1, max_length=64)]
    ring: RingConfig
    noise_std: Annotated[float, Field(ge=0)]
    """Least standard deviation of the noise share that each platform has added to its values, in grid units. 0 only
    under ``mode: none``."""


class Member(WireModel):
    """A platform and its identity key."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    identity: Annotated[bytes, Field(min_length=32, max_length=32)]
    """Ed25519 public key."""


class Roster(Message):
    """The terms of one run. Each platform's advert signs ``digest``, so that all that enrol have signed the same terms.

    Raises:
        SecureSumError: terms under which a sum could give a platform away.
    """

    kind: Literal["roster"] = "roster"
    run_id: Annotated[str, Field(min_length=1, max_length=128)]
    members: tuple[Member, ...]
    """In order of name."""
    threshold: int
    """Platforms that must help to unmask a round."""
    colluders: Annotated[int, Field(ge=1)]
    """c: platforms that may work with the aggregator. At least 1: every platform knows its own share."""
    dropouts: Annotated[int, Field(ge=0)]
    """r: platforms whose masked vector may be missing from a round."""
    rounds: Annotated[tuple[RoundSpec, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _terms_are_safe(self) -> Roster:
        names, platforms = [member.name for member in self.members], len(self.members)
        if names != sorted(set(names)) or len({member.identity for member in self.members}) < platforms:
            raise SecureSumError("roster.members: names must be sorted and unique, and no identity key may serve two")
        _check_number(platforms)
        if 2 * self.threshold <= platforms + self.colluders or self.threshold > platforms - self.dropouts:
            raise SecureSumError(
                f"roster.threshold: {self.threshold} with {platforms} platforms, {self.colluders} colluders and "
                f"{self.dropouts} dropouts; it must be more than half of platforms + colluders and at most platforms − "
                f"dropouts, so lower colluders or dropouts (to {most_dropouts(platforms, self.colluders)} at most)"
            )
        _check_sharers(platforms, self.colluders, self.dropouts)
        for spec in self.rounds:
            spec.ring.check_platforms(platforms)
        return self

    @classmethod
    def agree(
        cls, *, run_id: str, identities: dict[str, bytes], colluders: int, dropouts: int, rounds: tuple[RoundSpec, ...]
    ) -> Roster:
        """The roster of platforms ``identities`` (name to public key) with the smallest safe threshold."""
        members = tuple(Member(name=name, identity=identities[name]) for name in sorted(identities))
        threshold = smallest_threshold(len(members), colluders)
        return cls(
            run_id=run_id,
            members=members,
            threshold=threshold,
            colluders=colluders,
            dropouts=dropouts,
            rounds=rounds,
        )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    @property
    def noise_sharers(self) -> int:
        """P − c − r: each platform adds noise of standard deviation σ/√(this), and any sum that is revealed carries at
        least σ after the colluders' shares are taken away.
        """
        return len(self.members) - self.colluders - self.dropouts

    @property
    def fewest_survivors(self) -> int:
        """P − r: a sum over fewer platforms is never unmasked."""
        return len(self.members) - self.dropouts

    @property
    def digest(self) -> bytes:
        """32 bytes that stand for every field."""
        members = (part for member in self.members for part in (member.name.encode(), member.identity))
        terms = struct.pack(">4q", len(self.members), self.threshold, self.colluders, self.dropouts)
        rounds = (
            part
            for spec in self.rounds
            for part in (
                spec.label.encode(),
                struct.pack(">2qd", spec.ring.bits, spec.ring.max_abs_per_platform, spec.noise_std),
            )
        )
        return bind("roster", self.run_id.encode(), terms, *members, *rounds)

    def identity_of(self, name: str) -> bytes:
        """The public key of a platform.

        Raises:
            SecureSumError: it is not on the roster.
        """
        for member in self.members:
            if member.name == name:
                return member.identity
        raise SecureSumError(f"platform {name!r} is not on the roster of run {self.run_id!r}")

    def position(self, name: str) -> int:
        """1 for the first platform: also the point at which its Shamir shares are taken."""
        self.identity_of(name)
        return 1 + self.names.index(name)

    def describe(self) -> str:
        """The terms in words, for the log at start-up and the privacy card."""
        platforms = len(self.members)
        if self.dropouts == 0:
            losses = (
                "no dropout is tolerated: a round waits for every platform or is given up; "
                "2 messages a platform to enrol, 1 a round"
            )
        else:
            losses = (
                f"up to {self.dropouts} may be missing from a round and {self.threshold} must help to unmask it; "
                "3 messages a platform to enrol, 2 a round, 3 when one is missing"
            )
        return (
            f"secure sum of {platforms} platforms: {losses}. The aggregator and up to {self.colluders} platforms "
            f"together learn only sums over at least {self.noise_sharers} others; each platform adds noise of standard "
            f"deviation sigma/sqrt({self.noise_sharers})."
        )


def most_dropouts(platforms: int, colluders: int) -> int:
    """The largest r for which a threshold exists: 2·threshold > P + c and threshold ≤ P − r."""
    return max(0, (platforms - colluders - 1) // 2)


class RosterPolicy(FrozenModel):
    """Holds what a platform's own configuration demands of a roster. Nothing in it comes from the aggregator."""

    fingerprints: dict[str, str]
    """Each platform's name and the fingerprint that was compared out of band."""
    colluders: Annotated[int, Field(ge=1)] = 1
    """The roster must count at least so many."""
    dropouts: Annotated[int, Field(ge=0)] = 0
    """The roster must tolerate at most so many."""
    minimum_platforms: Annotated[int, Field(ge=MINIMUM_PLATFORMS)] = MINIMUM_PLATFORMS
    rounds: tuple[RoundSpec, ...]
    """The rounds as this platform computes them from its own configuration."""

    def check(self, roster: Roster) -> None:
        """Refuse a roster that this platform has not agreed to.

        Raises:
            SecureSumError: names the field at fault.
        """
        for member in roster.members:
            if self.fingerprints.get(member.name) != fingerprint(member.identity):
                raise SecureSumError(
                    f"roster: the identity key of {member.name!r} is not the pinned one; compare fingerprints with "
                    "that platform by telephone, not through the aggregator, before changing the configuration"
                )
        if len(roster.members) < self.minimum_platforms:
            raise SecureSumError(
                f"roster: {len(roster.members)} platforms, and this platform's configuration asks for at least "
                f"{self.minimum_platforms}"
            )
        if roster.colluders < self.colluders or roster.dropouts > self.dropouts:
            raise SecureSumError(
                f"roster: {roster.colluders} colluders and {roster.dropouts} dropouts, while this platform's "
                f"configuration asks for at least {self.colluders} and at most {self.dropouts}"
            )
        if len(roster.rounds) != len(self.rounds):
            raise SecureSumError(f"roster.rounds: {len(roster.rounds)}, while this platform expects {len(self.rounds)}")
        for index, (theirs, ours) in enumerate(zip(roster.rounds, self.rounds, strict=True)):
            # Platforms compute these from the same numbers, but on different machines: logarithms may differ in an ulp.
            same_noise = math.isclose(theirs.noise_std, ours.noise_std, rel_tol=1e-9)
            same_bound = math.isclose(theirs.ring.max_abs_per_platform, ours.ring.max_abs_per_platform, rel_tol=1e-9)
            if theirs.label != ours.label or theirs.ring.bits != ours.ring.bits or not (same_noise and same_bound):
                raise SecureSumError(
                    f"roster.rounds[{index}]: label, ring or noise differ from this platform's own configuration"
                )
