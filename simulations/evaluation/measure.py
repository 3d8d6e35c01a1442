"""Measures finished platforms on what no agent has seen: test interactions, and interactions with hidden items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice, halve_per_user
from client.data.training import TrainingData
from client.personalization.platform_model import (
    ForeignScorer,
    PlatformModel,
    foreign_items,
    log_popularity,
    on_vocabulary,
)
from client.scoring.blend import Blend
from client.scoring.evaluation import PerUserMetrics, evaluate, evaluate_ratings, gap_closed
from client.scoring.factors import FactorModel, FactorPart, shared_on_own, shared_on_vocabulary
from client.scoring.fold_in import Recency
from client.scoring.linear_form import LinearScope
from client.scoring.part import Part
from client.scoring.scorer import PopularityScorer, Scorer
from common.catalogue import FederationSecret, Vocabulary
from common.config.federation import FederationPlan
from common.metrics import METRICS, paired_bootstrap, rating_intervals, summarise
from server.federation.state import FederationState
from simulations.engine.datasets import HiddenItems, SimulatedPlatform
from simulations.evaluation.groups import beyond_accuracy, group_blocks
from simulations.evaluation.paired import Measured
from simulations.evaluation.pooled import PlatformMatrix, train_pooled, without_privacy
from simulations.scenarios.scenario import Scenario

Block = dict[str, Any]
FIGURE_OF_MERIT = "recall@20"


@dataclass(frozen=True, eq=False)
class Evaluator:
    """How a scenario measures: protocol, and where the bootstrap's randomness comes from.

    Attributes:
        scenario: names protocol and seed.
    """

    scenario: Scenario

    @property
    def seed(self) -> tuple[int, int]:
        """Of resamples and negatives: the same for every scorer, so that differences are not differences of luck."""
        return self.scenario.seed, 20

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def per_user(
        self,
        scorer: Scorer,
        held_out: EvaluationSlice,
        candidates: NDArray[np.bool_] | None = None,
        metrics: Sequence[str] = METRICS,
    ) -> PerUserMetrics:
        """Every metric, unless some are named, of every user who has something to find."""
        protocol = self.scenario.protocol if candidates is None else "full"
        return evaluate(scorer, held_out, metrics=metrics, candidates=candidates, protocol=protocol, rng=self._rng())

    def block(self, measured: PerUserMetrics) -> Block:
        """Means and 95 % intervals: the ``M`` of result.json."""
        return dict(summarise(measured.values, self._rng()))

    def ratings(self, scorer: Scorer, held_out: EvaluationSlice) -> Block:
        """RMSE and MAE of predicted ratings, and their 95 % intervals as ``ci95``."""
        errors = evaluate_ratings(scorer, held_out)
        intervals = rating_intervals(errors.squared, errors.absolute, errors.ratings, self._rng())
        return {"rmse": errors.rmse, "mae": errors.mae, "ci95": intervals}

    def difference(self, final: PerUserMetrics, local: PerUserMetrics) -> Block:
        """Paired bootstrap of final − local for each metric: ``[mean, lower, upper]``; None where nobody is measured."""
        if len(final.users) == 0:
            return dict.fromkeys(final.values)
        intervals = {
            name: paired_bootstrap(final.values[name], local.values[name], self._rng()) for name in final.values
        }
        return {name: [part.mean, part.lower, part.upper] for name, part in intervals.items()}


def measure_own(
    evaluator: Evaluator, platform: SimulatedPlatform, model: PlatformModel, kept: Measured | None = None
) -> Block:
    """Own items on the test slice: popularity, local, shared, final; and final against local, user by user."""
    scorers = {
        "popularity": model.own_popularity(),
        "local": model.own_scorer("local"),
        "shared": model.own_scorer("shared"),
        "final": model.own_scorer(),
    }
    measured = {name: evaluator.per_user(scorer, platform.test) for name, scorer in scorers.items()}
    if kept is not None:
        kept.keep(platform.name, "own", measured)
    blocks = {name: evaluator.block(one) for name, one in measured.items()}
    if model.shared.config.feedback == "explicit":
        for name in ("local", "shared", "final"):
            blocks[name] = _with_ratings(blocks[name], evaluator.ratings(scorers[name], platform.test))
    counts = model.histories.item_counts()
    for name, one in measured.items():
        blocks[name] |= beyond_accuracy(one, counts, model.histories.n_users)
    blocks["groups"] = group_blocks(measured, platform.test, counts, evaluator.seed)
    return blocks | {"final_minus_local": evaluator.difference(measured["final"], measured["local"])}


def measure_pooled(
    evaluator: Evaluator,
    platform: SimulatedPlatform,
    pooled: FederationState,
    plan: FederationPlan,
    secret: FederationSecret,
    recency: Recency | None,
) -> Block:
    """Own items on the test slice, by factors trained with everybody's data in one place; users folded in by ``recency``."""
    factors = replace(shared_model(pooled, plan), recency=recency)
    scorer = shared_on_own(factors, positions_of(platform.training, pooled.vocabulary, secret))
    block = evaluator.block(evaluator.per_user(scorer, platform.test))
    if plan.model.feedback == "explicit":
        return _with_ratings(block, evaluator.ratings(scorer, platform.test))
    return block


