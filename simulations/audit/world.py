"""The white-box canary world: one user more or less, everything else the same, and the shipped code in between.

A run is a whole private federation in small: counts, then T rounds of statistics, each from item factors that the
aggregator's own solve made of the releases before. The view is that of an aggregator that works with one platform: sums
less the colluder's share, and the open Gram matrix. The log-likelihood ratio of the two worlds under the *declared* noise
is computed release by release, given the history that was observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.contributions.factors import PrivateContributor
from client.contributions.membership import Membership
from client.data.dataset import ItemDescriptions, UserItemMatrix
from client.data.training import TrainingData
from common.catalogue import Vocabulary
from common.config.federation import FederationPlan
from common.contributions.factors import UserLevelMechanism
from common.contributions.kind import masked_name
from common.contributions.run_plan import RunPlan, read_plan
from common.privacy.contribution import PrivatizedContribution
from common.privacy.plan import GaussianNoise
from common.wire.exchange import AgentRequest, Arrays
from server.aggregation.private_factors import SharedGramAggregation
from server.federation.collect import Contribution
from server.federation.state import FederationState, fresh_state, with_vocabulary
from simulations.engine.datasets import undescribed_items, untested_platform

USERS, ITEMS, DIMENSION, ROUNDS = 20, 40, 4, 2
# Three platforms, one of which colludes: two shares of noise are left in what is seen.
PLATFORMS = 3


def audit_plan(epsilon: float, delta: float) -> FederationPlan:
    """A private plan at ``epsilon`` whose canary saturates every bound."""
    return read_plan(
        {
            "federation": "audit",
            "platforms": PLATFORMS,
            "rounds": ROUNDS,
            "model": {"dimension": DIMENSION, "regularization": 0.1, "init_scale": 1.0, "backend": "numba"},
            "privacy": {
                "mode": "user",
                "epsilon": epsilon,
                "delta": delta,
                "user_bound": int(1 / delta),
                "minimum_users": 1,
                "tuned_training": False,
                "clip_norm": 0.02,
                "weight_total": 20.0,
                "popularity_exponent": 0.0,
                "max_count_contribution": 20.0,
                "kept_items": ITEMS,
                "counts_share": 0.1,
                "gram_share": 0.05,
                "round_growth": 1.0,
            },
        }
    )


@dataclass(frozen=True, eq=False)
class Observation:
    """What one run showed.

    Attributes:
        ratio: log p(view | canary in) − log p(view | canary out), under the declared noise.
        residuals: standardised noise by release (release name → float64), under the world that was true.
    """

    ratio: float
    residuals: Mapping[str, NDArray[np.float64]]


class Noiseless(UserLevelMechanism):
    """The shipped sums before noise: what the likelihoods are centred at."""

    def _add_noise(self, sums: NDArray[np.int64], noise: GaussianNoise) -> NDArray[np.int64]:
        return sums


class CanaryWorld:
    """Runs federations with and without the canary.

    Args:
        plan: from :func:`audit_plan`.
        mechanism: the platform's, honest or faulty.
        companion: of the other honest platform, which has no users and adds its share of the noise.
        rng: of the users' histories and the first item factors; the noise has the operating system's.
    """

    def __init__(
        self,
        plan: FederationPlan,
        mechanism: UserLevelMechanism,
        companion: UserLevelMechanism,
        rng: np.random.Generator,
    ) -> None:
        self._plan = plan
        self._releases = RunPlan.of(plan).release_plan()
        without, with_canary = _histories(rng)
        oracle = _oracle(mechanism)(self._releases)
        self._worlds = [PrivateContributor(plan, data, mechanism) for data in (without, with_canary)]
        self._means = [PrivateContributor(plan, data, oracle) for data in (without, with_canary)]
        self._companion = PrivateContributor(plan, _empty(), companion)
        self._membership = _membership()
        self._aggregation = SharedGramAggregation(plan)
        vocabulary = Vocabulary(_digests(), {"target": np.arange(ITEMS, dtype=np.int32)})
        self._start = with_vocabulary(fresh_state("audit", plan.row), vocabulary, plan)

    def run(self, *, canary: bool) -> Observation:
        """One federation in the world with or without the canary."""
        state = self._start
        ratio, residuals = 0.0, dict[str, NDArray[np.float64]]()
        for server_round in range(self._plan.server_rounds + 1):
            request = self._request(server_round, state)
            view = _sum(
                _make(self._worlds[canary], request, self._membership), self._companion, request, self._membership
            )
            means = [_make(world, request, self._membership).arrays for world in self._means]
            for name, seen in view.items():
                noise = self._noise(server_round, name)
                sigma = noise.sigma / noise.grid_step
                out, within = means[0][name], means[1][name]
                ratio += float((np.square(seen - out) - np.square(seen - within)).sum()) / (2 * sigma**2)
                residuals[f"{name} {server_round}"] = ((seen - means[canary][name]) / sigma).ravel()
            state = self._advance(state, view, server_round)
        return Observation(ratio, residuals)

    def _request(self, server_round: int, state: FederationState) -> AgentRequest:
        arrays: Arrays = {"item_parameters": state.item_parameters, "item_counts": state.item_counts}
        kind = masked_name("statistics" if server_round else "counts")
        return AgentRequest(kind=kind, run_id="audit", server_round=server_round, arrays=arrays)

    def _advance(
        self, state: FederationState, view: Mapping[str, NDArray[np.float64]], server_round: int
    ) -> FederationState:
        """The aggregator's own step on what was seen."""
        everything = np.arange(ITEMS, dtype=np.int32)
        part = Contribution(("target",), everything, {name: array.astype(np.int64) for name, array in view.items()})
        if server_round == 0:
            return self._aggregation.count(state, [part])
        solved = self._aggregation.solve(state, [part])
        return FederationState(
            run_id=state.run_id,
            server_round=server_round,
            vocabulary=state.vocabulary,
            item_parameters=solved.item_parameters,
            item_counts=state.item_counts,
            user_counts=state.user_counts,
        )

    def _noise(self, server_round: int, name: str) -> GaussianNoise:
        if server_round == 0:
            return self._releases.counts
        part = self._releases.rounds[server_round - 1]
        return part.item_vectors if name == "item_vectors" else part.user_gram


