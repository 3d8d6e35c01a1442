"""The exact audit of the path: what one person's presence changes in all that leaves a platform, from files to bytes.

Noise is replayed, so that it is the same with and without the person and cancels in the difference, which is then exactly
the person's quantised contribution. For every kind of contribution:

- its L2 norm over everything the person touches is at most the sensitivity that was paid for;
- it is the same among quite other people, to the bit: nobody else's contribution depends on the person, nor it on theirs;
- everything else that leaves (answers without data, codes, forms, number of messages, charges) is the same.

The person's rows are written as strangers write them: one id in several spellings, values that are none, feedback that was
recorded besides (:mod:`simulations.audit.audited.files`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from client.data.dataset import UserItemMatrix
from common.config.federation import FederationPlan
from common.contributions.run_plan import RunPlan
from common.privacy.secure_sum import PlatformIdentity
from simulations.audit.audited.files import PERSON, Person, population, write_files
from simulations.audit.audited.platforms import (
    PLATFORMS,
    SHARE_STEPS,
    TARGET,
    Audited,
    ReplayedNoise,
    audited_platform,
    make_identities,
    partner,
)
from simulations.audit.audited.protocol import ByHand, Transcript
from simulations.audit.statistics.checks import Check, exact

NoisePlacement = Literal["secure_sum", "per_platform"]
USERS, OTHER_USERS = 20, 9
_ROUNDING = 1e-9


@dataclass(eq=False)
class World:
    """One platform as its files have it, with whom it takes part in a federation.

    Attributes:
        plan: the federation's.
        target: the platform.
        partners: the others, under secure summation.
    """

    plan: FederationPlan
    target: Audited
    partners: Mapping[str, Audited]

    @classmethod
    def of(
        cls, folder: Path, plan: FederationPlan, people: Sequence[Person], identities: dict[str, PlatformIdentity]
    ) -> World:
        """Write the platform's files into ``folder`` and read them."""
        write_files(folder, people)
        target = audited_platform(folder, plan, identities)
        others = [name for name in PLATFORMS if name != TARGET] if plan.secure_sum else []
        return cls(plan, target, {name: partner(name, folder / name, plan, identities) for name in others})

    def by_hand(self, run_id: str) -> ByHand:
        """An aggregator for a new run, with noise that is the same in every world."""
        noise = {name: ReplayedNoise(place) for place, name in enumerate(PLATFORMS)}
        for name, platform in {**self.partners, TARGET: self.target}.items():
            platform.take_noise_from(noise[name])
        return ByHand(self.plan, self.target, self.partners, run_id=run_id, noise=noise)

    def joined(self, run_id: str) -> ByHand:
        """A new run that the platforms have joined; noise comes from the production source."""
        run = ByHand(self.plan, self.target, self.partners, run_id=run_id)
        run.join()
        return run

    def whole_run(self, run_id: str) -> Transcript:
        """All that is paid for, once."""
        run = self.by_hand(run_id)
        run.join()
        run.gather()
        return run.transcript

    def rows_of_others(self) -> dict[str, bytes]:
        """Return what is trained on and what is held back of everybody but the audited person, however the id is written."""
        data = self.target.data
        parts = (data.train, data.validation.history, data.validation.truth)
        return {
            user: b"|".join(_row(part, row) for part in parts)
            for row, user in enumerate(data.user_ids)
            if user.strip() != PERSON
        }


@dataclass(eq=False)
class Findings:
    """Holds what comparing worlds found.

    Attributes:
        checks: in order.
        taken: by name of release, the largest share of the sensitivity paid for that any person's contribution took.
    """

    checks: list[Check] = field(default_factory=list)
    taken: dict[str, float] = field(default_factory=dict)


def compare_neighbours(folder: Path, plan: FederationPlan, canaries: Mapping[str, Person]) -> Findings:
    """Run the path with and without each of ``canaries``, among two quite different sets of people."""
    identities = make_identities(folder / "identities")
    placement = plan.privacy.noise
    among = {"many": population(1, USERS), "few": population(2, OTHER_USERS)}
    without = {name: World.of(folder / f"without-{name}", plan, people, identities) for name, people in among.items()}
    runs = {name: world.whole_run("audit") for name, world in without.items()}
    control = World.of(folder / "control", plan, among["many"], identities).whole_run("audit")
    fresh = fresh_arrays(runs["many"], control)
    findings = Findings()
    for number, (canary, person) in enumerate(canaries.items()):
        title = f"{placement}, {canary}"
        joined = {
            name: World.of(folder / f"with-{name}-{number}", plan, [*people[:3], person, *people[3:]], identities)
            for name, people in among.items()
        }
        found = {name: world.whole_run("audit") for name, world in joined.items()}
        findings.checks += [
            exact(f"others' rows: {title}", _changed_rows(without["many"], joined["many"], title)),
            exact(f"answers: {title}", _first(title, differences(runs["many"], found["many"], fresh))),
            exact(f"sensitivity: {title}", _first(title, _excesses(plan, runs["many"], found["many"], findings.taken))),
            exact(f"independence: {title}", _first(title, _dependences(runs, found))),
        ]
    return findings


