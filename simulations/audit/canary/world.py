"""The white-box canary world: one person more or less in the files, everything else the same, shipped code in between.

A run is a whole private federation in small: counts, item-item statistics, then T rounds of statistics, each from item
factors that the aggregator's own solve made of the releases before. What a platform contributes is made by an agent that
read its files as a deployed one does; that just this leaves it is checked elsewhere (:mod:`simulations.audit.path.neighbours`).
The view is that of an aggregator that works with one platform: sums less the colluder's share, and the open Gram matrix. The
log-likelihood ratio of the two worlds under the *declared* noise is computed release by release, given the history that was
observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.contributions.membership import Membership
from common.config.federation import FederationPlan
from common.contributions.run_plan import RunPlan
from common.privacy.contribution import PrivatizedContribution
from common.privacy.plan import GaussianNoise
from common.wire.exchange import AgentRequest, Arrays
from server.aggregation.private_factors import SharedGramAggregation
from server.federation.collect import Contribution
from server.federation.state import FederationState, fresh_state, with_vocabulary
from simulations.audit.audited.files import population, saturating
from simulations.audit.audited.platforms import COMPANION, TARGET, Audited, make_identities, without_noise
from simulations.audit.path.neighbours import USERS, World

Sums = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Observation:
    """Holds what one run showed.

    Attributes:
        ratio: log p(view | canary in) − log p(view | canary out), under the declared noise.
        residuals: standardised noise by release (release name → float64), under the world that was true.
    """

    ratio: float
    residuals: Mapping[str, NDArray[np.float64]]


class CanaryWorld:
    """Runs federations with and without the canary, who has every item.

    Args:
        folder: for the files of both worlds.
        plan: with masked sums and without a deep model.
        seed: of the people and the first item factors; the noise has the operating system's.
    """

    def __init__(self, folder: Path, plan: FederationPlan, seed: int) -> None:
        self._plan, self._releases = plan, RunPlan.of(plan).release_plan()
        identities = make_identities(folder / "identities")
        people = population(seed, USERS)
        self._worlds: list[Audited] = []
        for name, present in (("without", people), ("with", [*people[:3], saturating(), *people[3:]])):
            world = World.of(folder / name, plan, present, identities)
            self._worlds.append(world.target)
            run = world.joined("audit")
        self._companion = world.partners[COMPANION]
        self._membership, self._companions_place = run.membership, run.membership_of(COMPANION)
        self._aggregation = SharedGramAggregation(plan)
        self._start = with_vocabulary(fresh_state("audit", plan.row), run.vocabulary, plan)
        self._kept: dict[tuple[int, str], Sums] = {}

    def run(self, *, canary: bool) -> Observation:
        """One federation in the world with or without the canary."""
        state = self._start
        ratio, residuals = 0.0, dict[str, NDArray[np.float64]]()
        for kind, server_round in self._script():
            request = self._request(kind, server_round, state)
            view = self._view(canary, request)
            means = [self._mean(world, request) for world in (0, 1)]
            for name, seen in view.items():
                noise = self._noise(server_round, name)
                sigma = noise.sigma / noise.grid_step
                out, within = means[0][name], means[1][name]
                ratio += float((np.square(seen - out) - np.square(seen - within)).sum()) / (2 * sigma**2)
                residuals[f"{name} {server_round}"] = ((seen - means[canary][name]) / sigma).ravel()
            state = self._advance(state, view, kind, server_round)
        return Observation(ratio, residuals)

    def _script(self) -> list[tuple[str, int]]:
        rounds = range(1, self._plan.server_rounds + 1)
        return [("counts", 0), ("cooccurrence", 0), *(("statistics", server_round) for server_round in rounds)]

    def _request(self, kind: str, server_round: int, state: FederationState) -> AgentRequest:
        arrays: Arrays = {"item_parameters": state.item_parameters, "item_counts": state.item_counts}
        return AgentRequest(kind=f"masked_{kind}", run_id="audit", server_round=server_round, arrays=arrays)

    def _view(self, canary: bool, request: AgentRequest) -> Sums:
        """Return what is seen: masked arrays as sums with the companion's, open ones as they are."""
        target = _made(self._worlds[canary], request, self._membership)
        other = _made(self._companion, request, self._companions_place)
        return {
            name: (array + other.arrays[name] if name in target.masked else array).astype(np.float64)
            for name, array in target.arrays.items()
        }

    def _mean(self, world: int, request: AgentRequest) -> Sums:
        """Return what would be seen in ``world`` without noise. Counts do not depend on what was released before."""
        if request.kind == "masked_counts" and (world, request.kind) in self._kept:
            return self._kept[world, request.kind]
        with without_noise():
            target = _made(self._worlds[world], request, self._membership)
            other = self._companions_sums(request)
        means = {
            name: (array + other[name] if name in target.masked else array).astype(np.float64)
            for name, array in target.arrays.items()
        }
        self._kept[world, request.kind] = means
        return means

    def _companions_sums(self, request: AgentRequest) -> Sums:
        """The companion's user has no items, so that its sums are always the same."""
        key = (-1, request.kind)
        if key not in self._kept:
            made = _made(self._companion, request, self._companions_place)
            self._kept[key] = {name: array.astype(np.float64) for name, array in made.arrays.items()}
        return self._kept[key]

    def _advance(self, state: FederationState, view: Sums, kind: str, server_round: int) -> FederationState:
        """The aggregator's own step on what was seen."""
        if kind == "cooccurrence":
            return state
        everything = np.arange(len(state.vocabulary), dtype=np.int32)
        part = Contribution((TARGET,), everything, {name: array.astype(np.int64) for name, array in view.items()})
        if kind == "counts":
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
            return self._releases.counts if name == "counts" else RunPlan.of(self._plan).item_item_noise()
        part = self._releases.rounds[server_round - 1]
        return part.item_vectors if name == "item_vectors" else part.user_gram


def _made(platform: Audited, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
    return platform.contributors[request.kind].make(request, membership)
