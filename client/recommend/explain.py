"""Takes a score apart: the items of the history, the item itself, popularity.

Every part of a scope takes its own raw score apart (:meth:`client.scoring.part.Part.carried`). Standardising takes x̄
from an item's row and multiplies by a scale that does not depend on the item: the contributions still add up to the score
that was shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.described import Described, eighth_of, eighths_of
from client.recommend.answers import Reason
from client.scoring.linear_form import LinearScope
from client.scoring.part import UserHistory
from common.attributes import folded


@dataclass(frozen=True, eq=False)
class ScoreShares:
    """A score taken apart: score = Σ contributions + item_bias + popularity = Σ by_part + popularity.

    Attributes:
        contributions: float64 ``[n]``: of each entry of the history; 0 for one that no part of the scope knows.
        item_bias: of the item itself: its bias (explicit feedback), its attributes and own row (deep model).
        popularity: β·(log popularity − mean), standardised.
        by_part: float64 ``[P]``: of each part, item bias included.
        attributes: the deep model's share of ``item_bias`` by attribute; ``id`` is the item's own row.
        brought: float64 ``[P]``: of ``by_part``, what comes from the prior; part of ``item_bias``, too.
    """

    contributions: NDArray[np.float64]
    item_bias: float
    popularity: float
    by_part: NDArray[np.float64]
    attributes: Mapping[str, float]
    brought: NDArray[np.float64]

    @property
    def score(self) -> float:
        return float(self.by_part.sum()) + self.popularity


def explain_score(
    scope: LinearScope,
    row: int,
    columns: NDArray[np.int32],
    values: NDArray[np.float32],
    user: int | None = None,
    prior: NDArray[np.float32] | None = None,
) -> ScoreShares:
    """Take apart the score of the scope's item ``row`` for a history.

    Args:
        scope: the linear form that made the score.
        row: of the item.
        columns: int32 ``[n]``; the history's own items, oldest first.
        values: float32 ``[n]``.
        user: the platform's user that it belongs to, or None.
        prior: as in :class:`~client.scoring.part.UserHistory`.
    """
    query = scope.query(columns, values, user, prior)
    entries, history = scope.known(UserHistory(columns, values, user, prior))
    deviation = scope.items[row] - scope.mean
    contributions, attributes = np.zeros(len(columns)), dict[str, float]()
    own, by_part, brought = 0.0, np.zeros(len(scope.parts)), np.zeros(len(scope.parts))
    for index, (part, where) in enumerate(zip(scope.parts, scope.slices, strict=True)):
        carried = part.carried(row, deviation[where], history)
        scale = query.part_scales[index]
        contributions[carried.entries if entries is None else entries[carried.entries]] += scale * carried.amounts
        own += scale * carried.own
        by_part[index] = scale * (carried.amounts.sum() + carried.own)
        brought[index] = scale * carried.brought
        attributes |= {name: float(scale * amount) for name, amount in carried.attributes.items()}
    popularity = query.popularity_scale * float(deviation[-1]) if scope.has_popularity else 0.0
    return ScoreShares(contributions, own, popularity, by_part, attributes, brought)


@dataclass(frozen=True, eq=False)
class OwnValues:
    """Values of a platform's items, to be told what an item and a history have in common.

    Of a number the value is the eighth of the platform's items that it lies in.

    Attributes:
        of_items: by attribute: the values of each item, in small letters.
        counts: by attribute: how many items have a value.
        eighths: by number: the lowest and the highest of each eighth, float64 ``[k, 2]``.
    """

    of_items: Mapping[str, Sequence[frozenset[str]]]
    counts: Mapping[str, Counter[str]]
    eighths: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(cls, own: Described) -> OwnValues:
        """Of the platform's items."""
        eighths = {name: eighths_of(own.numbers(name)) for name in own.of_kind("number")}
        of_items = {
            name: [frozenset(folded(value) for value in values) for values in told]
            for name, told in _named(own, eighths).items()
        }
        counts = {name: Counter(v for values in told for v in values) for name, told in of_items.items()}
        return cls(of_items, counts, eighths)

    def values(self, item: Described) -> dict[str, Sequence[str]]:
        """Values by attribute of a described item."""
        return {name: told[0] for name, told in _named(item, self.eighths).items()}

    def in_common(
        self, item: Mapping[str, Sequence[str]], columns: NDArray[np.int32], *, limit: int = 5
    ) -> tuple[Reason, ...]:
        """Values of an item that a history has more often than the catalogue, the most surprising first.

        Args:
            item: values by attribute.
            columns: int32 ``[n]``; the history's.
            limit: how many, at most.
        """
        found: list[tuple[float, Reason]] = []
        for name, told in self.of_items.items():
            for value in item.get(name, ()):
                same = folded(value)
                count = sum(same in told[column] for column in columns)
                expected = len(columns) * self.counts[name][same] / len(told)
                if count > expected:
                    surprise = count * float(np.log(count / expected)) - count + expected
                    found.append((surprise, Reason(name, value, count, len(columns))))
        found.sort(key=lambda one: (-one[0], one[1].attribute, one[1].value))
        return tuple(reason for _, reason in found[:limit])


def _named(items: Described, eighths: Mapping[str, NDArray[np.float64]]) -> dict[str, Sequence[Sequence[str]]]:
    """Of each category, and of each number that has eighths, the values of each item."""
    found: dict[str, Sequence[Sequence[str]]] = dict(items.categories())
    for name, ends in eighths.items():
        if name in items.kinds:
            found[name] = [eighth_of(number, ends) for number in items.numbers(name).tolist()]
    return found
