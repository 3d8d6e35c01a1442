"""Which settings take part in a race, in which order they are trained, and which one wins: functions of the scores alone.

Successive halving (Jamieson & Talwalkar 2016) that climbs: settings spread over what has served well are trained for a few
rounds, the worse dropped; neighbours of the best join, and theirs as long as they are clearly better; the best of all are
trained to the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

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
"""After how many rounds how many of those that joined together are left."""
_MIDDLE, _FINALISTS = 6, 2
"""After how many rounds the best gets neighbours, and how many are left of all. Before that nobody wins: slow starters with a
high λ all rank by popularity at first."""
_LOOKS = 4
"""How often neighbours of the best join at most."""
_SPREAD = 0.3
"""Standard deviation of how far users' scores of two neighbouring settings are apart, as a share of √(s·(1 − s)), s the mean
score: .30 to .52 on films, drugs, courses and follows. Neighbours of a neighbour join where it is better by a standard error
of that: with few users the climb would follow chance."""
LONGEST = 12
"""Rounds that a setting is trained for at most. A winner that was best at the last is trained for all of the plan's."""
_DIMENSIONS = (4, 256)
_LARGEST_SUMS = 1 << 25
"""Numbers in a platform's sums of a step: they grow with its items and with d²."""
_SCALED = 0.5
"""ν of frequency-scaled regularisation (Rendle et al. 2021, "Revisiting iALS"); the other one that is raced for is 0."""


_Raced = tuple[int, float, float, float]
"""(d, mean ridge, α₀, ν) of a setting; see :meth:`Sizes.setting`."""


class Sizes(NamedTuple):
    """Sizes of a federation.

    Attributes:
        history: interactions of a user, in the mean.
        items: of a platform, in the mean over users.
        validated: validation users.
    """

    history: float
    items: float
    validated: float

    def setting(self, base: FactorizationConfig, raced: _Raced) -> FactorizationConfig:
        """``base`` with a setting whose λ gives a user with a mean history the ridge that is raced for, whatever ν is."""
        d, ridge, weight, exponent = raced
        scale = float((self.history + weight * self.items) ** exponent) if exponent else 1.0
        changed = {
            "dimension": d,
            "regularization": ridge / scale,
            "item_regularization": None,
            "regularization_exponent": exponent,
            "unobserved_weight": weight,
        }
        return base.model_copy(update=changed)

    @property
    def widest(self) -> int:
        """The largest d whose sums a platform can be asked for, step by step."""
        low, high = _DIMENSIONS
        return int(np.clip(math.isqrt(int(2 * _LARGEST_SUMS / max(self.items, 1.0))), low, high))

    def standard_error(self, score: float) -> float:
        """Of the difference between two neighbouring settings of about this score."""
        return _SPREAD * math.sqrt(max(score * (1.0 - score), 0.0) / max(self.validated, 1.0))


@dataclass(frozen=True)
class Standing:
    """Where a race stands.

    Attributes:
        settings: all that take part, as far as it is known: the first ones, and neighbours of those that were the best.
        left: numbers of those that are or may be trained on, in order.
        turn: number of the one that is trained next; None once the race is over.
    """

    settings: tuple[FactorizationConfig, ...]
    left: tuple[int, ...]
    turn: int | None


def standing(base: FactorizationConfig, sizes: Sizes, scores: Scores) -> Standing:
    """Where a race stands, from the scores alone.

    Args:
        base: holds what is not raced for.
        sizes: of the federation; the same throughout a race.
        scores: of as many settings as are known, in the order in which they joined.
    """
    taking_part: tuple[_Raced, ...] = tuple((*one, 0.0) for one in FIRST)
    joined, best = range(len(FIRST)), None
    for look in range(_LOOKS + 1):
        left, turn = _left_of(joined, scores)
        if turn is not None:
            left = (*_finalists(range(joined.start), scores), *left)
            break
        reached = _reached(scores, range(joined.stop), _MIDDLE)
        leader = int(np.nanargmax(reached))
        beside = tuple(one for one in _around(taking_part[leader], sizes.widest) if one not in taking_part)
        clearly_better = best is None or reached[leader] > reached[best] + sizes.standard_error(reached[best])
        if look == _LOOKS or not clearly_better or not beside:
            left, turn = _compared(_finalists(range(joined.stop), scores), scores, scores.shape[1] - 1, 1)
            break
        best, taking_part = leader, taking_part + beside
        joined = range(joined.stop, len(taking_part))
    return Standing(tuple(sizes.setting(base, one) for one in taking_part), left, turn)


def winner(scores: Scores) -> tuple[int, int]:
    """The setting with the best score of those that came so far as to be able to win, and after how many rounds it was best."""
    at = sorted({_at(scores, _MIDDLE), scores.shape[1] - 1})
    compared = np.column_stack([_reached(scores, range(len(scores)), rounds) for rounds in at])
    compared = np.where(np.isnan(compared), -np.inf, compared)
    number, place = np.unravel_index(int(np.argmax(compared)), compared.shape)
    return int(number), at[int(place)]


def _left_of(joined: range, scores: Scores) -> tuple[tuple[int, ...], int | None]:
    """Who is left of those that joined together, and whose turn it is of them; None once all that are left can win."""
    left, turn = _compared(tuple(joined), scores, _SHORT, _SURVIVORS)
    return (left, turn) if turn is not None else _compared(left, scores, _MIDDLE, _SURVIVORS)


def _finalists(numbers: range, scores: Scores) -> tuple[int, ...]:
    """The best of those that can win, in order."""
    reached = _reached(scores, numbers, _MIDDLE)
    able = np.flatnonzero(~np.isnan(reached))
    return tuple(sorted(able[np.argsort(-reached[able], kind="stable")[:_FINALISTS]].tolist()))


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


def _around(best: _Raced, widest: int) -> tuple[_Raced, ...]:
    """Settings beside ``best``: twice and half its d, λ and α₀; λ and α₀ together, which do much the same; the other ν."""
    d, ridge, weight, exponent = best
    beside = (
        (2 * d, ridge, weight, exponent),
        (d // 2, ridge, weight, exponent),
        (d, 2.0 * ridge, weight, exponent),
        (d, 0.5 * ridge, weight, exponent),
        (d, ridge, 2.0 * weight, exponent),
        (d, ridge, 0.5 * weight, exponent),
        (d, 2.0 * ridge, 2.0 * weight, exponent),
        (d, 0.5 * ridge, 0.5 * weight, exponent),
        (d, ridge, weight, _SCALED - exponent),
    )
    return tuple(one for one in beside if _DIMENSIONS[0] <= one[0] <= max(widest, d))
