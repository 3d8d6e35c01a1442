"""Honest tuning of the local and the anchored model: the same search, the same budget, validation users only.

Candidates are drawn at random, trained side by side and halved by their validation score as training goes on
(Jamieson & Talwalkar 2016, successive halving), so that good ones are trained longest; the number of sweeps is tuned
on the way. A last part of the budget looks around the best one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from client.training.als import rating_sum_and_count
from client.training.anchored import anchor_and_start, anchored_trainer
from client.training.factory import make_trainer
from client.training.fit import sweep
from common.config.model import AnchoredConfig, FactorizationConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.data.dataset import UserItemMatrix
    from client.training.trainer import Anchor, Trainer

Score = Callable[["NDArray[np.float32]", "NDArray[np.float32]"], float]
"""Quality on validation users, the higher the better: (user factors ``[n, p]``, item factors ``[m, p]``) → score, where
dot products of the two are the predictions."""

_RUNGS = (4, 8, 16)
"""Sweeps after which the worse half of the candidates is dropped; sooner, slow starters with a high λ would lose."""


@dataclass(frozen=True)
class SearchSpace:
    """Where candidates are drawn from; pairs are ranges (log-uniform), longer tuples are choices.

    Attributes:
        dimensions: d of a local model; an anchored one has that of the shared factors.
        ridge: the mean user's λ_u; λ follows from it and ν, so that the two can be drawn independently.
        unobserved_weight: α₀.
        exponents: ν.
        recency_boosts: β; several only where what comes next is predicted and histories are in order of time.
        recency_spans: τ.
        firmness: λ_a/λ of an anchored model.
        free_dimensions: of an anchored model.
    """

    dimensions: tuple[int, ...] = (8, 16, 32, 64, 128)
    ridge: tuple[float, float] = (0.3, 100.0)
    unobserved_weight: tuple[float, float] = (0.02, 1.5)
    exponents: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    recency_boosts: tuple[float, ...] = (0.0,)
    recency_spans: tuple[float, ...] = (10.0,)
    firmness: tuple[float, float] = (0.1, 30.0)
    free_dimensions: tuple[int, ...] = (0, 8, 16, 32, 64)


@dataclass(frozen=True)
class Tuned:
    """The outcome of a search.

    Attributes:
        config: the best candidate, with its number of iterations.
        score: its validation score.
        trials: (candidate at the number of iterations it was scored at, score), in the order of scoring.
    """

    config: FactorizationConfig
    score: float
    trials: tuple[tuple[FactorizationConfig, float], ...]


@dataclass
class _Candidate:
    """A model in training."""

    config: FactorizationConfig
    trainer: Trainer
    item_factors: NDArray[np.float32]
    anchor: Anchor | None
    user_factors: NDArray[np.float32] | None = None
    scores: list[tuple[FactorizationConfig, float]] = field(default_factory=list)

    def train_to(self, iterations: int, done: int, matrix: UserItemMatrix) -> None:
        for _ in range(iterations - done):
            self.user_factors, self.item_factors = sweep(
                self.trainer, matrix, self.item_factors, self.user_factors, self.anchor
            )

    def score(self, iterations: int, histories: UserItemMatrix, score: Score) -> float:
        users = self.trainer.solve_users(histories, self.item_factors)
        value = score(*self.trainer.scoring_factors(users, self.item_factors))
        self.scores.append((self.config.model_copy(update={"iterations": iterations}), value))
        return value


def tune_local(
    train: UserItemMatrix,
    histories: UserItemMatrix,
    score: Score,
    rng: np.random.Generator,
    *,
    budget: int = 24,
    base: FactorizationConfig | None = None,
    space: SearchSpace | None = None,
) -> Tuned:
    """Tune d, λ, α₀, ν and the number of sweeps of a local model.

    Args:
        train: the training users' matrix.
        histories: what is known of the validation users (rows may be training rows); folded in before each scoring.
        score: called with the validation users' factors and all items'.
        rng: draws candidates and first factors; the outcome is a function of it and of the data.
        budget: number of candidates.
        base: feedback, solver and everything else that is not tuned.
        space: where candidates are drawn from.
    """
    base, space = base or FactorizationConfig(), space or SearchSpace()

    def draw(near: FactorizationConfig | None) -> FactorizationConfig:
        return base.model_copy(update=_draw_common(space, train, rng, near) | _draw_dimension(space, train, rng, near))

    def start(config: FactorizationConfig, seed: int) -> _Candidate:
        total, count = rating_sum_and_count(train)
        trainer = make_trainer(config, global_mean=total / max(count, 1))
        first = trainer.first_item_factors(train.n_items, np.random.default_rng(seed))
        return _Candidate(config, trainer, first, None)

    return _search(draw, start, train, histories, score, rng, budget)


def tune_anchored(
    train: UserItemMatrix,
    histories: UserItemMatrix,
    score: Score,
    rng: np.random.Generator,
    shared_item_factors: NDArray[np.float32],
    *,
    budget: int = 24,
    base: AnchoredConfig,
    space: SearchSpace | None = None,
) -> Tuned:
    """Tune λ, α₀, ν, λ_a, the free dimensions and the number of sweeps of an anchored model; as :func:`tune_local`.

    Args:
        train: as for :func:`tune_local`.
        histories: as for :func:`tune_local`.
        score: as for :func:`tune_local`.
        rng: as for :func:`tune_local`.
        shared_item_factors: float32 ``[m, p]``, in the matrix's column order.
        budget: as for :func:`tune_local`.
        base: has the shared factors' dimension.
        space: as for :func:`tune_local`.
    """
    space = space or SearchSpace()

    def draw(near: FactorizationConfig | None) -> FactorizationConfig:
        update = _draw_common(space, train, rng, near)
        if near is None:
            free, firmness = int(rng.choice(space.free_dimensions)), _log_uniform(space.firmness, rng)
        else:
            assert isinstance(near, AnchoredConfig)
            free = _neighbour(space.free_dimensions, near.free_dimensions, rng)
            firmness = near.anchor_regularization / near.regularization * np.exp(0.4 * rng.standard_normal())
        update |= {"free_dimensions": free, "anchor_regularization": float(firmness * update["regularization"])}
        return base.model_copy(update=update)

    def start(config: FactorizationConfig, seed: int) -> _Candidate:
        assert isinstance(config, AnchoredConfig)
        anchor, first = anchor_and_start(shared_item_factors, config, np.random.default_rng(seed))
        return _Candidate(config, anchored_trainer(train, config), first, anchor)

    return _search(draw, start, train, histories, score, rng, budget)


def _search(
    draw: Callable[[FactorizationConfig | None], FactorizationConfig],
    start: Callable[[FactorizationConfig, int], _Candidate],
    train: UserItemMatrix,
    histories: UserItemMatrix,
    score: Score,
    rng: np.random.Generator,
    budget: int,
) -> Tuned:
    trials: list[tuple[FactorizationConfig, float]] = []
    wide = max(1, budget - budget // 3)
    seed = int(rng.integers(2**63))  # one start for all: candidates differ by their hyperparameters alone
    for near, count in ((False, wide), (True, budget - wide)):
        best = max(trials, key=lambda trial: trial[1])[0] if near else None
        candidates = [start(draw(best), seed) for _ in range(count)]
        trials += _halve(candidates, train, histories, score)
    config, value = max(trials, key=lambda trial: trial[1])
    return Tuned(config, value, tuple(trials))


def _halve(
    candidates: list[_Candidate], train: UserItemMatrix, histories: UserItemMatrix, score: Score
) -> list[tuple[FactorizationConfig, float]]:
    """Train all, keep the better half, train on; the scores of all candidates at all rungs that they reached."""
    running, done = candidates, 0
    for rung in _RUNGS:
        values = []
        for candidate in running:
            candidate.train_to(rung, done, train)
            values.append(candidate.score(rung, histories, score))
        order = np.argsort(-np.array(values), kind="stable")
        running, done = [running[k] for k in order[: -(-len(order) // 2)]], rung
    return [trial for candidate in candidates for trial in candidate.scores]


def _draw_common(
    space: SearchSpace, train: UserItemMatrix, rng: np.random.Generator, near: FactorizationConfig | None
) -> dict[str, Any]:
    if near is None:
        alpha, exponent = _log_uniform(space.unobserved_weight, rng), float(rng.choice(space.exponents))
        ridge = _log_uniform(space.ridge, rng)
        boost, span = float(rng.choice(space.recency_boosts)), float(rng.choice(space.recency_spans))
    else:
        boost = _neighbour(space.recency_boosts, near.recency_boost, rng)
        span = _neighbour(space.recency_spans, near.recency_span, rng)
        alpha = near.unobserved_weight * float(np.exp(0.4 * rng.standard_normal()))
        exponent = float(_neighbour(space.exponents, near.regularization_exponent, rng))
        ridge = near.regularization * mean_scale(train, near.unobserved_weight, near.regularization_exponent)
        ridge *= float(np.exp(0.4 * rng.standard_normal()))
    regularization = ridge / mean_scale(train, alpha, exponent)
    return {
        "unobserved_weight": alpha,
        "regularization_exponent": exponent,
        "regularization": regularization,
        "recency_boost": boost,
        "recency_span": span,
    }


def _draw_dimension(
    space: SearchSpace, train: UserItemMatrix, rng: np.random.Generator, near: FactorizationConfig | None
) -> dict[str, Any]:
    largest = max(min(space.dimensions), min(train.n_users, train.n_items))
    choices = tuple(d for d in space.dimensions if d <= largest)
    return {"dimension": int(rng.choice(choices)) if near is None else _neighbour(choices, near.dimension, rng)}


def mean_scale(train: UserItemMatrix, alpha: float, exponent: float) -> float:
    """Mean of (|Ω_u| + α₀|C_p|)^ν over users with a history: the mean λ_u is λ times this."""
    lengths = train.row_lengths[train.row_lengths > 0]
    return float(np.mean((lengths + alpha * train.n_items) ** exponent)) if len(lengths) else 1.0


def _log_uniform(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]))))


def _neighbour(choices: tuple[Any, ...], value: float, rng: np.random.Generator) -> Any:
    """The choice itself or one beside it."""
    place = choices.index(value) + int(rng.integers(-1, 2))
    return choices[min(max(place, 0), len(choices) - 1)]