def _with_ratings(block: Block, ratings: Block) -> Block:
    return {**block, **ratings, "ci95": block["ci95"] | ratings["ci95"]}


@dataclass(frozen=True, eq=False)
class CrossPlatformTask:
    """Where a platform's cross-platform recommendations are measured: everything in columns of the vocabulary.

    Attributes:
        platform: whose users.
        own_positions: int32 ``[m_own]``.
        foreign: bool ``[m]``: the items that the platform does not have.
        candidates: bool ``[m]``: the hidden items, which are ranked. Of other foreign items the truth is not known: users
            who would have wanted one had no way to say so.
        foreign_popularity: float64 ``[m]``: popularity on the other platforms.
        population: about how many users all platforms have.
        histories: n × m; what the platform knows of its users.
        truth: n × m; what they did with items that the platform does not have.
    """

    platform: SimulatedPlatform
    own_positions: NDArray[np.int32]
    foreign: NDArray[np.bool_]
    candidates: NDArray[np.bool_]
    foreign_popularity: NDArray[np.float64]
    population: float
    histories: UserItemMatrix
    truth: UserItemMatrix

    @classmethod
    def of(
        cls,
        platform: SimulatedPlatform,
        hidden: HiddenItems,
        state: FederationState,
        secret: FederationSecret,
    ) -> CrossPlatformTask:
        """Lay out ``hidden`` over the vocabulary of a trained federation."""
        vocabulary, training = state.vocabulary, platform.training
        own = positions_of(training, vocabulary, secret)
        positions = lookup(hidden.keys, vocabulary, secret)
        candidates = ~foreign_items(positions, len(vocabulary))
        return cls(
            platform=platform,
            own_positions=own,
            foreign=foreign_items(own, len(vocabulary)),
            candidates=candidates,
            foreign_popularity=state.item_counts,
            population=sum(state.users_by_platform()),
            histories=on_vocabulary(training.known, own, len(vocabulary)),
            truth=on_vocabulary(hidden.interactions, positions, len(vocabulary)),
        )

    def slice_of(self, truth: UserItemMatrix) -> EvaluationSlice:
        """``truth`` to be found from unchanged histories."""
        return EvaluationSlice(np.flatnonzero(truth.row_lengths).astype(np.int64), self.histories, truth)

    def shared(self, model: FactorModel) -> FactorPart:
        return shared_on_vocabulary(model, self.own_positions)

    def blended(self, model: FactorModel, blend: Blend, popularity: NDArray[np.float64]) -> Scorer:
        """The scorer that the platform would have of ``blend``; ``popularity`` elsewhere is for one with a β."""
        kept = {part.name: part for part in blend.parts}
        parts = [(kept.get(name) or self.shared(model), weight) for name, weight in blend.weights.items()]
        return self.scorer(parts, popularity, blend.beta)

    def scorer(
        self, parts: Sequence[tuple[Part, float]], popularity: NDArray[np.float64], beta: float | None
    ) -> Scorer:
        """Parts over the vocabulary with their weights, and popularity, as the engine puts them together."""
        positions = np.flatnonzero(self.foreign)
        scope = LinearScope(
            [part.at(positions) for part, _ in parts],
            [weight for _, weight in parts],
            None if beta is None else log_popularity(popularity[positions]),
            beta or 0.0,
        )
        return ForeignScorer(scope, positions, len(self.foreign))