def fresh_arrays(one: Transcript, again: Transcript) -> set[tuple[str, str]]:
    """Arrays (request, name) that differ between two runs of one world, of which the form alone can be compared: keys,
    nonces, masks.
    """
    return {
        (answer.label, name)
        for answer, other in zip(one.answers, again.answers, strict=True)
        for name, array in answer.reply.arrays.items()
        if not np.array_equal(array, other.reply.arrays[name])
    }


def differences(without: Transcript, joined: Transcript, fresh: set[tuple[str, str]]) -> Iterator[str]:
    """How the answers of two worlds differ in more than the values of contributions and of ``fresh`` arrays."""
    if len(without.answers) != len(joined.answers):
        yield f"{len(without.answers)} answers without the person and {len(joined.answers)} with"
    for one, other in zip(without.answers, joined.answers, strict=False):
        forms = [{name: (array.dtype, array.shape) for name, array in a.reply.arrays.items()} for a in (one, other)]
        if one.reply.code != other.reply.code:
            yield f"{one.label}: answered {one.reply.code} without the person and {other.reply.code} with"
        elif one.paid != other.paid or one.reply.config != other.reply.config or forms[0] != forms[1]:
            yield f"{one.label}: charged otherwise, or of another form, without the person than with"
        elif not one.is_contribution:
            for name, array in one.reply.arrays.items():
                if (one.label, name) not in fresh and not np.array_equal(array, other.reply.arrays[name]):
                    yield f"{one.label}: {name} is another without the person than with, and holds no noise"


def _excesses(plan: FederationPlan, without: Transcript, joined: Transcript, taken: dict[str, float]) -> Iterator[str]:
    """Releases that the person changed by more than was paid for; notes in ``taken`` how much of it each took."""
    shares = RunPlan.of(plan).release_plan().counts.shares
    for name in without.released.keys() & joined.released.keys():
        paid = joined.paid_for(name)
        if paid is None or paid.noise_multiplier <= 0:
            yield f"{name} left and was not charged"
            continue
        of = 1 if name.startswith("user_gram") else shares
        sensitivity = SHARE_STEPS * np.sqrt(of) / paid.noise_multiplier
        changed = np.linalg.norm((joined.released[name] - without.released[name]).astype(np.float64))
        share = float(changed / sensitivity)
        kind = name.partition(" ")[0]
        taken[kind] = max(share, taken.get(kind, 0.0))
        if share > 1 + _ROUNDING:
            yield f"{name}: one person changed it by {share:.3g} times the sensitivity that was paid for"


def _dependences(without: Mapping[str, Transcript], joined: Mapping[str, Transcript]) -> Iterator[str]:
    """Releases in which a person's contribution depends on who else is there."""
    many, few = (
        {
            name: joined[among].released[name] - array
            for name, array in without[among].released.items()
            if name in joined[among].released
        }
        for among in ("many", "few")
    )
    for name in many.keys() & few.keys():
        if not np.array_equal(many[name], few[name]):
            yield f"{name}: what one person changes depends on who else is there"


def _changed_rows(without: World, joined: World, title: str) -> str:
    before, after = without.rows_of_others(), joined.rows_of_others()
    changed = sum(after.get(user) != row for user, row in before.items()) + len(after.keys() - before.keys())
    if not changed:
        return ""
    return (
        f"{title}: one person's presence changed what is trained on or held back of {changed} of {len(before)} others"
    )


def _row(matrix: UserItemMatrix, row: int) -> bytes:
    part = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return matrix.indices[part].tobytes() + matrix.values[part].tobytes() + matrix.times[part].tobytes()


def _first(title: str, problems: Iterator[str]) -> str:
    """The first of ``problems`` and how many there are; empty without one."""
    found = list(problems)
    if not found:
        return ""
    return f"{title}: {found[0]}" + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
