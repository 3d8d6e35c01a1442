"""Adds up the entries of a platform's ledger, run by run and in all (the rules are in :mod:`client.privacy.budget`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from client.privacy.budget import Plan, is_subsampled, mu_squared, releases_from_json
from common.errors import BudgetExceededError
from common.privacy.contribution import Release
from common.privacy.gdp import epsilon_from_mu
from common.privacy.lifetime import ROUNDING, Amounts, BudgetPolicy
from common.sealed.log import Entry


@dataclass(frozen=True)
class Charge:
    """One entry of the ledger: the releases of one contribution. ``time`` is informative: entries order by number.

    ``vocabulary`` is the digest, in hex, of the vocabulary that the contribution rests on; None of an older version's.
    """

    sequence: int
    server_round: int
    releases: tuple[Release, ...]
    request_digest: str
    mac: str
    time: str
    vocabulary: str | None = None

    @property
    def mu(self) -> float:
        return math.sqrt(mu_squared(self.releases))


@dataclass
class RunAccount:
    """Holds what one run has planned and spent."""

    run_id: str
    plan: Plan
    charges: list[Charge] = field(default_factory=list)
    closed: bool = False
    finish: str | None = None
    """Digest of the request that finished it; None where it did not end that way."""
    forfeited: bool = False
    """Closed by a restore: what it might have spent after the restored copy was made counts as spent."""
    returned: bool = False
    """Closed because another run joined before this one had released anything; it may join again."""

    @property
    def unused(self) -> bool:
        """Open, and nothing was released under it: what it has reserved goes to the next run that joins."""
        return not (self.closed or self.charges)

    @property
    def vocabulary(self) -> str | None:
        """The digest of the vocabulary that its releases rest on; None where nothing was released, or no digest was kept."""
        return next((charge.vocabulary for charge in self.charges if charge.vocabulary is not None), None)

    @property
    def releases(self) -> list[Release]:
        return [release for charge in self.charges for release in charge.releases]

    @property
    def spent_mu_squared(self) -> float:
        return mu_squared(self.releases)

    @property
    def committed_mu_squared(self) -> float:
        """Spent, plus what is still reserved while the run goes on."""
        if self.closed and not self.forfeited:
            return self.spent_mu_squared
        return max(self.spent_mu_squared, mu_squared(self.plan.releases))

    @property
    def holds(self) -> bool:
        """Whether closing it would give something back."""
        whole = self.plan.subsampled is not None and not any(map(is_subsampled, self.releases))
        return not self.closed and (whole or self.committed_mu_squared > self.spent_mu_squared * ROUNDING)

    @property
    def committed_subsampled(self) -> tuple[float, float]:
        reserved = self.plan.subsampled
        unused = self.closed and not self.forfeited and not any(map(is_subsampled, self.releases))
        return (0.0, 0.0) if reserved is None or unused else (reserved.epsilon, reserved.delta)

    @property
    def unbounded(self) -> bool:
        return any(release.mechanism == "none" for release in self.releases)

    def check_fits(self, releases: Sequence[Release]) -> None:
        """Raises BudgetExceededError: the run's own budget does not cover ``releases`` on top of what it has spent."""
        reserved, own = self.plan.subsampled, self.plan.epsilon
        if reserved and own and (reserved.epsilon > own * ROUNDING or reserved.delta > self.plan.delta * ROUNDING):
            raise BudgetExceededError(
                f"run {self.run_id!r} reserves epsilon = {reserved.epsilon:.4g}, delta = {reserved.delta:.4g} for its "
                f"subsampled releases, more than its own {own:.4g}, {self.plan.delta:.4g}"
            )
        if any(r.mechanism == "none" for r in releases) and not any(r.mechanism == "none" for r in self.plan.releases):
            raise BudgetExceededError(
                f"run {self.run_id!r} planned private releases only; one without noise is refused"
            )
        wanted = self.spent_mu_squared + mu_squared(releases)
        if wanted > self.plan.mu_squared_limit * ROUNDING:
            limit = math.sqrt(self.plan.mu_squared_limit)
            raise BudgetExceededError(
                f"run {self.run_id!r} would reach mu = {math.sqrt(wanted):.4g}, its own budget ends at {limit:.4g}: "
                "plan fewer rounds or more noise, or raise privacy.epsilon"
            )
        planned, used = _subsampled_steps(self.plan.releases), _subsampled_steps([*self.releases, *releases])
        if any(steps > planned[mechanism] for mechanism, steps in used.items()):
            raise BudgetExceededError(
                f"run {self.run_id!r} would take more subsampled steps than the sub-budget it reserved was computed for"
            )


