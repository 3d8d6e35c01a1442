"""A race between settings of the factorisation, which platforms' validation users judge together, as a phase of a run.

Each step trains one setting for one round, with sums like those of ordinary rounds. What is kept between steps are scores
and factors, so that a run that is resumed goes on with the same race.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from common.config.federation import FederationPlan
from common.config.model import FactorizationConfig
from common.contributions.race_kind import RACE, stated
from server.aggregation.factors import StatisticsSum
from server.aggregation.halving import LONGEST, Scores, Sizes, Standing, standing, winner
from server.aggregation.phase import Phase, Question, Step
from server.federation.collect import Contribution
from server.federation.state import FederationState, ModelChoice, Trial, first_factors

_FACTORS = "factors_"


class RacePhase(Phase):
    """Trains settings side by side until one is chosen."""

    record = "race"
    repeats: ClassVar[bool] = True

    def due(self, state: FederationState, present: Collection[str]) -> bool:
        return state.choice is None

    def question(self, state: FederationState) -> Question:
        race = Race.of(self.plan, state)
        step = state.race_steps + 1
        return Question(
            server_round=0,
            number=step,
            config={"step": step, **stated(race.model)},
            arrays={"item_parameters": race.factors(state)},
        )

    def solve(self, state: FederationState, contributions: Iterable[Contribution]) -> Step:
        race = Race.of(self.plan, state)
        total = StatisticsSum(len(state.vocabulary), race.model.dimension)
        worth = np.zeros(3)
        platforms: list[str] = []
        for part in contributions:
            total.add(part.positions, part.arrays)
            worth += part.arrays["evaluation"]
            platforms += part.platforms
        if not platforms:
            return Step(state=state, platforms=())
        users = np.array([state.user_counts.get(name, 0.0) for name in platforms])
        before = race.factors(state)
        factors = total.solve(before, race.model, item_counts=state.item_counts, user_counts=users)
        # Recall says who is found, NDCG in which order; each by itself is led astray by chance more often.
        score = float(worth[:2].mean() / max(worth[2], 1.0))
        after = race.after_step(score, factors, validated=float(worth[2]))
        return Step(state=after.put(state), platforms=tuple(platforms))

    def worth_keeping(self, before: FederationState, after: FederationState) -> bool:
        # Once a setting has come to the end of its turn: steps are many, and asked again they are answered alike.
        return after.choice is not None or Race.of(self.plan, before).turn != Race.of(self.plan, after).turn

    def did(self, question: Question) -> str:
        return f"contributed to step {question.number} of the race between settings"


@dataclass(frozen=True, eq=False)
class Race:
    """Where a race stands, at a setting's turn or over.

    Attributes:
        plan: whose model is open.
        sizes: of the federation when the race began; validation users as of the first step.
        scores: float64 ``[k, n + 1]``, as :mod:`server.aggregation.halving` has them.
        trained: factors by number of the setting, float32 ``[m, d]``; of those that are left and have had a step.
    """

    plan: FederationPlan
    sizes: Sizes
    scores: Scores
    trained: Mapping[int, NDArray[np.float32]]

    @classmethod
    def of(cls, plan: FederationPlan, state: FederationState) -> Self:
        """As far as ``state`` has come; from the start where items have joined since."""
        kept = state.results.get(RACE, {})
        if any(len(array) != len(state.vocabulary) for name, array in kept.items() if name.startswith(_FACTORS)):
            kept = {}
        scores = kept.get("scores", np.zeros((0, min(plan.rounds, LONGEST) + 1)))
        trained = {int(name.removeprefix(_FACTORS)): kept[name] for name in kept if name.startswith(_FACTORS)}
        sizes = Sizes(*kept["sizes"].tolist()) if "sizes" in kept else _sizes_of(state)
        return cls(plan, sizes, scores, trained)._with_all_that_take_part()

    def _with_all_that_take_part(self) -> Self:
        known, scores = len(self.scores), self.scores
        wanted = len(self.standing.settings)
        blank = np.full((max(wanted - known, 0), scores.shape[1]), np.nan)
        return replace(self, scores=np.concatenate([scores, blank]))

    @cached_property
    def standing(self) -> Standing:
        """Who takes part so far, and whose turn it is."""
        return standing(self.plan.model, self.sizes, self.scores)

    @property
    def turn(self) -> int | None:
        """The setting whose step is next; None once the race is over."""
        return self.standing.turn

    @property
    def model(self) -> FactorizationConfig:
        """The setting whose step is next."""
        assert self.turn is not None, "the race is over"
        return self.standing.settings[self.turn]

    def factors(self, state: FederationState) -> NDArray[np.float32]:
        """Its factors, float32 ``[m, d]``: as trained, or the first ones, which are those of a plan that fixes the setting."""
        assert self.turn is not None, "the race is over"
        trained = self.trained.get(self.turn)
        return first_factors(len(state.vocabulary), self.plan.with_model(self.model)) if trained is None else trained

    def after_step(self, score: float, factors: NDArray[np.float32], *, validated: float) -> Self:
        """After the step of the setting whose turn it was: the score of the factors that it began with, and new ones."""
        turn, scores = self.turn, self.scores.copy()
        assert turn is not None, "the race is over"
        scores[turn, np.flatnonzero(np.isnan(scores[turn]))[0]] = score
        # Of the first step: who joined by that number must not leave again when a platform misses a later one.
        sizes = self.sizes if self.sizes.validated else self.sizes._replace(validated=validated)
        trained = {**self.trained, turn: factors}
        return replace(self, sizes=sizes, scores=scores, trained=trained)._with_all_that_take_part()

    def put(self, state: FederationState) -> FederationState:
        """``state`` with this race: what it needs to go on, or what it came to."""
        after = replace(state, race_steps=state.race_steps + 1)
        if self.turn is None:
            rest = {name: result for name, result in state.results.items() if name != RACE}
            chosen = self._choice()
            first = first_factors(len(state.vocabulary), self.plan.with_model(chosen.model))
            return replace(after, results=rest, choice=chosen, item_parameters=first)
        left = self.standing.left
        kept: dict[str, NDArray[Any]] = {f"{_FACTORS}{k}": self.trained[k] for k in left if k in self.trained}
        return replace(
            after, results={**state.results, RACE: {"scores": self.scores, "sizes": np.array(self.sizes), **kept}}
        )

    def _choice(self) -> ModelChoice:
        number, rounds = winner(self.scores)
        trials = tuple(
            Trial(model=model, scores=tuple(row[1:][~np.isnan(row[1:])].tolist()))
            for model, row in zip(self.standing.settings, self.scores, strict=True)
        )
        last = rounds == self.scores.shape[1] - 1
        return ModelChoice(
            model=self.standing.settings[number], rounds=self.plan.rounds if last else rounds, trials=trials
        )


def _sizes_of(state: FederationState) -> Sizes:
    """Means over all users, from counts, which are exact where there is a race."""
    users = np.array(state.users_by_platform())
    items = np.array([len(items) for items in state.vocabulary.owners.values()])
    total = max(float(users.sum()), 1.0)
    return Sizes(history=float(state.item_counts.sum()) / total, items=float(users @ items) / total, validated=0.0)
