"""Which settings take part in a race, in which order they are trained, and which one wins: functions of the scores alone.

Successive halving (Jamieson & Talwalkar 2016) with a second look: settings spread over what has served well are trained for a
few rounds; neighbours of the best join them; the best of all are trained on, the worse dropped.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from common.config.model import FactorizationConfig

Scores = NDArray[np.float64]
"""float64 ``[k, n + 1]``: of each setting before its first round, after 1, 2, … n; NaN where it has not come so far."""

FIRST: tuple[tuple[int, float, float], ...] = (
    (32, 25.0, 1.0),
    (16, 8.0, 0.4),
    (16, 8.0, 0.1),
    (16, 2.5, 0.03),
    (16, 25.0, 0.3),
)
"""(d, λ, α₀) that the race begins with."""
_SHORT, _SURVIVORS = 3, 3
"""After how many rounds how many of the first are left."""
_MIDDLE, _FINALISTS = 6, 2
"""After how many rounds the best gets neighbours, and how many are left of all. Before that nobody wins: slow starters with a
high λ all rank by popularity at first."""
LONGEST = 12
"""Rounds that a setting is trained for at most. A winner that was best at the last is trained for all of the plan's."""
_DIMENSIONS = (4, 256)


def settings(base: FactorizationConfig, scores: Scores) -> tuple[FactorizationConfig, ...]:
    """All that take part, as far as it is known: the first ones, and once the best of these is known, its neighbours.

    Args:
        base: holds what is not raced for.
        scores: of as many as are known.
    """
    first = tuple(_setting(base, *one) for one in FIRST)
    left, turn = _left_of_the_first(scores)
    if turn is not None:
        return first
    best = first[left[int(np.argmax(_reached(scores, left, _MIDDLE)))]]
    return (*first, *(model for model in _around(best) if model not in first))


def standing(count: int, scores: Scores) -> tuple[tuple[int, ...], int | None]:
    """Who is left, by number in order, and whose turn it is; None once the race is over.

    Args:
        count: of settings that take part.
        scores: float64 ``[count, n + 1]``.
    """
    left, turn = _left_of_the_first(scores)
    if turn is not None:
        return left, turn
    left, turn = _compared((*left, *range(len(FIRST), count)), scores, _MIDDLE, _FINALISTS)
    if turn is not None:
        return left, turn
    return _compared(left, scores, scores.shape[1] - 1, 1)


def winner(scores: Scores) -> tuple[int, int]:
    """The setting with the best score of those that came so far as to be able to win, and after how many rounds it was best."""
    at = sorted({_at(scores, _MIDDLE), scores.shape[1] - 1})
    compared = np.column_stack([_reached(scores, range(len(scores)), rounds) for rounds in at])
    compared = np.where(np.isnan(compared), -np.inf, compared)
    number, place = np.unravel_index(int(np.argmax(compared)), compared.shape)
    return int(number), at[int(place)]


def _left_of_the_first(scores: Scores) -> tuple[tuple[int, ...], int | None]:
    """Who is left of the first, and whose turn it is of them; None once all that are left can win."""
    left, turn = _compared(tuple(range(len(FIRST))), scores, _SHORT, _SURVIVORS)
    return (left, turn) if turn is not None else _compared(left, scores, _MIDDLE, _SURVIVORS)


def _compared(racing: tuple[int, ...], scores: Scores, rounds: int, keep: int) -> tuple[tuple[int, ...], int | None]:
    """The best ``keep`` of ``racing`` after ``rounds``; or all, and the first of them that has not come so far."""
    if len(scores) <= max(racing):
        return racing, next(number for number in racing if number >= len(scores))
    reached = _reached(scores, racing, rounds)
    if np.isnan(reached).any():
        return racing, racing[int(np.flatnonzero(np.isnan(reached))[0])]
    best = np.argsort(-reached, kind="stable")[:keep]
    return tuple(sorted(racing[place] for place in best)), None


def _reached(scores: Scores, racing: Iterable[int], rounds: int) -> NDArray[np.float64]:
    """The score of each of ``racing`` at ``rounds``: the mean of the last two, as one round's may be a leap of chance."""
    at = _at(scores, rounds)
    mean: NDArray[np.float64] = scores[list(racing), max(at - 1, 1) : at + 1].mean(axis=1)
    return mean


def _at(scores: Scores, rounds: int) -> int:
    longest: int = scores.shape[1] - 1
    return min(rounds, longest)


def _around(best: FactorizationConfig) -> tuple[FactorizationConfig, ...]:
    """Settings beside ``best``: twice and half its dimension, more and less of λ and of α₀."""
    d, ridge, weight = best.dimension, best.regularization, best.unobserved_weight
    beside = (
        (2 * d, ridge, weight),
        (d // 2, ridge, weight),
        (d, 2.0 * ridge, weight),
        (d, 0.5 * ridge, weight),
        (d, ridge, 2.0 * weight),
        (d, ridge, 0.5 * weight),
    )
    low, high = _DIMENSIONS
    return tuple(_setting(best, *one) for one in beside if low <= one[0] <= high)


def _setting(base: FactorizationConfig, d: int, ridge: float, weight: float) -> FactorizationConfig:
    changed = {
        "dimension": d,
        "regularization": ridge,
        "item_regularization": None,
        "regularization_exponent": 0.0,
        "unobserved_weight": weight,
    }
    return base.model_copy(update=changed)