class Account:
    """The sum of all entries of a ledger; built by replaying them in order."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.policy = BudgetPolicy(epsilon=None, delta=0.5)
        self.runs: dict[str, RunAccount] = {}
        self.lost = dict.fromkeys(("mu_squared", "subsampled_epsilon", "subsampled_delta", "unbounded"), 0.0)
        for entry in entries:
            self._replay(entry)

    def _replay(self, entry: Entry) -> None:
        content = entry.content
        match content["event"]:
            case "opened" | "policy":
                self.policy = BudgetPolicy(**content["policy"])
            case "reserved":
                # One that had been given back joins again, with nothing to its name.
                self.runs.pop(content["run_id"], None)
                self.runs[content["run_id"]] = RunAccount(content["run_id"], Plan.from_json(content["plan"]))
            case "charged":
                self.runs[content["run_id"]].charges.append(charge_of(entry))
            case "closed":
                run = self.runs[content["run_id"]]
                run.closed, run.returned, run.finish = True, False, content.get("finish")
            case "returned":
                run = self.runs[content["run_id"]]
                run.closed = run.returned = True
            case "restored":
                self.lost = {name: self.lost[name] + content["lost"].get(name, 0.0) for name in self.lost}
                self.forfeit_open_runs()

    def forfeit_open_runs(self) -> None:
        """Close every open run and count what it had reserved as spent."""
        for run in self.runs.values():
            run.forfeited = run.forfeited or not run.closed
            run.closed, run.returned = True, False

    @property
    def unbounded(self) -> bool:
        return self.lost["unbounded"] > 0 or any(run.unbounded for run in self.runs.values())

    def totals(self) -> dict[str, float]:
        """Return what is spent or reserved, by name; an upper bound of what has left the platform."""
        return self._total_of(self.runs.values())

    def left(self) -> Amounts:
        """Return what the next run that joins finds: reservations under which nothing was released are given back by then."""
        limit, spent = self.policy.limit, self._total_of(run for run in self.runs.values() if not run.unused)
        if self.policy.epsilon is not None and self.unbounded:
            return Amounts(0.0, 0.0, 0.0)
        return Amounts(
            max(0.0, limit.mu_squared - spent["mu_squared"]),
            max(0.0, limit.subsampled_epsilon - spent["subsampled_epsilon"]),
            max(0.0, limit.subsampled_delta - spent["subsampled_delta"]),
        )

    def _total_of(self, runs: Iterable[RunAccount]) -> dict[str, float]:
        counted = list(runs)
        subsampled = [run.committed_subsampled for run in counted]
        spent = {
            "mu_squared": math.fsum(run.committed_mu_squared for run in counted),
            "subsampled_epsilon": math.fsum(epsilon for epsilon, _ in subsampled),
            "subsampled_delta": math.fsum(delta for _, delta in subsampled),
            "unbounded": float(any(run.unbounded for run in counted)),
        }
        return {name: value + self.lost[name] for name, value in spent.items()}

    def check_lifetime(self, releases: Sequence[Release], run_id: str) -> None:
        """Raises BudgetExceededError: the totals, ``releases`` being their newest part, exceed the lifetime budget."""
        if self.policy.epsilon is None:
            return
        if self.unbounded or any(release.mechanism == "none" for release in releases):
            raise BudgetExceededError(
                f"run {run_id!r}: this platform's data was or would be released without privacy, which no finite "
                "privacy.budget covers"
            )
        totals, limit = self.totals(), self.policy.limit
        if totals["mu_squared"] > limit.mu_squared * ROUNDING:
            needed = epsilon_from_mu(math.sqrt(totals["mu_squared"]), self.policy.gaussian_delta)
            raise self._exceeded(
                run_id,
                f"mu = {math.sqrt(totals['mu_squared']):.4g}, and the lifetime budget of ε = {self.policy.epsilon:g} ends "
                f"at {self.policy.mu:.4g}",
                f"raise budget to ε = {_rounded_up(needed / (1 - self.policy.subsampled_share))} at least",
            )
        if totals["subsampled_epsilon"] > limit.subsampled_epsilon * ROUNDING:
            raise self._exceeded(
                run_id,
                f"subsampled_epsilon = {totals['subsampled_epsilon']:.4g}, and the deep model's part of the lifetime budget "
                f"of ε = {self.policy.epsilon:g} ends at {limit.subsampled_epsilon:.4g}",
                f"raise budget to ε = {_rounded_up(totals['subsampled_epsilon'] / self.policy.subsampled_share)} at least"
                if self.policy.subsampled_share > 0
                else "this plan keeps no part for a federated deep model, on which earlier runs have spent; a split of the "
                "budget cannot be changed after that: go on with towers.place: federation and its share",
            )
        if totals["subsampled_delta"] > limit.subsampled_delta * ROUNDING:
            raise self._exceeded(
                run_id,
                f"subsampled_delta = {totals['subsampled_delta']:.4g}, and the deep model's part of the lifetime δ ends at "
                f"{limit.subsampled_delta:.4g}",
                "agree with all platforms on a larger plan.privacy.budget_delta",
            )

    def _exceeded(self, run_id: str, reached: str, mend: str) -> BudgetExceededError:
        """The refusal of a run, with the runs that hold what it would need."""
        holders = [run.run_id for run in self.runs.values() if run.run_id != run_id and run.holds]
        closing = "".join(
            f"run {holder!r} holds a reservation for releases that it has not made: if it will not go on, "
            f"`crossfed-client privacy close {holder}` gives that back; "
            for holder in holders
        )
        return BudgetExceededError(
            f"run {run_id!r} would bring this platform to {reached}: {closing}{'or ' if closing else ''}{mend}, or plan "
            "smaller runs (`crossfed-client privacy` shows what is spent and how many runs are left)"
        )


def _rounded_up(epsilon: float) -> str:
    return f"{math.ceil(epsilon * 100 - 1e-6) / 100:g}"


def charge_of(entry: Entry) -> Charge:
    content = entry.content
    return Charge(
        entry.sequence,
        content["round"],
        releases_from_json(content["releases"]),
        content["request_digest"],
        entry.mac,
        content["time"],
        content.get("vocabulary"),
    )


def _subsampled_steps(releases: Iterable[Release]) -> Counter[tuple[float, float]]:
    steps: Counter[tuple[float, float]] = Counter()
    for release in releases:
        if is_subsampled(release):
            steps[release.noise_multiplier, release.sampling_rate] += release.steps
    return steps
