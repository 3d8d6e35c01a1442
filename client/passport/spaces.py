"""The spaces in which factor, tastes and texts are coordinates: shared items, public attributes, a text encoder.

Attributes are named alike by platforms without any item in common, and an encoder's vectors mean the same everywhere.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from client.data.dataset import ItemDescriptions
from client.data.described import Described
from client.passport.contents import LARGEST_TASTES, LONGEST_NAME, Basis, Contents, Tastes, Texts
from client.personalization.described import TextVectors, words_of
from client.personalization.platform_model import PlatformModel
from client.scoring.fold_in import FoldIn
from client.text.whitening import Whitening
from common.config.text import TextConfig

_YEAR = re.compile(r"\(((?:1[5-9]|20)\d\d)\)\s*$")
_ROUNDED = 4
"""Digits: the exact share would tell how long a short history is."""
_FEWEST_ITEMS = 5
"""Items that must have a value, for it to be told of: a value of fewer would nearly name the item."""
TASTES = b"tastes"
"""In place of a basis's digest: of the bridge from tastes, for passports without a profile that can be used."""
_MOST_NAMES = 256
_MOST_BYTES = 1280
"""Of all tastes in a passport, the largest first: with a profile of 64 numbers its text fits into a QR code."""
_BESIDE_NAME = 5
"""Bytes of a taste without its name."""
_SPREAD = 3.0
"""Standard deviations that stand for 1 in a taste for a number."""


class AttributeSpace:
    """Holds which public attributes each item of a catalogue has: the columns of tastes.

    Args:
        items: the catalogue.
    """

    def __init__(self, items: ItemDescriptions) -> None:
        columns = _columns(items.titles, items.genres, items.further)
        self.names = tuple(sorted(columns))
        self._place = {name: column for column, name in enumerate(self.names)}
        rows = [row for name in self.names for row in columns[name]]
        values = [value for name in self.names for value in columns[name].values()]
        places = [place for place, name in enumerate(self.names) for _ in columns[name]]
        shape = (len(items.keys), len(self.names))
        self.matrix = sp.csr_array((np.array(values, dtype=np.float32), (rows, places)), shape=shape)
        """float32 CSR ``[m, f]``: 1 where an item has a value; of a number, where the item stands among the others."""
        self._usual = np.asarray(self.matrix.sum(axis=0), dtype=np.float32) / max(len(items.keys), 1)

    def tastes(self, columns: NDArray[np.integer]) -> Tastes | None:
        """Of a history of items, the largest alone where there are many; None where nothing is known of the items."""
        if len(columns) == 0 or not self.matrix[columns].nnz:
            return None
        mean = np.asarray(self.matrix[columns].sum(axis=0)) / len(columns)
        weights = np.round(np.clip(mean.astype(np.float64) - self._usual, -1, 1), _ROUNDED)
        kept, room = list[int](), _MOST_BYTES
        for place in np.argsort(-np.abs(weights), kind="stable")[:LARGEST_TASTES].tolist():
            room -= len(self.names[place].encode()) + _BESIDE_NAME
            if weights[place] == 0 or room < 0:
                break
            kept.append(place)
        told = tuple((self.names[place], float(weights[place])) for place in sorted(kept))
        return Tastes(told) if told else None

    def scores(self, tastes: Tastes) -> NDArray[np.float32]:
        """float32 ``[m]``: how far each item has the attributes that the tastes tell of."""
        weights = np.zeros(len(self.names), dtype=np.float32)
        for name, weight in tastes.weights:
            if name in self._place:
                weights[self._place[name]] = weight
        return np.asarray(self.matrix @ weights - self._usual @ weights, dtype=np.float32)


