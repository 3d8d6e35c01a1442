"""Public descriptions of the vocabulary's items as numbers: one-hot categories, and features for regression."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from client.data.dataset import ItemDescriptions
from client.data.described import NOTHING, Described
from client.scoring.attributes import own_tastes
from client.scoring.demand import year_columns
from client.scoring.described.features import directions, number_columns, unit_vectors, vector_columns
from client.scoring.reranker import RankedItems
from client.text.whitening import Whitening

TextVectors = Callable[[Sequence[str]], NDArray[np.float32]]
_YEAR = re.compile(r"\s*\(\d{4}\)\s*$")
_MOST_COLUMNS = 64
"""Values of a category that have a feature each; more of them are reduced to as few directions as below."""
_DIRECTIONS = 32
_WELL_TOLD = 0.5
_FEW_DIRECTIONS = 16
"""Of texts and of each vector, for the ranking stage, whose layers grow with the square of its features."""


@dataclass(frozen=True, eq=False)
class DescribedItems:
    """The m items in words.

    Attributes:
        titles: a year at a title's end counts as a number.
        categories: by attribute: the values of each item, possibly none. Genres are one of them.
        texts: turns n texts into vectors float32 ``[n, d]``, zero where there is none; None without a text encoder.
        further: attributes that the plan names; their numbers, texts and vectors are read.
    """

    titles: Sequence[str]
    categories: Mapping[str, Sequence[Sequence[str]]]
    texts: TextVectors | None = None
    further: Described = NOTHING

    @classmethod
    def of(
        cls,
        cards: ItemDescriptions,
        own: ItemDescriptions,
        own_positions: NDArray[np.int32],
        texts: TextVectors | None = None,
    ) -> DescribedItems:
        """As the others describe the items, and the platform itself where nobody else does.

        An item must be described by the same hand whether it is common or foreign: what is learned of one catalogue's words
        does not hold for another's.
        """
        titles, genres, alone = list(cards.titles), list(cards.genres), list[int]()
        for column, position in enumerate(own_positions.tolist()):
            if position >= 0 and not cards.titles[position] and not cards.genres[position]:
                titles[position], genres[position] = own.titles[column], own.genres[column]
                alone.append(column)
        further = own.further.over(cards.further, own_positions[alone], np.array(alone, dtype=np.int64))
        return cls(titles, {"genres": genres, **dict(further.categories())}, texts, further)

    def well_told(self, rows: NDArray[np.integer]) -> DescribedItems:
        """The same by title and by those attributes alone that are told of at least half of the items ``rows``.

        A regression takes an item of which nothing is told for a mean one. Where an attribute is told of own items and hardly
        of those that are to be ranked, own items show it to be worth more than it is there.
        """

        def told(values: Sequence[object]) -> bool:
            return len(rows) == 0 or sum(bool(values[row]) for row in rows.tolist()) >= _WELL_TOLD * len(rows)

        kept = {
            name: kind
            for name, kind in self.further.kinds.items()
            if told([value is not None and value != () for value in self.further.columns[name]])
        }
        categories = {name: values for name, values in self.categories.items() if told(values)}
        if len(kept) == len(self.further.kinds) and len(categories) == len(self.categories):
            return self
        further = Described(kept, {name: self.further.columns[name] for name in kept})
        return replace(self, categories=categories, further=further)

    @cached_property
    def has(self) -> Mapping[str, sp.csr_array]:
        """float32 CSR ``[m, values]`` by attribute that has a value at all: 1 where an item has a value."""
        return {name: _one_hot(values) for name, values in self.categories.items() if any(values)}

    @cached_property
    def vectors(self) -> NDArray[np.float32] | None:
        """float32 ``[m, d]`` of unit length: what titles and texts mean, whitened over the catalogue; None of nothing."""
        if self.texts is None:
            return None
        found = self.texts(words_of(self.titles, self.further))
        return Whitening.fit(found).transform(found) if found.any() else None

    @cached_property
    def text_features(self) -> NDArray[np.float64]:
        """float64 ``[m, ≤ 64]``: the directions in which the vectors differ most, for regressions."""
        if self.vectors is None:
            return np.zeros((len(self.titles), 0))
        return directions(self.vectors.astype(np.float64))

    @cached_property
    def near(self) -> Mapping[str, NDArray[np.float32]]:
        """Of texts and of each attribute that is a vector: float32 ``[m, d]`` of unit length, or zero."""
        found = {name: unit_vectors(self.further.vectors(name)) for name in self.further.of_kind("vector")}
        texts = {} if self.vectors is None else {"texts": self.vectors}
        return texts | {name: vectors for name, vectors in found.items() if vectors.any()}

    def features(self, rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """float64 ``[m, f]`` for regressions; years over the range of the items ``rows``."""
        return np.column_stack([year_columns(self.titles, rows), *self._blocks(rows).values()])

    def columns(self, rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """The same with the genres first: the order of sums, in which the results of earlier versions come again."""
        blocks = self._blocks(rows)
        genres = blocks.pop("genres", np.zeros((len(self.titles), 0)))
        return np.column_stack([genres, year_columns(self.titles, rows), *blocks.values()])

    def _blocks(self, rows: NDArray[np.integer]) -> dict[str, NDArray[np.float64]]:
        """float64 ``[m, ≤ 64]`` of each attribute that is no text."""
        further = self.further
        blocks = {name: _reduced(matrix) for name, matrix in self.has.items()}
        blocks |= {name: number_columns(further.numbers(name), rows) for name in further.of_kind("number")}
        return blocks | {name: vector_columns(further.vectors(name)) for name in further.of_kind("vector")}

    def uncounted_columns(self) -> NDArray[np.float64]:
        """float64 ``[m, c]``: numbers, texts and vectors, a few columns each, whose rows have length 1 at most."""
        further, every = self.further, np.arange(len(self.titles))
        blocks = [number_columns(further.numbers(name), every) for name in further.of_kind("number")]
        blocks += [_short(vectors) for vectors in self.near.values()]
        return np.column_stack([np.zeros((len(every), 0)), *blocks])


def ranked_items(
    own: ItemDescriptions, counts: NDArray[np.number], texts: TextVectors | None, *, buckets: int
) -> RankedItems:
    """A platform's own items as the ranking stage reads them: every attribute, in the platform's own words.

    Args:
        own: the items.
        counts: ``[m]``; users who have each.
        texts: turns titles and texts into vectors; None without a text encoder.
        buckets: into which values of categories are hashed.
    """
    told = own.described
    items = DescribedItems(told.texts("title"), dict(told.categories()), texts, own.further)
    return RankedItems.of(counts, told.named_values(), buckets, items.uncounted_columns())


def _short(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 ``[m, ≤ 16]``: the strongest directions of vectors of length 1, or zero."""
    return directions(vectors.astype(np.float64))[:, :_FEW_DIRECTIONS]


def words_of(titles: Sequence[str], further: Described) -> list[str]:
    """For each item the words that a text encoder reads: its title without a year, and its texts."""
    words = [[_YEAR.sub("", title) for title in titles], *map(further.texts, further.of_kind("text"))]
    return [". ".join(filter(None, own)) for own in zip(*words, strict=True)]


def _one_hot(values: Sequence[Sequence[str]]) -> sp.csr_array:
    told = [[value.strip().casefold() for value in own] for own in values]
    place = {value: column for column, value in enumerate(sorted({value for own in told for value in own}))}
    rows = [row for row, own in enumerate(told) for _ in dict.fromkeys(own)]
    columns = [place[value] for own in told for value in dict.fromkeys(own)]
    return sp.csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(len(values), len(place)))


def _reduced(has: sp.csr_array) -> NDArray[np.float64]:
    """float64 ``[m, ≤ 64]``."""
    if has.shape[1] <= _MOST_COLUMNS:
        return np.asarray(has.toarray(), dtype=np.float64)
    return np.asarray(has @ own_tastes(sp.csr_array(has.astype(np.float64)), _DIRECTIONS, iterations=8))
