"""The canary test of the deep model: noisy sums of sampled users' clipped gradients, from files to releases.

The attacker is stronger than any that exists: he knows which of the others took part in a round, and subtracts their
gradients. Of the canary he knows the gradient and the probability q of taking part, so that a round's likelihood ratio is
1 − q + q·exp(ℓ) with ℓ the log-likelihood ratio of the Gaussian. Gradients are computed once for each user and round, with
that user alone drawn; that they are the same in company is checked exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config.federation import FederationPlan
from common.contributions.run_plan import RunPlan
from common.privacy.accounting import subsampled_epsilon
from common.wire.exchange import AgentRequest, Arrays
from simulations.audit.audited.files import PERSON, population, saturating
from simulations.audit.audited.plan import audit_plan
from simulations.audit.audited.platforms import Audited, Draws, audit_folder, make_identities, without_noise
from simulations.audit.path.neighbours import USERS, World
from simulations.audit.statistics.checks import Check, exact, noise_p_value
from simulations.audit.statistics.separation import CanaryReport, Separation, canary_checks, threshold_bound

_KS_RUNS = 400
_NEVER = np.uint64(2**64 - 1)
_LARGEST_MULTIPLIER = 100.0


class DeepWorld:
    """One platform with a deep model: its users' gradients, and sums of them as they are released.

    Args:
        world: the platform, joined.
        requests: one for each round.
    """

    def __init__(self, world: World, requests: Sequence[AgentRequest], membership: Any) -> None:
        self._platform, self._requests, self._membership = world.target, requests, membership
        self.draws = Draws(world.target.own_noise)
        world.target.take_noise_from(self.draws)
        self.users = world.target.data.user_ids
        with without_noise():
            self.gradients = [self._of_each(number) for number in range(len(requests))]
            self.together = [self.sums(number, np.zeros(len(self.users), np.uint64)) for number in range(len(requests))]
        _towers(self._platform)["_computer"] = requests[0].run_id, _Remembered(self._platform, requests)

    def sums(self, number: int, words: NDArray[np.uint64] | None = None) -> NDArray[np.int64]:
        """One round's release, int64 ``[n]``; ``words`` decide who takes part, the production generator's unless given."""
        self.draws.restart(words)
        made = self._platform.contributors["update"].make(self._requests[number], self._membership)
        return made.arrays["update"].astype(np.int64, copy=False)

    def _of_each(self, number: int) -> NDArray[np.int64]:
        """int64 ``[users, n]``: the sum with each user alone."""
        rows = []
        for user in range(len(self.users)):
            words = np.full(len(self.users), _NEVER)
            words[user] = 0
            rows.append(self.sums(number, words))
        return np.stack(rows)


def _towers(platform: Audited) -> dict[str, Any]:
    """The attributes of what makes the platform's updates."""
    towers: dict[str, Any] = vars(vars(platform.contributors["update"])["_towers"])
    return towers