class TextSpace:
    """Holds vectors of the texts of a catalogue, by an encoder that other platforms have, too.

    Args:
        basis: the encoder's name and digest.
        vectors: float32 ``[m, d]`` of unit length, zero where there is no text.
    """

    def __init__(self, basis: Basis, vectors: NDArray[np.float32]) -> None:
        self.basis, self._vectors = basis, vectors
        self._whitening = Whitening.fit(vectors)
        self._items = self._whitening.transform(vectors)

    def texts(self, columns: NDArray[np.integer]) -> Texts | None:
        """Of a history of items; None where nothing is written about them."""
        told = self._vectors[columns]
        told = told[told.any(axis=1)]
        return Texts(self.basis, told.mean(axis=0, dtype=np.float64).astype(np.float32)) if len(told) else None

    def scores(self, texts: Texts) -> NDArray[np.float32] | None:
        """float32 ``[m]``: how near each item is, whitened over the catalogue; None of another encoder's."""
        if texts.basis.digest != self.basis.digest or len(texts.values) != self._vectors.shape[1]:
            return None
        scores: NDArray[np.float32] = self._items @ self._whitening.transform(texts.values[None])[0]
        return scores


def text_space(plan: TextConfig, texts: TextVectors, items: ItemDescriptions) -> TextSpace:
    """Of a catalogue, in the words that training reads: what was encoded before is in the encoder's cache.

    Args:
        plan: names the encoder.
        texts: is the encoder.
        items: the catalogue.
    """
    return TextSpace(
        Basis(plan.encoder, bytes.fromhex(plan.digest or "")), texts(words_of(items.titles, items.further))
    )


def common_names(contents: Sequence[Contents], fewest: int) -> tuple[str, ...]:
    """Of the tastes in ``contents`` those that most have, at least ``fewest``; the most common first, as a bridge wants."""
    counts = Counter(name for one in contents if one.tastes is not None for name, _ in one.tastes.weights)
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_NAMES]
    return tuple(name for name, count in common if count >= fewest)


def places_of(contents: Contents, names: Sequence[str]) -> dict[bytes, NDArray[np.float32]]:
    """Where a person stands in the spaces from which bridges lead, by key, in the order in which they are used."""
    places = dict[bytes, NDArray[np.float32]]()
    if contents.profile is not None:
        places[contents.profile.basis.digest] = contents.profile.values
    if contents.tastes is not None and names:
        weights = dict(contents.tastes.weights)
        places[TASTES] = np.array([weights.get(name, 0.0) for name in names], dtype=np.float32)
    return places


_Columns = dict[str, dict[int, float]]


def _columns(titles: Sequence[str], genres: Sequence[tuple[str, ...]], further: Described) -> _Columns:
    """By name of each attribute that can be told of, the items that have it and how much.

    ``genre:drama``; ``year:1990``, a decade, and ``released:1994``; ``maker:pixar`` of a described category; ``price`` of a
    number.
    """
    found: _Columns = {}
    for attribute, values in (("genre", genres), *further.categories()):
        for row, own in enumerate(values):
            for value in own:
                name = f"{attribute}:{value.strip().casefold()}"
                if value.strip() and name.isprintable() and len(name.encode()) <= LONGEST_NAME:
                    found.setdefault(name, {})[row] = 1.0
    for row, title in enumerate(titles):
        ends = _YEAR.search(title)
        if ends is not None:
            year = int(ends.group(1))
            found.setdefault(f"year:{year // 10 * 10}", {})[row] = 1.0
            found.setdefault(f"released:{year}", {})[row] = 1.0
    told = {name: rows for name, rows in found.items() if len(rows) >= _FEWEST_ITEMS}
    return told | {
        name: standing for name in further.of_kind("number") if (standing := _standing(further.numbers(name)))
    }


def _standing(numbers: NDArray[np.float64]) -> dict[int, float]:
    """Where each item that has a number stands among the others, in [−1, 1]; empty where they do not differ."""
    told = np.flatnonzero(np.isfinite(numbers))
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float(numbers[told].std()) if len(told) >= _FEWEST_ITEMS else 0.0
    if not 0 < spread < np.inf:
        return {}
    standing = np.clip((numbers[told] - numbers[told].mean()) / (_SPREAD * spread), -1, 1)
    return dict(zip(told.tolist(), standing.tolist(), strict=True))


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
