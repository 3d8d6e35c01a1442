"""Places items that a platform lacks among its own tastes, by what is publicly known of them.

The platform's own users show along which tastes items differ here. Where an item stands on them can be learned, on the
items in common with others, from public attributes and foreign popularity, and then told of items that only others have
(a mapping between domains as in Man et al. 2017, "Cross-domain recommendation: an embedding and mapping approach", with
ridge regression from attributes in place of a network). Only public values go in besides own data; nothing leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from client.data.dataset import UserItemMatrix
from client.scoring.demand import standard_columns
from client.scoring.part import Arrays, Carried, Part, UserHistory, stored
from common.errors import ContractError

_OVERSAMPLING = 16
_ITERATIONS = 30
_ROUNDING = 1e-8
_MOST_EXAMPLES = 1000
"""Common items that others are compared with: time grows with their square times all common items."""
_STRAIGHT = 0.1
"""Share of a straight line in a likeness, so that an item that is like none is placed by it."""
_BLOCK = 4096


@stored("attributes")
@dataclass(frozen=True, eq=False)
class AttributePart(Part):
    """(x V)·(W f_j): a user's tastes, the sum of those of the items in the history, against where f_j places an item.

    Attributes:
        tastes: float32 ``[n_columns, r]``: V, zero in rows of items that the platform lacks.
        item_factors: float32 ``[m, r]``: W f_j of every item.
    """

    tastes: NDArray[np.float32]
    item_factors: NDArray[np.float32]
    name: str = "attributes"

    def __post_init__(self) -> None:
        if self.tastes.shape[1:] != self.item_factors.shape[1:]:
            raise ContractError(f"tastes {self.tastes.shape} do not fit item factors {self.item_factors.shape}")

    @property
    def items(self) -> NDArray[np.float32]:
        """float32 ``[m, r]``."""
        return self.item_factors

    def at(self, rows: NDArray[np.integer]) -> AttributePart:
        """The same over the items ``rows`` alone."""
        return replace(self, item_factors=self.item_factors[rows])

    def factor(self, history: UserHistory) -> NDArray[np.float64]:
        """float64 ``[r]``; neither the order of the history nor its values count."""
        factor: NDArray[np.float64] = self.tastes[history.columns].sum(axis=0, dtype=np.float64)
        return factor

    def factors(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float64]:
        """float64 ``[k, r]``."""
        x = histories.select_users(np.asarray(users)).incidence()
        return np.asarray(x @ self.tastes.astype(np.float64))

    def carried(self, row: int, deviation: NDArray[np.float64], history: UserHistory) -> Carried:
        """How far each item of the history shares the tastes that the scored item meets; nothing else adds."""
        amounts = self.tastes[history.columns].astype(np.float64) @ deviation
        return Carried(np.arange(len(amounts)), amounts, 0.0, {})

    def arrays(self) -> Arrays:
        """Tastes and item factors."""
        return {"tastes": self.tastes, "items": self.item_factors}

    @classmethod
    def of_arrays(cls, name: str, arrays: Arrays) -> AttributePart:
        """Take back :meth:`arrays`."""
        return cls(arrays["tastes"], arrays["items"], name)


def fit_attribute_transfer(
    histories: UserItemMatrix,
    common: NDArray[np.integer],
    features: NDArray[np.float64],
    *,
    dimension: int = 16,
    regularization: float = 200.0,
) -> AttributePart:
    """Learn own tastes by singular value decomposition, and by ridge regression how attributes tell them.

    Args:
        histories: n × m, in columns of the vocabulary; own users alone.
        common: int ``[c]``; positions of items that this platform and others have.
        features: float64 ``[m, f]``; public, from the same source for common and foreign items
            (:meth:`client.personalization.described.DescribedItems.columns`, and the foreign popularity).
        dimension: r, the number of tastes; fewer where the data has fewer.
        regularization: λ, in units of items, for features of deviation 1.
    """
    return place_among(own_tastes(histories.incidence(), dimension), common, features, regularization=regularization)


def place_among(
    tastes: NDArray[np.float64],
    common: NDArray[np.integer],
    features: NDArray[np.float64],
    *,
    regularization: float,
    name: str = "attributes",
) -> AttributePart:
    """Items among ``tastes`` (float64 ``[m, r]``); other arguments as of :func:`fit_attribute_transfer`."""
    if tastes.shape[1] == 0 or len(common) == 0:
        nothing = np.zeros((len(tastes), 1), dtype=np.float32)
        return AttributePart(nothing, nothing, name)
    design = standard_columns(features, common)
    mean = tastes[common].mean(axis=0)
    known = design[common]
    normal = known.T @ known + regularization * np.eye(known.shape[1])
    weights = np.linalg.solve(normal, known.T @ (tastes[common] - mean))
    return AttributePart(tastes.astype(np.float32), (mean + design @ weights).astype(np.float32), name)


def by_likeness(
    targets: NDArray[np.float64], common: NDArray[np.integer], features: NDArray[np.float64], *, regularization: float
) -> NDArray[np.float32]:
    """float32 ``[m, r]``: ``targets`` as common items tell that are like each item in all features at once.

    Kernel ridge regression: K(x, y) = exp(−‖x − y‖²/2f) + 0.1·xᵀy/f of f standard features. Where an item stands need not be
    a sum of what each feature says: one by one they say little of an item that few have, and much together. Of more than
    1,000 common items as many, evenly spread, are compared with, and all are fitted (Nyström's method: Williams & Seeger 2001,
    "Using the Nyström method to speed up kernel machines").

    Args:
        targets: float64 ``[m, r]``; those of the items ``common`` are read.
        common: as of :func:`fit_attribute_transfer`.
        features: as of :func:`fit_attribute_transfer`.
        regularization: λ, beside likenesses of about 1.
    """
    found = np.zeros(targets.shape, dtype=np.float32)
    if targets.size == 0 or len(common) == 0:
        return found
    design = standard_columns(features, common)
    examples = design[common[np.unique(np.linspace(0, len(common) - 1, min(len(common), _MOST_EXAMPLES)).astype(int))]]
    mean, known = targets[common].mean(axis=0), _likeness(design[common], examples)
    normal = known.T @ known + regularization * _likeness(examples, examples)
    normal[np.diag_indices_from(normal)] += _ROUNDING * np.trace(normal) / len(normal)
    weights = scipy.linalg.solve(normal, known.T @ (targets[common] - mean), assume_a="pos")
    for start in range(0, len(design), _BLOCK):
        found[start : start + _BLOCK] = mean + _likeness(design[start : start + _BLOCK], examples) @ weights
    return found


def _likeness(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 ``[a, b]`` of rows of f standard features: 1 and more of equal ones, about .4 of any two."""
    f = max(left.shape[1], 1)
    likeness: NDArray[np.float64] = (
        np.exp(cdist(left, right, "sqeuclidean") / (-2.0 * f)) + _STRAIGHT * (left @ right.T) / f
    )
    return likeness


def own_tastes(x: sp.csr_array, dimension: int, iterations: int = _ITERATIONS) -> NDArray[np.float64]:
    """float64 ``[m, r]``: the right singular vectors of the r largest singular values, by subspace iteration.

    Halko et al. 2011, algorithm 4.4. ARPACK is no alternative: its restarts draw from a state that lives as long as the
    process, so that the same data gives different tastes.
    """
    n, m = x.shape
    width = min(dimension + _OVERSAMPLING, n, m)
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((m, width)))[0]
    for _ in range(iterations):
        basis = np.linalg.qr(x.T @ (x @ basis))[0]
    _, values, turn = np.linalg.svd(x @ basis, full_matrices=False)
    used = np.flatnonzero(values[:dimension] > 1e-6 * values.max(initial=0.0))
    tastes: NDArray[np.float64] = basis @ turn[used].T
    # An item without users, or apart from all others, has none: what is left there is rounding, and would rank.
    tastes[np.abs(tastes) < _ROUNDING] = 0.0
    return tastes