class _Remembered:
    """Gradients as the platform's own computer makes them, each made once."""

    def __init__(self, platform: Audited, requests: Sequence[AgentRequest]) -> None:
        _, computer = _towers(platform)["_computer"]
        plan = platform.agent.plan
        self._rows: dict[tuple[int, ...], list[Any]] = {}
        for request in requests:
            computer.load(request.arrays)
            seed = (plan.seed, request.server_round)
            self._rows[seed] = [
                next(computer.gradients(np.array([user]), public_seed=seed))
                for user in range(len(platform.data.user_ids))
            ]

    def load(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """The rounds' weights are those that the gradients were made at."""

    def gradients(self, users: NDArray[np.int64], *, public_seed: Sequence[int]) -> Iterator[Any]:
        rows = self._rows[tuple(public_seed)]
        return iter([rows[user] for user in users])


@dataclass(frozen=True, eq=False)
class _Seen:
    """Of all runs in one world: float64 ``[runs]`` ratios, ``[k]`` Gaussian ratios of single rounds, noise by round."""

    ratios: NDArray[np.float64]
    of_rounds: NDArray[np.float64]
    residuals: list[NDArray[np.float64]]
    products: NDArray[np.float64]


def deep_test(epsilon: float, *, delta: float = 1e-3, runs: int = 20_000, seed: int = 0) -> CanaryReport:
    """Run the deep model's rounds ``runs`` times in each world.

    Args:
        epsilon: of the whole run, of which the deep model has its share.
        delta: of the whole run, likewise.
        runs: in each world.
        seed: of the histories; noise takes no seed.
    """
    plan = audit_plan(epsilon, delta, noise="per_platform", deep=True)
    with audit_folder() as folder:
        without, joined = _worlds(folder, plan, seed)
        checks = _exact_checks(plan, without, joined)
        canary = joined.users.index(PERSON)
        canarys = [rows[canary].astype(np.float64) for rows in joined.gradients]
        seen = [_observe(plan, world, canarys, place, runs) for world, place in ((without, None), (joined, canary))]
    return _report(plan, seen, checks)


def _worlds(folder: Path, plan: FederationPlan, seed: int) -> tuple[DeepWorld, DeepWorld]:
    identities = make_identities(folder / "identities")
    people = population(seed, USERS)
    made = []
    for name, present in (("without", people), ("with", [*people[:3], saturating(), *people[3:]])):
        world = World.of(folder / name, plan, present, identities)
        run = world.joined("audit")
        arrays: Arrays = run.tower_parameters()
        assert plan.towers is not None
        requests = [
            AgentRequest(kind="update", run_id="audit", server_round=plan.server_rounds + number, arrays=arrays)
            for number in range(1, plan.towers.training.rounds + 1)
        ]
        made.append(DeepWorld(world, requests, run.membership))
    return made[0], made[1]


def _exact_checks(plan: FederationPlan, without: DeepWorld, joined: DeepWorld) -> list[Check]:
    others = [joined.users.index(user) for user in without.users]
    same = all(
        np.array_equal(mine, theirs[others]) for mine, theirs in zip(without.gradients, joined.gradients, strict=True)
    )
    summed = all(
        np.array_equal(rows.sum(axis=0), all_of_them)
        for world in (without, joined)
        for rows, all_of_them in zip(world.gradients, world.together, strict=True)
    )
    # The last word that draws a user at rate q, and the first that does not.
    threshold = np.uint64(int(RunPlan.of(plan).update_plan().sampling_rate * 2.0**64))
    words = np.full(len(joined.users), _NEVER)
    place, rows = joined.users.index(PERSON), joined.gradients[0]
    with without_noise():
        words[place] = threshold - np.uint64(1)
        drawn = joined.sums(0, words)
        words[place] = threshold
        left_out = joined.sums(0, words)
    rate = np.array_equal(drawn, rows[place]) and not left_out.any()
    return [
        exact("deep: others", "" if same else "deep: one person's presence changed others' gradients"),
        exact("deep: company", "" if summed else "deep: a user's gradient depends on who else takes part"),
        exact("deep: sampling", "" if rate else "deep: users do not take part at the declared sampling rate"),
    ]


def _observe(
    plan: FederationPlan, world: DeepWorld, canarys: list[NDArray[np.float64]], place: int | None, runs: int
) -> _Seen:
    updates = RunPlan.of(plan).update_plan()
    sigma, rate = updates.noise.sigma / updates.noise.grid_step, updates.sampling_rate
    threshold = np.uint64(int(rate * 2.0**64))
    ratios, of_rounds, residuals, products = np.zeros(runs), [], [], np.zeros(2)
    for run in range(runs):
        noises = []
        for number, gradient in enumerate(canarys):
            seen = world.sums(number)
            drawn = world.draws.seen < threshold
            there = place is not None and bool(drawn[place])
            if place is not None:
                drawn[place] = False
            rest = seen - world.gradients[number][drawn].sum(axis=0)
            ratio = float(2 * (rest @ gradient) - gradient @ gradient) / (2 * sigma**2)
            ratios[run] += np.log1p(rate * np.expm1(ratio))
            if there or place is None:
                of_rounds.append(ratio)
            noises.append((rest - gradient * there) / sigma)
        products += [float(noises[0] @ noises[1]), len(noises[0])]
        if run < _KS_RUNS:
            residuals += noises
    return _Seen(ratios, np.array(of_rounds), residuals, products)


def _report(plan: FederationPlan, seen: list[_Seen], exact_checks: list[Check]) -> CanaryReport:
    updates = RunPlan.of(plan).update_plan()
    separation = Separation.of(seen[0].of_rounds, seen[1].of_rounds)
    ratios = np.stack([part.ratios for part in seen])
    residuals = np.concatenate([noise for part in seen for noise in part.residuals])
    products = seen[0].products + seen[1].products
    correlation = float(products[0] / np.sqrt(products[1]))
    lower = max(_epsilon(plan, separation.lower), threshold_bound(ratios, updates.delta))
    separated = separation.p_value(1 / updates.noise.noise_multiplier)
    return CanaryReport(
        epsilon_claimed=updates.epsilon,
        delta=updates.delta,
        runs=ratios.shape[1],
        mu_hat=separation.mu_hat,
        epsilon_hat=_epsilon(plan, separation.mu_hat),
        epsilon_lower=lower,
        ks_pvalue=noise_p_value(residuals),
        round_correlation=correlation,
        checks=(
            *exact_checks,
            *canary_checks("deep", updates.epsilon, updates.delta, separated, lower, ratios, residuals, correlation),
        ),
    )


def _epsilon(plan: FederationPlan, mu: float) -> float:
    """ε of the deep model's rounds if one round with the canary in it had this separation."""
    updates = RunPlan.of(plan).update_plan()
    if mu <= 1 / _LARGEST_MULTIPLIER:
        return 0.0
    return subsampled_epsilon(1 / mu, updates.sampling_rate, updates.rounds, updates.delta)
