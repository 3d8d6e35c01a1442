"""What the entries of a platform's ledger add up to, run by run and in all (the rules are in :mod:`client.budget`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from client.budget import ROUNDING, BudgetPolicy, Plan, is_subsampled, mu_squared, releases_from_json
from client.sealed_log import Entry
from common.errors import BudgetExceededError
from common.privacy.contribution import Release


@dataclass(frozen=True)
class Charge:
    """One entry of the ledger: the releases of one contribution. ``time`` is informative: entries order by number."""

    sequence: int
    server_round: int
    releases: tuple[Release, ...]
    request_digest: str
    mac: str
    time: str

    @property
    def mu(self) -> float:
        return math.sqrt(mu_squared(self.releases))


@dataclass
class RunAccount:
    """What one run has planned and spent."""

    run_id: str
    plan: Plan
    charges: list[Charge] = field(default_factory=list)
    closed: bool = False
    finish: str | None = None
    """Digest of the request that finished it; None where it did not end that way."""
    forfeited: bool = False
    """Closed by a restore: what it might have spent after the restored copy was made counts as spent."""

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
                self.runs[content["run_id"]] = RunAccount(content["run_id"], Plan.from_json(content["plan"]))
            case "charged":
                self.runs[content["run_id"]].charges.append(charge_of(entry))
            case "closed":
                run = self.runs[content["run_id"]]
                run.closed, run.finish = True, content.get("finish")
            case "restored":
                self.lost = {name: self.lost[name] + content["lost"].get(name, 0.0) for name in self.lost}
                self.forfeit_open_runs()

    def forfeit_open_runs(self) -> None:
        """Close every open run and count what it had reserved as spent."""
        for run in self.runs.values():
            run.forfeited = run.forfeited or not run.closed
            run.closed = True

    @property
    def unbounded(self) -> bool:
        return self.lost["unbounded"] > 0 or any(run.unbounded for run in self.runs.values())

    def totals(self) -> dict[str, float]:
        """What is spent or reserved, by name; an upper bound of what has left the platform."""
        subsampled = [run.committed_subsampled for run in self.runs.values()]
        spent = {
            "mu_squared": math.fsum(run.committed_mu_squared for run in self.runs.values()),
            "subsampled_epsilon": math.fsum(epsilon for epsilon, _ in subsampled),
            "subsampled_delta": math.fsum(delta for _, delta in subsampled),
            "unbounded": float(any(run.unbounded for run in self.runs.values())),
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
        totals = self.totals()
        if totals["mu_squared"] > self.policy.mu**2 * ROUNDING:
            raise BudgetExceededError(
                f"run {run_id!r} would bring this platform to mu = {math.sqrt(totals['mu_squared']):.4g}; its lifetime "
                f"budget ends at {self.policy.mu:.4g} (epsilon = {self.policy.epsilon:g}): plan fewer rounds or more "
                "noise, or raise privacy.budget"
            )
        for name, limit in zip(("subsampled_epsilon", "subsampled_delta"), self.policy.subsampled, strict=True):
            if totals[name] > limit * ROUNDING:
                raise BudgetExceededError(
                    f"run {run_id!r} would bring this platform's {name} to {totals[name]:.4g}, its limit is "
                    f"{limit:.4g}: plan fewer steps, or raise privacy.budget or its subsampled_share"
                )


def charge_of(entry: Entry) -> Charge:
    content = entry.content
    return Charge(
        entry.sequence,
        content["round"],
        releases_from_json(content["releases"]),
        content["request_digest"],
        entry.mac,
        content["time"],
    )


def _subsampled_steps(releases: Iterable[Release]) -> Counter[tuple[float, float]]:
    steps: Counter[tuple[float, float]] = Counter()
    for release in releases:
        if is_subsampled(release):
            steps[release.noise_multiplier, release.sampling_rate] += release.steps
    return steps