def measure_cross(
    evaluator: Evaluator,
    task: CrossPlatformTask,
    model: FactorModel,
    final: Scorer,
    ceiling: FactorModel | None,
    scored_half: UserItemMatrix | None,
    kept: Measured | None = None,
) -> Block:
    """Hidden items alone: foreign popularity, shared, final; and against the ceiling on one half of the truth."""
    scorers: dict[str, Scorer] = {
        "popularity": PopularityScorer(task.foreign_popularity),
        "shared": task.shared(model),
        "final": final,
    }
    held_out = task.slice_of(task.truth)
    measured = {name: evaluator.per_user(scorer, held_out, task.candidates) for name, scorer in scorers.items()}
    if kept is not None:
        kept.keep(task.platform.name, "cross", measured)
    blocks: Block = {
        name: evaluator.block(one) | beyond_accuracy(one, task.foreign_popularity, task.population, task.candidates)
        for name, one in measured.items()
    }
    blocks |= {"ceiling": None, "gap_closed": None}
    blocks["groups"] = group_blocks(measured, held_out, task.foreign_popularity, evaluator.seed, task.candidates)
    if ceiling is not None and scored_half is not None:
        half = task.slice_of(scored_half)
        on_half = {
            name: evaluator.block(evaluator.per_user(scorer, half, task.candidates))
            for name, scorer in (scorers | {"ceiling": task.shared(ceiling)}).items()
        }
        blocks["ceiling"] = on_half["ceiling"]
        merits = {name: block[FIGURE_OF_MERIT] for name, block in on_half.items()}
        blocks["on_ceiling_half"] = merits
        blocks["gap_closed"] = gap_closed(merits["final"], merits["popularity"], merits["ceiling"])
    return blocks


def measure_shared(evaluator: Evaluator, task: CrossPlatformTask, model: FactorModel) -> Block:
    """Hidden items alone, by shared factors alone."""
    return evaluator.block(evaluator.per_user(task.shared(model), task.slice_of(task.truth), task.candidates))


def train_ceiling(
    platforms: list[SimulatedPlatform],
    task: CrossPlatformTask,
    state: FederationState,
    scenario: Scenario,
    secret: FederationSecret,
) -> tuple[FactorModel, UserItemMatrix]:
    """Factors of a federation in which the platform had half of its hidden interactions itself, and the other half.

    The half that it is given changes the item factors only: histories stay as they are.
    """
    given, scored = halve_per_user(task.truth, np.random.default_rng([scenario.seed, 21]))
    pool = {platform.name: PlatformMatrix.of(platform.training) for platform in platforms}
    name = task.platform.name
    # Vocabulary positions in place of keys: the hidden items that some other platform has.
    hidden_positions = np.unique(task.truth.indices)
    known = lookup(task.platform.hidden.keys, state.vocabulary, secret)  # type: ignore[union-attr]
    key_of = dict(zip(known.tolist(), task.platform.hidden.keys, strict=True))  # type: ignore[union-attr]
    own = pool[name]
    pool[name] = PlatformMatrix(
        (*own.keys, *(key_of[position] for position in hidden_positions)),
        side_by_side(own.matrix, given.select_items(hidden_positions)),
    )
    plan = without_privacy(scenario.plan)
    return shared_model(train_pooled(pool, plan, secret), plan), scored


def shared_model(state: FederationState, plan: FederationPlan) -> FactorModel:
    """The shared factors of a state as platforms hold them."""
    config = state.plan_of(plan).serving
    return FactorModel(item_parameters=state.item_parameters, config=config, value_mean=state.value_mean)


def positions_of(training: TrainingData, vocabulary: Vocabulary, secret: FederationSecret) -> NDArray[np.int32]:
    """int32 ``[m_own]``: position of each own item, −1 where nobody shares it."""
    return lookup(training.items.keys, vocabulary, secret)


def lookup(keys: tuple[str, ...], vocabulary: Vocabulary, secret: FederationSecret) -> NDArray[np.int32]:
    """int32: position of each key, −1 where nobody shares it."""
    place: Mapping[bytes, int] = {row.tobytes(): position for position, row in enumerate(vocabulary.digests)}
    return np.array([place.get(row.tobytes(), -1) for row in secret.digests(keys)], dtype=np.int32)


def side_by_side(left: UserItemMatrix, right: UserItemMatrix) -> UserItemMatrix:
    """The columns of ``right`` behind those of ``left``, for the same users."""
    return UserItemMatrix.from_entries(
        np.concatenate([left.entry_users(), right.entry_users()]),
        np.concatenate([left.indices, right.indices + left.n_items]),
        np.concatenate([left.values, right.values]),
        np.concatenate([left.times, right.times]),
        n_users=left.n_users,
        n_items=left.n_items + right.n_items,
    )
