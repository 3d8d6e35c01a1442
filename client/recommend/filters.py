"""Filters on items' attributes, as masks over the items of one scope."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from client.data.described import Described
from client.recommend.answers import NO_FILTER, AttributeCondition, ItemFilter
from common.attributes import folded
from common.errors import ContractError

T = TypeVar("T")

_KEPT_MASKS = 64
_LAST_CHARACTER = "\U0010ffff"


class AttributeIndex:
    """Answers filters for the m items of one scope.

    Args:
        keys: ``[m]``, empty where nobody described the item.
        described: what is told of them.
        owners: bool ``[m, P]``: who has which item.
        platforms: the P names.
    """

    def __init__(
        self,
        keys: Sequence[str],
        described: Described,
        owners: NDArray[np.bool_],
        platforms: Sequence[str],
    ) -> None:
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self._order = np.array(order, dtype=np.int32)
        self._sorted_keys = [keys[row] for row in order]
        self._owners = owners
        self._platforms = {name: column for column, name in enumerate(platforms)}
        self._values = {name: _rows_by_value(values) for name, values in described.categories()}
        self._numbers = {name: described.numbers(name) for name in described.of_kind("number")}
        # Applications use few different filters; a mask of a million items takes a millisecond to make.
        self.mask = lru_cache(maxsize=_KEPT_MASKS)(self._mask)

    def _mask(self, wanted: ItemFilter) -> NDArray[np.bool_] | None:
        """Bool ``[m]``, read-only: which items pass; None where all do.

        Raises:
            ContractError: a platform is none of the federation's, or an attribute none that can be filtered by so.
        """
        if wanted == NO_FILTER:
            return None
        passing = np.ones(len(self._sorted_keys), dtype=np.bool_)
        genres = AttributeCondition("genres", wanted.any_genres, wanted.no_genres)
        for condition in (genres, *wanted.attributes):
            passing &= self._with(condition)
        if wanted.key_prefixes:
            passing &= self._with_prefixes(wanted.key_prefixes)
        if wanted.platforms:
            passing &= self._owners[:, self._columns(wanted.platforms)].any(axis=1)
        passing.flags.writeable = False
        return passing

    def _with(self, condition: AttributeCondition) -> NDArray[np.bool_]:
        name, mask = condition.attribute, np.ones(len(self._sorted_keys), dtype=np.bool_)
        if condition.any_of or condition.none_of:
            rows = self._asked(self._values, name, "values")
            if condition.any_of:
                mask &= self._having(rows, condition.any_of)
            mask &= ~self._having(rows, condition.none_of)
        if condition.at_least is not None or condition.at_most is not None:
            numbers = self._asked(self._numbers, name, "numbers")
            # What is not told is NaN, which no comparison holds for.
            mask &= numbers >= (-np.inf if condition.at_least is None else condition.at_least)
            mask &= numbers <= (np.inf if condition.at_most is None else condition.at_most)
        return mask

    def _having(self, rows: Mapping[str, NDArray[np.int32]], values: Sequence[str]) -> NDArray[np.bool_]:
        mask = np.zeros(len(self._sorted_keys), dtype=np.bool_)
        for value in values:
            mask[rows.get(folded(value), [])] = True
        return mask

    @staticmethod
    def _asked(columns: Mapping[str, T], name: str, what: str) -> T:
        if name not in columns:
            raise ContractError(
                f"filter.attributes: {name!r} is none of the attributes whose {what} can be asked for ({', '.join(columns)})"
            )
        return columns[name]

    def _with_prefixes(self, prefixes: Sequence[str]) -> NDArray[np.bool_]:
        mask = np.zeros(len(self._sorted_keys), dtype=np.bool_)
        for prefix in prefixes:
            start = bisect_left(self._sorted_keys, prefix)
            end = bisect_left(self._sorted_keys, prefix + _LAST_CHARACTER, lo=start)
            mask[self._order[start:end]] = True
        return mask

    def _columns(self, names: Sequence[str]) -> list[int]:
        unknown = [name for name in names if name not in self._platforms]
        if unknown:
            raise ContractError(
                f"filter.platforms: {', '.join(unknown)} is none of the federation's platforms "
                f"({', '.join(self._platforms)})"
            )
        return [self._platforms[name] for name in names]


def both(one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Return what two masks let pass; None lets everything."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def together(one: NDArray[np.integer] | None, other: NDArray[np.integer] | None) -> NDArray[np.integer] | None:
    """The rows of either; None has none."""
    if one is None or other is None:
        return other if one is None else one
    return np.concatenate([one, other])


def _rows_by_value(values: Sequence[Sequence[str]]) -> dict[str, NDArray[np.int32]]:
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, own in enumerate(values):
        for value in own:
            rows[folded(value)].append(row)
    return {value: np.array(found, dtype=np.int32) for value, found in rows.items()}
