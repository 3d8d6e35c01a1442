"""Counting, and the factorisation's rounds, as phases of a run."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.config.federation import FederationPlan
from common.contributions.factor_kinds import PARAMETERS_WITHOUT, parts_are_seen
from common.contributions.kind import ContributionKind
from common.wire.exchange import Arrays
from server.aggregation.leave_out import KeptParts, parameters_without, with_counts, with_parameters
from server.aggregation.phase import Phase, Question, Step
from server.aggregation.private_factors import make_aggregation
from server.aggregation.stopping import factors_settled, factors_will_settle
from server.federation.collect import Contribution
from server.federation.state import FederationState


class CountsPhase(Phase):
    """Sums the platforms' item counts: once a run, and again when a platform has joined it later."""

    record = None

    def due(self, state: FederationState, present: Collection[str]) -> bool:
        # Under privacy the plan fixes who takes part, and a second count would be a second release.
        newcomers = not (self.plan.private or state.user_counts.keys() >= set(present))
        return not state.user_counts or newcomers

    def question(self, state: FederationState) -> Question:
        return Question(server_round=0)

    def solve(self, state: FederationState, contributions: Iterable[Contribution]) -> Step:
        platforms: set[str] = set()
        kept = KeptParts()

        def noted() -> Iterable[Contribution]:
            for part in kept.passing(contributions):
                platforms.update(part.platforms)
                yield part

        aggregation = make_aggregation(self.plan)
        counted = aggregation.count(state, noted())
        # Items are chosen by counts, so that what was gathered before other platforms joined is out of date.
        counted = replace(counted, linear=None, results={})
        if parts_are_seen(self.plan):
            counts = {name: aggregation.counts_of(part.arrays) for name, part in kept.by_platform.items()}
            counted = with_counts(counted, counts)
        return Step(state=counted, platforms=tuple(sorted(platforms)))

    def did(self, question: Question) -> str:
        return "sent their counts"


class StatisticsPhase(Phase):
    """Item parameters out; each platform's statistics back and into a sum as they arrive; solved."""

    record = "factors"

    def __init__(self, kind: ContributionKind, plan: FederationPlan) -> None:
        super().__init__(kind, plan)
        self._aggregation = make_aggregation(plan)

    def describe(self, features: NDArray[np.float64]) -> None:
        self._aggregation.describe(features)

    def due(self, state: FederationState, present: Collection[str]) -> bool:
        return not factors_settled(self.plan, state)

    def question(self, state: FederationState) -> Question:
        return Question(server_round=state.server_round + 1, config=state.stated_model(), arrays=self.final(state))

    def solve(self, state: FederationState, contributions: Iterable[Contribution]) -> Step:
        # A model that was left open is known by now; only exact sums leave it open.
        aggregation = self._aggregation if state.choice is None else make_aggregation(state.plan_of(self.plan))
        solved = aggregation.solve(state, contributions)
        after = replace(state, server_round=state.server_round + 1, item_parameters=solved.item_parameters)
        if parts_are_seen(self.plan) and factors_will_settle(self.plan, state, solved.objective, solved.platforms):
            after = with_parameters(after, solved.without())
        return Step(state=after, platforms=solved.platforms, objective=solved.objective, recall=solved.recall)

    def did(self, question: Question) -> str:
        return f"contributed to round {question.server_round}"

    def final(self, state: FederationState) -> Arrays:
        return {"item_parameters": state.item_parameters, "item_counts": state.item_counts}

    def final_for(self, state: FederationState, platform: str) -> Arrays:
        without = parameters_without(state, platform)
        return {} if without is None else {PARAMETERS_WITHOUT: without}