def _oracle(mechanism: UserLevelMechanism) -> type[UserLevelMechanism]:
    """The same class without noise: a faulty clip is as faulty in the means."""
    return type("Noiseless", (Noiseless, type(mechanism)), {})


def _make(contributor: PrivateContributor, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
    make = contributor.statistics if request.server_round else contributor.counts
    return make(request, membership)


def _sum(
    target: PrivatizedContribution, companion: PrivateContributor, request: AgentRequest, membership: Membership
) -> dict[str, NDArray[np.float64]]:
    """What is seen: masked arrays as sums with the companion's share, open ones as they are."""
    other = _make(companion, request, membership)
    return {
        name: (array + other.arrays[name] if name in target.masked else array).astype(np.float64)
        for name, array in target.arrays.items()
    }


def _histories(rng: np.random.Generator) -> tuple[TrainingData, TrainingData]:
    """Twenty users with a few items each; and the same with a canary who has every item."""
    rows = [np.sort(rng.choice(ITEMS, size=int(rng.integers(3, 12)), replace=False)) for _ in range(USERS)]
    return _training(rows), _training([*rows, np.arange(ITEMS)])


def _empty() -> TrainingData:
    """A platform whose one user has nothing: it contributes noise and one to the number of users."""
    return _training([np.zeros(0, dtype=np.int64)])


def _training(rows: list[NDArray[np.int64]]) -> TrainingData:
    lengths = [len(row) for row in rows]
    items = np.concatenate(rows)
    matrix = UserItemMatrix.from_entries(
        np.repeat(np.arange(len(rows)), lengths),
        items,
        np.ones(len(items)),
        np.arange(len(items)),
        n_users=len(rows),
        n_items=ITEMS,
    )
    names = tuple(f"audit:{item}" for item in range(ITEMS))
    return untested_platform("target", matrix, undescribed_items(names), "made for the audit").training


def _digests() -> NDArray[np.uint8]:
    digests = np.zeros((ITEMS, 32), dtype=np.uint8)
    digests[:, 0] = np.arange(ITEMS)
    return digests


def _membership() -> Membership:
    names = tuple(f"audit:{item}" for item in range(ITEMS))
    everything = np.arange(ITEMS, dtype=np.int32)
    described = ItemDescriptions(keys=names, titles=names, genres=((),) * ITEMS)
    return Membership(
        platforms=("target",),
        owners=np.ones((ITEMS, 1), dtype=bool),
        vocabulary=described,
        cards=described,
        own_positions=everything,
        shared_positions=everything,
        digest=bytes(32),
    )
