"""The spaces in which factor and tastes are coordinates: the federation's shared items, and public attributes.

Genres, decades, described categories and rounded numbers are named alike by platforms without any item in common. Texts and
vectors have no names that a person could read, and are left out.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import ItemDescriptions
from client.passport.contents import LARGEST_TASTES, LONGEST_NAME, Basis, Tastes
from client.passport.fields import float_field, text_field
from client.personalization.platform_model import PlatformModel
from client.scoring.fold_in import FoldIn
from common.attributes import AttributeKind, Value, values_of

_YEAR = re.compile(r"\(((?:1[5-9]|20)\d\d)\)\s*$")
_FIGURES = (2, 3)
"""Significant figures of a number: which scale tells items apart nobody knows beforehand."""
_LARGEST = 3072
"""Bytes of tastes, so that the passport holds a factor and a profile besides."""
_ROUNDED = 4
"""Digits: the exact share would tell how long a short history is."""


class AttributeSpace:
    """Which attributes each item of a catalogue has.

    Args:
        items: the catalogue.
    """

    def __init__(self, items: ItemDescriptions) -> None:
        further = items.further
        self._attributes = [
            tuple(dict.fromkeys((*attributes_of(title, genres), *_described(further.kinds, further.row(row)))))
            for row, (title, genres) in enumerate(zip(items.titles, items.genres, strict=True))
        ]
        counts = Counter(name for names in self._attributes for name in names)
        self.names = tuple(sorted(name for name, _ in counts.most_common(LARGEST_TASTES)))
        place = {name: column for column, name in enumerate(self.names)}
        self.matrix = np.zeros((len(self._attributes), len(self.names)), dtype=np.float32)
        """float32 ``[m, f]``: 1 where an item has an attribute."""
        for row, names in enumerate(self._attributes):
            self.matrix[row, [place[name] for name in names if name in place]] = 1.0
        self._usual = self.matrix.mean(axis=0) if len(self.matrix) else np.zeros(len(self.names), np.float32)

    def tastes(self, columns: NDArray[np.integer]) -> Tastes | None:
        """Of a history of items; None where nothing is known of them."""
        if len(columns) == 0 or not self.matrix[columns].any():
            return None
        weights = np.round(self.matrix[columns].mean(axis=0) - self._usual, _ROUNDED)
        return _fitting([(name, float(w)) for name, w in zip(self.names, weights, strict=True) if w != 0])

    def scores(self, tastes: Tastes) -> NDArray[np.float32]:
        """float32 ``[m]``: how far each item has the attributes that the tastes tell of."""
        place = {name: column for column, name in enumerate(self.names)}
        weights = np.zeros(len(self.names), dtype=np.float32)
        for name, weight in tastes.weights:
            if name in place:
                weights[place[name]] = weight
        scores: NDArray[np.float32] = (self.matrix - self._usual) @ weights
        return scores


def attributes_of(title: str, genres: Sequence[str]) -> Iterable[str]:
    """``genre:drama`` and ``year:1990`` (the decade), in lower case."""
    for genre in dict.fromkeys(genre.strip().casefold() for genre in genres):
        if genre and _is_name(name := f"genre:{genre}"):
            yield name
    found = _YEAR.search(title)
    if found is not None:
        yield f"year:{int(found.group(1)) // 10 * 10}"


def _described(kinds: Mapping[str, AttributeKind], told: Mapping[str, Value]) -> Iterable[str]:
    """``maker:le guin``, ``price~13`` and ``price~12.9``."""
    for attribute, value in told.items():
        if kinds[attribute] in ("category", "categories"):
            names = [f"{attribute}:{one.strip().casefold()}" for one in values_of(value)]
        elif isinstance(value, float):
            names = [f"{attribute}~{float(f'{value:.{figures - 1}e}'):g}" for figures in _FIGURES]
        else:
            names = []
        yield from filter(_is_name, names)


def _is_name(name: str) -> bool:
    return name.isprintable() and len(name.encode()) <= LONGEST_NAME


def _fitting(weights: Sequence[tuple[str, float]]) -> Tastes | None:
    """The strongest of them, in their order, as many as a passport has room for; None of nothing."""
    kept, left = set[str](), _LARGEST
    for name, weight in sorted(weights, key=lambda one: (-abs(one[1]), one[0])):
        left -= len(text_field(name)) + len(float_field([weight]))
        if left < 0:
            break
        kept.add(name)
    return Tastes(tuple(one for one in weights if one[0] in kept)) if kept else None


def shared_basis(model: PlatformModel) -> Basis:
    """Its round and digest: the same on every platform that took part in the round."""
    parameters = np.ascontiguousarray(model.shared.item_parameters, dtype=">f4")
    digest = hashlib.sha256(b"crossfed shared factors v1\0" + parameters.tobytes()).digest()
    return Basis(f"round {model.server_round}", digest)


def shared_fold_in(model: PlatformModel) -> FoldIn:
    """Folds histories into the shared factors; the own items among them count as the catalogue."""
    return model.shared.restricted(model.own_positions[model.own_positions >= 0])


def shared_rows(model: PlatformModel) -> NDArray[np.int32]:
    """int32 ``[m_own]``: each own item's row in :func:`shared_fold_in`, −1 where nobody shares it."""
    known = model.own_positions >= 0
    return np.where(known, np.cumsum(known) - 1, -1).astype(np.int32)
