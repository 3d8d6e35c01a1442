"""Item factors of cold items: where nobody's interactions say anything, public attributes place an item among the others.

Factorisation alone leaves an item without interactions at zero. Here the factors of all other items are regressed on what
their attributes say (Gantner et al. 2010, "Learning attribute-to-feature mappings for cold-start recommendations", with
ridge regression, whose regularisation is chosen by leaving out one item at a time), and the map is applied to those at
zero. Only factors that are there already and public attributes go in, so under privacy it is post-processing. Where more than
titles and genres is told, or a text encoder reads them, the regression is one of kernels (:mod:`client.training.kernel_ridge`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from client.data.described import NOTHING, Described
from client.scoring.demand import year_columns
from client.scoring.described.features import unit_vectors
from client.text.whitening import Whitening
from client.training import kernel_ridge

_log = getLogger(__name__)
_DIMENSIONS = 256
_TITLE_WEIGHT = 0.5
_FEWEST = 20
_LEAST_KNOWN = 0.1
_ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_WORD = re.compile(r"\w+")
_YEAR = re.compile(r"\s*\(\d{4}\)\s*$")


@dataclass(frozen=True, eq=False)
class ContentItems:
    """Holds what is publicly known of m items.

    Attributes:
        titles: empty where nobody told.
        genres: one sequence an item.
        attributes: m rows of text, lists, categories and numbers, or None.
        further: what the plan names besides.
        texts: turns n texts into vectors ``[n, d]``; None without a text encoder.
    """

    titles: Sequence[str]
    genres: Sequence[Sequence[str]]
    attributes: pl.DataFrame | None = None
    further: Described = NOTHING
    texts: Callable[[Sequence[str]], NDArray[np.float32]] | None = None

    @property
    def much_told(self) -> bool:
        """Whether there is more than the words of titles, and genres."""
        return self.texts is not None or bool(self.further.kinds)

    def features(self) -> NDArray[np.float64]:
        """float64 ``[m, f]``: each attribute a block of rows of length 1, title words half that.

        Genres and years are 0/1 and hat functions; words and listed values TF-IDF; numbers bumps over their range. More
        columns of these than 256 are reduced by a truncated singular value decomposition (latent semantic analysis, Deerwester
        et al. 1990). Vectors, and what a text encoder says of titles and texts, stand beside them as they are.
        """
        m = len(self.titles)
        years = year_columns(self.titles, np.arange(m))
        blocks = [_unit_rows(_has(self.genres)), _unit_rows(sp.csr_array(years))]
        blocks.append(_TITLE_WEIGHT * _tf_idf(self.titles, _title_words))
        if self.attributes is not None:
            blocks += [_attribute(self.attributes[name]) for name in self.attributes.columns]
        told = self.further
        blocks += [_tf_idf(values, _values) for _, values in told.categories()]
        blocks += [_bumps(told.numbers(name)) for name in told.of_kind("number")]
        blocks += [_tf_idf(told.texts(name), _values) for name in told.of_kind("text")]
        vectors = [unit_vectors(told.vectors(name)) for name in told.of_kind("vector")]
        if self.texts is not None:
            words = [[_YEAR.sub("", title) for title in self.titles], *map(told.texts, told.of_kind("text"))]
            vectors += [Whitening.fit(found, power=0).transform(found) for found in map(self.texts, words)]
        return np.hstack([_reduced(sp.csr_array(sp.hstack(blocks))), *vectors])


def place_by_content(
    parameters: NDArray[np.float32], described: ContentItems, *, implicit: bool = True
) -> NDArray[np.float32]:
    """Item parameters in which the rows of zeros are predicted from attributes, where the item has any.

    Args:
        parameters: float32 ``[m, row]``: factors, and the item bias of explicit feedback; not changed.
        described: the m items; their features are computed where there is something to place and enough to learn from.
        implicit: whether they are of implicit feedback, where an item's norm tells how many have it. What is placed then gets
            the norm of the least known items that have interactions: its direction is its own, but nobody's silence may
            outrank somebody's choice.

    Returns:
        float32 ``[m, row]``; ``parameters`` itself where nothing is to be done.
    """
    cold = ~parameters.any(axis=1)
    if not cold.any() or (~cold).sum() < _FEWEST:
        return parameters
    features = described.features()
    placed = cold & features.any(axis=1)
    if not placed.any():
        return parameters
    known, targets = features[~cold], parameters[~cold].astype(np.float64)
    if described.much_told:
        predicted = kernel_ridge.predict(known, targets, features[placed])
    else:
        from sklearn.linear_model import RidgeCV

        predicted = RidgeCV(alphas=_ALPHAS).fit(known, targets).predict(features[placed])
    if implicit:
        least = np.quantile(np.linalg.norm(parameters[~cold], axis=1), _LEAST_KNOWN)
        predicted *= least / max(float(np.linalg.norm(predicted, axis=1).mean()), 1e-12)
    result = parameters.copy()
    result[placed] = predicted
    _log.info("%d of %d items without interactions are placed by their attributes", placed.sum(), cold.sum())
    return result


def _has(genres: Sequence[Sequence[str]]) -> sp.csr_array:
    """float64 ``[m, g]``: 1 where an item has a genre."""
    place = {name: column for column, name in enumerate(sorted({name for own in genres for name in own}))}
    rows = [row for row, own in enumerate(genres) for _ in dict.fromkeys(own)]
    columns = [place[name] for own in genres for name in dict.fromkeys(own)]
    return sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(genres), len(place)))


def _attribute(column: pl.Series) -> sp.csr_array:
    """float64 ``[m, ·]``; an item without a value has a row of zeros."""
    if column.dtype.is_numeric():
        return _bumps(column.cast(pl.Float64).to_numpy())
    return _tf_idf(column.to_list(), _values)


def _bumps(values: NDArray[np.float64]) -> sp.csr_array:
    known = np.isfinite(values)
    spread = values[known].std() if known.any() else 0.0
    if not spread:
        return sp.csr_array((len(values), 0))
    scaled = np.where(known, (values - values[known].mean()) / spread, 0.0)
    # Bumps along the line, so that what is in the middle may differ from both ends.
    bumps = np.exp(-0.5 * np.square(scaled[:, None] - np.arange(-2, 3)))
    return _unit_rows(sp.csr_array(bumps * known[:, None]))


def _values(value: Any) -> Iterable[str]:
    """Of a list its values, of a text its words."""
    if value is None:
        return ()
    if isinstance(value, (list, tuple)):
        return [str(one).casefold() for one in value if one is not None]
    return _WORD.findall(str(value).casefold())


def _title_words(title: str) -> Iterable[str]:
    """Numbers are left to the year."""
    return [word for word in _WORD.findall(title.casefold()) if not word.isdecimal()]


def _tf_idf(values: Sequence[Any], words: Callable[[Any], Iterable[str]]) -> sp.csr_array:
    """float64 ``[m, words]``: words that at least two items and at most half of them have, each counted once."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    documents = [sorted(set(words(value))) for value in values]
    vectorizer = TfidfVectorizer(analyzer=lambda document: document, min_df=2, max_df=0.5, binary=True)
    try:
        return sp.csr_array(vectorizer.fit_transform(documents))
    except ValueError:
        # Not one word is left.
        return sp.csr_array((len(documents), 0))


def _unit_rows(block: sp.csr_array) -> sp.csr_array:
    from sklearn.preprocessing import normalize

    return sp.csr_array(normalize(block)) if block.shape[1] else block


def _reduced(features: sp.csr_array) -> NDArray[np.float64]:
    from sklearn.decomposition import TruncatedSVD

    if features.shape[1] <= _DIMENSIONS or features.shape[0] <= _DIMENSIONS:
        return np.asarray(features.toarray())
    reduced: NDArray[np.float64] = TruncatedSVD(_DIMENSIONS, random_state=0).fit_transform(features)
    return reduced
