"""Described attributes of many items, a column each: what is publicly said of a catalogue or of a vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.attributes import ALWAYS, AttributeKind, Value, folded, from_json, numbers_of, to_json, values_of
from common.config.attributes import AttributeRule


@dataclass(frozen=True, eq=False)
class Described:
    """Attributes of n items in their final form.

    Attributes:
        kinds: by name, in the plan's order.
        columns: by name: n values, None where nobody told.
    """

    kinds: Mapping[str, AttributeKind] = field(default_factory=dict)
    columns: Mapping[str, tuple[Value | None, ...]] = field(default_factory=dict)

    @classmethod
    def of_rows(cls, kinds: Mapping[str, AttributeKind], rows: Sequence[Mapping[str, Value]]) -> Described:
        """From one mapping an item."""
        return cls(dict(kinds), {name: tuple(row.get(name) for row in rows) for name in kinds})

    def of_kind(self, *kinds: AttributeKind) -> tuple[str, ...]:
        """Names of the attributes of these kinds."""
        return tuple(name for name, kind in self.kinds.items() if kind in kinds)

    def row(self, item: int) -> dict[str, Value]:
        """Return what is told of one item."""
        told = {name: column[item] for name, column in self.columns.items()}
        return {name: value for name, value in told.items() if value is not None}

    def select(self, rows: NDArray[np.integer] | Sequence[int]) -> Described:
        """The same of the items ``rows``."""
        return Described(self.kinds, {name: tuple(own[row] for row in rows) for name, own in self.columns.items()})

    def agreed(self, kinds: Mapping[str, AttributeKind], n: int) -> Described:
        """The attributes ``kinds`` of the n items; nothing is told by those that are not here."""
        nothing: tuple[Value | None, ...] = (None,) * n
        return Described(dict(kinds), {name: self.columns.get(name, nothing) for name in kinds})

    def over(self, other: Described, rows: NDArray[np.integer], items: NDArray[np.integer]) -> Described:
        """``other`` with what is told here of ``items`` in its ``rows``, where anything is."""
        columns = {}
        for name, told in other.columns.items():
            own, changed = self.columns.get(name), list(told)
            for row, item in zip(rows, items, strict=True) if own is not None else ():
                value = own[item] if own is not None else None
                changed[row] = changed[row] if value is None else value
            columns[name] = tuple(changed)
        return Described(other.kinds, columns)

    def values(self, name: str) -> tuple[tuple[str, ...], ...]:
        """Of a ``category`` or of ``categories``: the values of each item, possibly none."""
        return tuple(values_of(value) for value in self.columns[name])

    def categories(self) -> Iterator[tuple[str, tuple[tuple[str, ...], ...]]]:
        """Name and values of each attribute whose values are categories."""
        return ((name, self.values(name)) for name in self.of_kind("category", "categories"))

    def named_values(self) -> list[tuple[str, ...]]:
        """Of each item the values of all its categories; those of further attributes with the attribute's name before them."""
        several = [
            [[value if name in ALWAYS else f"{name}={value}" for value in own] for own in values]
            for name, values in self.categories()
        ]
        return [tuple(value for own in of_item for value in own) for of_item in zip(*several, strict=True)]

    def shown(self, item: int) -> dict[str, tuple[str, ...] | float]:
        """Of one item what can be shown and filtered by: values of further categories, and numbers."""
        told = ((name, self.columns[name][item]) for name in self._shown)
        return {
            name: value if isinstance(value, float) else values_of(value) for name, value in told if value is not None
        }

    @cached_property
    def _shown(self) -> tuple[str, ...]:
        return tuple(name for name in self.of_kind("category", "categories", "number") if name not in ALWAYS)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Of a ``number``: float64 ``[n]``, NaN where nobody told."""
        return np.array(
            [value if isinstance(value, float) else np.nan for value in self.columns[name]], dtype=np.float64
        )

    def texts(self, name: str) -> tuple[str, ...]:
        """Of a ``text``: n of them, empty where nobody told."""
        return tuple(value if isinstance(value, str) else "" for value in self.columns[name])

    def vectors(self, name: str) -> NDArray[np.float32]:
        """Of a ``vector``: float32 ``[n, w]``, zero where nobody told, or told another length than most do."""
        told = [value for value in self.columns[name] if isinstance(value, bytes)]
        lengths = [len(value) for value in told]
        usual = max(sorted(set(lengths)), key=lengths.count, default=0)
        vectors = np.zeros((len(self.columns[name]), usual // 2), dtype=np.float32)
        for row, value in enumerate(self.columns[name]):
            if isinstance(value, bytes) and len(value) == usual:
                vectors[row] = numbers_of(value)
        return vectors

    def passing(self, name: str, rule: AttributeRule) -> NDArray[np.bool_]:
        """Bool ``[n]``: the items for whose attribute ``name``, a number or of categories, the rule holds.

        Of an attribute that is not here nothing is told.
        """
        if name not in self.kinds:
            n = len(next(iter(self.columns.values()), ()))
            return np.full(n, bool(rule.none_of) and not rule.any_of)
        if not rule.of_values:
            numbers = self.numbers(name)
            # What is not told is NaN, which no comparison holds for.
            low = -np.inf if rule.at_least is None else rule.at_least
            return np.asarray((numbers >= low) & (numbers <= (np.inf if rule.at_most is None else rule.at_most)))
        wanted, barred = ({folded(value) for value in values} for values in (rule.any_of, rule.none_of))
        told = [{folded(value) for value in values} for values in self.values(name)]
        return np.array([(not wanted or bool(wanted & own)) and not barred & own for own in told], dtype=np.bool_)

    def to_json(self) -> dict[str, Any]:
        """As a store holds it."""
        return {
            name: {"kind": kind, "values": [None if one is None else to_json(one) for one in self.columns[name]]}
            for name, kind in self.kinds.items()
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Described:
        """The inverse of :meth:`to_json`."""
        return cls(
            {name: told["kind"] for name, told in given.items()},
            {name: tuple(from_json(one) for one in told["values"]) for name, told in given.items()},
        )


NOTHING = Described()
"""Of items of which nothing but the key, a title and genres is told."""


def with_always(titles: Sequence[str], genres: Sequence[tuple[str, ...]], further: Described) -> Described:
    """All attributes of items: the title, the genres, and what the plan names besides."""
    return Described(
        {"title": "text", "genres": "categories", **further.kinds},
        {
            "title": tuple(title or None for title in titles),
            "genres": tuple(own or None for own in genres),
            **further.columns,
        },
    )


def eighths_of(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 ``[≤ 8, 2]``: the lowest and the highest number of each eighth of those that are told, none in two."""
    known = np.sort(numbers[np.isfinite(numbers)])
    if not len(known):
        return np.zeros((0, 2))
    lowest = np.unique(np.quantile(known, np.arange(8) / 8, method="lower"))
    highest = known[np.append(np.searchsorted(known, lowest[1:]), len(known)) - 1]
    return np.column_stack([lowest, highest])


def eighth_of(number: float, ends: NDArray[np.float64]) -> tuple[str, ...]:
    """An eighth by its ends, for people; none of what nobody told, or of what lies beyond the platform's own items."""
    if not len(ends) or not ends[0, 0] <= number <= ends[-1, 1]:
        return ()
    low, high = ends[int(np.searchsorted(ends[:, 0], number, side="right")) - 1].tolist()
    return (f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}",)
