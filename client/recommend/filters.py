"""Filters on items' attributes, as masks over the items of one scope."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from client.recommend.answers import NO_FILTER, ItemFilter
from common.errors import ContractError

_KEPT_MASKS = 64
_LAST_CHARACTER = "\U0010ffff"


class AttributeIndex:
    """Answers filters for the m items of one scope.

    Args:
        keys: ``[m]``, empty where nobody described the item.
        genres: ``[m]``.
        owners: bool ``[m, P]``: who has which item.
        platforms: the P names.
    """

    def __init__(
        self,
        keys: Sequence[str],
        genres: Sequence[Sequence[str]],
        owners: NDArray[np.bool_],
        platforms: Sequence[str],
    ) -> None:
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self._order = np.array(order, dtype=np.int32)
        self._sorted_keys = [keys[row] for row in order]
        self._owners = owners
        self._platforms = {name: column for column, name in enumerate(platforms)}
        rows: defaultdict[str, list[int]] = defaultdict(list)
        for row, names in enumerate(genres):
            for name in names:
                rows[name.casefold()].append(row)
        self._genres = {name: np.array(found, dtype=np.int32) for name, found in rows.items()}
        # Applications use few different filters; a mask of a million items takes a millisecond to make.
        self.mask = lru_cache(maxsize=_KEPT_MASKS)(self._mask)

    def _mask(self, wanted: ItemFilter) -> NDArray[np.bool_] | None:
        """Bool ``[m]``, read-only: which items pass; None where all do.

        Raises:
            ContractError: a platform is none of the federation's.
        """
        if wanted == NO_FILTER:
            return None
        passing = np.ones(len(self._sorted_keys), dtype=np.bool_)
        if wanted.any_genres:
            passing &= self._with_genres(wanted.any_genres)
        if wanted.no_genres:
            passing &= ~self._with_genres(wanted.no_genres)
        if wanted.key_prefixes:
            passing &= self._with_prefixes(wanted.key_prefixes)
        if wanted.platforms:
            passing &= self._owners[:, self._columns(wanted.platforms)].any(axis=1)
        passing.flags.writeable = False
        return passing

    def _with_genres(self, names: Sequence[str]) -> NDArray[np.bool_]:
        mask = np.zeros(len(self._sorted_keys), dtype=np.bool_)
        for name in names:
            mask[self._genres.get(name.casefold(), [])] = True
        return mask

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
    """What two masks let pass; None lets everything."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def together(one: NDArray[np.integer] | None, other: NDArray[np.integer] | None) -> NDArray[np.integer] | None:
    """The rows of either; None has none."""
    if one is None or other is None:
        return other if one is None else one
    return np.concatenate([one, other])
