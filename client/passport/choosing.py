"""Choices made on people whose answer is known: how much each content counts, and how it stands beside own history.

Holders are such people: of what they brought and of what they did here. Their scores come from bridges that have not seen them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.passport.bridge import DEPTH, FEWEST, recall_at
from client.scoring.linear_form import LinearScope
from common.metrics.bootstrap import paired_bootstrap

BALANCE = 5.0
"""b where no holders tell: items of own history that weigh as much as what was brought."""
MOST = 400
"""People who are looked at; more cost time and tell little."""
_BALANCES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_LENGTHS = (1, 3, 10)
"""Own histories cut to so many items, on which b is chosen."""
_BALANCED = 150
_SURE = 1.96
"""Standard errors: 95 % of a normal distribution, two-sided."""
_SHORTEST = 4
"""Items of a history that is cut in two."""
_WEIGHTS = (0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class Known:
    """A person on whom choices are made.

    Attributes:
        base: float32 ``[m]``: standardised scores that are there already; popularity at least.
        seen: int32 ``[s]``: own items that are not ranked.
        truth: int32 ``[t]``: own items that are to be found.
        values: float32 ``[t]``: of the truth.
    """

    base: NDArray[np.float32]
    seen: NDArray[np.int32]
    truth: NDArray[np.int32]
    values: NDArray[np.float32]


def chosen_weight(people: Sequence[Known], scores: Sequence[NDArray[np.float32]]) -> float:
    """The weight of ``scores`` (float32 ``[m]`` each) beside the base that surely finds more; 0 where none does."""
    if len(people) < FEWEST:
        return 0.0
    ends = np.concatenate([[0], np.cumsum([len(one.truth) for one in people])])
    items = np.concatenate([one.truth for one in people])

    def reached(weight: float) -> NDArray[np.float64]:
        ranked = np.stack([one.base + np.float32(weight) * mine for one, mine in zip(people, scores, strict=True)])
        for row, one in enumerate(people):
            ranked[row, one.seen] = -np.inf
        return recall_at(ranked, ends, items, DEPTH)

    base, rng = reached(0.0), np.random.default_rng(0)
    best, gain = 0.0, 0.0
    for weight in _WEIGHTS:
        interval = paired_bootstrap(reached(weight), base, rng)
        if interval.lower > 0 and interval.mean > gain:
            best, gain = weight, interval.mean
    return best


def chosen_balance(people: Sequence[Known], brought: Sequence[NDArray[np.float32]], own: LinearScope) -> float:
    """The largest b that finds not surely less than the best of the rest of people's histories, cut to a few items.

    The largest, since the own side flatters itself: its items were trained on these histories, too.
    """
    if len(people) < FEWEST:
        return BALANCE
    found = [np.zeros((len(_BALANCES), 0))]
    for one, scores in list(zip(people, brought, strict=True))[:_BALANCED]:
        for length in _LENGTHS:
            rest = one.truth[length:]
            if not len(rest):
                continue
            query = own.query(one.truth[:length], one.values[:length])
            alone = own.scored(query)
            shares = np.array([b / (b + length) for b in _BALANCES], dtype=np.float32)[:, None]
            ranked = (1 - shares) * alone + shares * scores
            ranked[:, one.truth[:length]] = -np.inf
            truth = np.arange(len(_BALANCES) + 1) * len(rest), np.tile(rest, len(_BALANCES))
            found.append(recall_at(ranked, *truth, DEPTH)[:, None])
    reached = np.hstack(found)
    if not reached.any():
        return BALANCE
    behind = reached[reached.mean(axis=1).argmax()] - reached
    error = behind.std(axis=1, ddof=1) / np.sqrt(reached.shape[1])
    return _BALANCES[int(np.flatnonzero(behind.mean(axis=1) <= _SURE * error)[-1])]


def halved(histories: UserItemMatrix, popularity: NDArray[np.float32]) -> list[Known]:
    """Some own users: the newer half of the history is to be found, the older is not ranked."""
    rows = np.flatnonzero(histories.row_lengths >= _SHORTEST)
    people = []
    for row in np.random.default_rng(0).permutation(rows)[:MOST]:
        columns, values = histories.row(row), histories.values[histories.indptr[row] : histories.indptr[row + 1]]
        middle = len(columns) // 2
        people.append(Known(popularity, columns[:middle], columns[middle:], values[:middle]))
    return people
