"""Fits what may rank the items that only others have: one list of scorers, fitted at home on own data and public words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.personalization.described import DescribedItems
from client.scoring.attributes import AttributePart, by_likeness, own_tastes, place_among
from client.scoring.demand import standard_columns
from client.scoring.described.counted import CountedPart, category_part
from client.scoring.described.nearest import fit_nearest
from client.scoring.described.prior import PriorPart
from client.scoring.described.profile import ProfilePart, fit_profile
from client.scoring.described.released_counts import ReleasedCounts
from client.scoring.factors import FactorModel, shared_on_vocabulary
from client.scoring.fold_in import FoldIn
from client.scoring.part import Part
from client.training.fit import fit

_RIDGES = (200.0, 600.0)
"""λ of tastes, in units of items. Which is right differs between domains: both are offered, validation weighs them. A λ that
predicts tastes best ranks worse: an error of the ranking is none of the regression."""
_DIMENSION = 48
_ITERATIONS = 10
_FEWEST_TOGETHER, _MOST_PAIRS = 10, 256
"""Common items that have two features, so that what both together say can be learned; and how many such pairs, at most."""
_PENALTIES = 10.0 ** np.arange(0, 3.51, 0.5)
_LEAST_RATE = 1e-9
_FACTOR_RIDGES = (50.0, 600.0)
"""The same of tastes by factors, which tell more of an item than its description."""
NEAR_FACTORS = "near factors"
_OWN_STEPS = 3
"""Of conjugate gradients, in own factors."""
_LIKENESS_RIDGE = 0.3
"""λ of what is placed by likeness; from 0.1 to 1 own items are ranked about alike."""
TASTES_BY_LIKENESS, FACTORS_BY_LIKENESS = "tastes by likeness", "own factors by likeness"
_BY_SUM = tuple(f"tastes by factors {ridge:g}" for ridge in _FACTOR_RIDGES)
TASTES_BY_FACTORS = (*_BY_SUM, TASTES_BY_LIKENESS, FACTORS_BY_LIKENESS)


@dataclass(frozen=True, eq=False, kw_only=True)
class CrossParts:
    """Everything that the scorers are fitted on, in columns of the vocabulary.

    Attributes:
        histories: n × m; training interactions.
        own: int: positions of the platform's shared items, rising.
        others: bool ``[m]``: whether another platform shares the item.
        foreign_counts: float64 ``[m]``: users of the other platforms who have each item; may be noisy.
        foreign_users: float64 ``[m]``: users of the platforms that have the item, the own one left out. Where an item cannot
            be had it is not disliked: popularity is a rate among those who could.
        described: the m items.
        released: what is known of the counts where noise is on them; None where they are exact.
        factors_told: whether the aggregator told what item parameters are without own users, or they are reckoned at home.
    """

    histories: UserItemMatrix
    own: NDArray[np.integer]
    others: NDArray[np.bool_]
    foreign_counts: NDArray[np.float64]
    foreign_users: NDArray[np.float64]
    described: DescribedItems
    released: ReleasedCounts | None = None
    factors_told: bool = True

    @cached_property
    def log_rate(self) -> NDArray[np.float64]:
        """float64 ``[m]``: log of the share of the others' users who have the item."""
        counts = np.maximum(self.foreign_counts, 0.0) + 0.5
        rate = np.where(self.foreign_users > 0, counts / np.maximum(self.foreign_users, 1.0), 0.0)
        logarithms: NDArray[np.float64] = np.log(np.maximum(rate, _LEAST_RATE))
        return logarithms

    @cached_property
    def _told(self) -> DescribedItems:
        """By what is told of enough of the items that this platform lacks."""
        return self.described.well_told(np.setdiff1d(np.flatnonzero(self.others), self.own))

    @cached_property
    def _features(self) -> NDArray[np.float64]:
        return self._told.features(self.own)

    @cached_property
    def _all_features(self) -> NDArray[np.float64] | None:
        """With what is told of a few; None where that is nothing."""
        return None if self._told is self.described else self.described.features(self.own)

    @cached_property
    def _near(self) -> list[CountedPart]:
        """Nearest texts, and nearest pictures and the like."""
        return [fit_nearest(vectors, vectors, name=name) for name, vectors in self._told.near.items()]

    def popularity(self) -> PriorPart:
        """How many users of the other platforms have each item, as told: what needs no model at all."""
        return PriorPart("popularity", np.log(np.maximum(self.foreign_counts, 0.0) + 0.5).astype(np.float32))

    def fitted(
        self,
        readable: NDArray[np.integer],
        histories: UserItemMatrix,
        shared: FactorModel,
        without_own: NDArray[np.float32] | None = None,
    ) -> list[Part]:
        """All scorers, as if the platform had the items ``readable`` alone.

        Args:
            readable: int: positions among :attr:`own`.
            histories: n × m; interactions with these.
            shared: factors over the vocabulary.
            without_own: float32 ``[m, row]``: factors as the others' users alone have made them; None where nobody can tell.
        """
        common = readable[self.others[readable]]
        counts = histories.item_counts().astype(np.float64)
        features, rate = self._features, self.log_rate
        parts: list[Part] = [
            PriorPart("popularity", rate.astype(np.float32)),
            shared_on_vocabulary(shared, readable.astype(np.int32)),
            near_factors(shared, readable),
        ]
        told = np.column_stack([features, self._told.text_features])
        demand = _demand(told, counts, readable)
        if told.shape[1]:
            parts.append(PriorPart("demand", demand))
        if self.released is not None:
            rate = self.released.log_rates(demand[:, None].astype(np.float64))
            parts.append(PriorPart("popularity expected", rate.astype(np.float32)))
        if features.shape[1]:
            parts.append(
                fit_profile(
                    standard_columns(features, readable),
                    readable,
                    unobserved_weight=0.1 * shared.config.unobserved_weight,
                )
            )
        known = np.column_stack([rate, rate**2, features])
        if self.released is not None:
            also = np.column_stack([known, self._told.text_features])
            parts.append(PriorPart("demand with foreign popularity", _demand(also, counts, common)))
        tastes = own_tastes(histories.incidence(), _DIMENSION, _ITERATIONS)
        parts += [
            place_among(tastes, common, known, regularization=ridge, name=f"tastes {ridge:g}") for ridge in _RIDGES
        ]
        # What is reckoned at home of noisy factors lacks more than own users' part. Items that the platform lacks lack nothing,
        # and what a regression learns of the difference is wrong for them.
        if without_own is not None and (self.released is None or self.factors_told):
            by = np.column_stack([known, without_own.astype(np.float64)])
            parts += [
                place_among(tastes, common, by, regularization=ridge, name=name)
                for ridge, name in zip(_FACTOR_RIDGES, _BY_SUM, strict=True)
            ]
            parts += placed_by_likeness(histories, tastes, by, readable, common, shared)
        pairs = _pairs(features, rate, common)
        if pairs.shape[1]:
            both = np.column_stack([known, pairs])
            parts.append(place_among(tastes, common, both, regularization=max(_RIDGES), name="tastes of pairs"))
        if self._all_features is not None:
            known = np.column_stack([rate, rate**2, self._all_features])
            parts.append(place_among(tastes, common, known, regularization=max(_RIDGES), name="tastes of all"))
        parts += [category_part(name, has, readable) for name, has in self.described.has.items()]
        return parts + self._near


def placed_by_likeness(
    histories: UserItemMatrix,
    tastes: NDArray[np.float64],
    features: NDArray[np.float64],
    readable: NDArray[np.integer],
    common: NDArray[np.integer],
    shared: FactorModel,
) -> list[Part]:
    """Items among own tastes, and among factors that own users alone have made, where common items are that are like them.

    Args:
        histories: n × m.
        tastes: float64 ``[m, r]``.
        features: float64 ``[m, f]``.
        readable: int: the items that histories may hold.
        common: int: those that others have, too.
        shared: own factors have its dimension and its weights.
    """
    config = shared.config.model_copy(update={"solver": "cg", "cg_steps": _OWN_STEPS, "recency_boost": 0.0})
    catalogue = fit(histories.select_items(readable), config, np.random.default_rng(0)).item_factors
    own = np.zeros((len(tastes), catalogue.shape[1]))
    own[readable] = catalogue
    placed = by_likeness(np.column_stack([tastes, own]), common, features, regularization=_LIKENESS_RIDGE)
    rows = np.full(len(tastes), -1, dtype=np.int32)
    rows[readable] = np.arange(len(readable))
    items = np.ascontiguousarray(placed[:, tastes.shape[1] :])
    return [
        AttributePart(tastes.astype(np.float32), placed[:, : tastes.shape[1]], TASTES_BY_LIKENESS),
        ProfilePart(FACTORS_BY_LIKENESS, FoldIn(catalogue, config), rows, items),
    ]


def near_factors(shared: FactorModel, readable: NDArray[np.integer]) -> CountedPart:
    """Items whose shared factors point where those of single items of a history do.

    A user's factor is a mean of what the user likes: who likes two unlike things gets what lies between. This counts what is
    near to either.

    Args:
        shared: factors over the vocabulary.
        readable: int: the items that histories may hold.
    """
    vectors = shared.item_parameters.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0).astype(np.float32)
    known = np.zeros_like(unit)
    known[readable] = unit[readable]
    return fit_nearest(known, unit, name=NEAR_FACTORS)


def _pairs(features: NDArray[np.float64], rate: NDArray[np.float64], rows: NDArray[np.integer]) -> NDArray[np.float64]:
    """float64 ``[m, k]``: products of two features that enough of the items ``rows`` have both, and of each with the rate.

    Features that most items have say little by being there, and pair with everything: they are left out, as are directions,
    which no item has or lacks.
    """
    features = features[:, (features >= 0).all(axis=0)]
    there = features[rows] != 0
    rare = np.flatnonzero((there.sum(axis=0) >= _FEWEST_TOGETHER) & (there.mean(axis=0) <= 0.5))
    if len(rows) == 0 or len(rare) == 0:
        return np.zeros((len(features), 0))
    together = np.triu(there[:, rare].T.astype(np.float64) @ there[:, rare], 1)
    first, second = np.nonzero(together >= _FEWEST_TOGETHER)
    kept = np.argsort(-together[first, second], kind="stable")[:_MOST_PAIRS]
    products = features[:, rare[first[kept]]] * features[:, rare[second[kept]]]
    return np.column_stack([products, features[:, rare] * rate[:, None]])


def users_of_owners(
    owners: NDArray[np.bool_], counts: NDArray[np.float64], histories: UserItemMatrix
) -> NDArray[np.float64]:
    """float64 ``[m]``: about how many users of other platforms could have each item: those of the platforms that share it.

    How many users a platform has is not told. But of a common item the counts there and here are known, and they are in
    proportion to the users: least squares over the common items, none below 0, in units of own users. A platform without
    common items counts as the mean of the others.

    Args:
        owners: bool ``[m, P − 1]``: who of the others shares what.
        counts: float64 ``[m]``: their users who have it; may be noisy.
        histories: n × m; own.
    """
    here = histories.item_counts() / max(histories.n_users, 1)
    common = np.flatnonzero((here > 0) & owners.any(axis=1))
    # Counts vary by their root.
    root = np.sqrt(here[common])
    users, _ = scipy.optimize.nnls(owners[common] * root[:, None], counts[common] / np.maximum(root, 1e-12))
    known = users > 0
    users = np.where(known, users, users[known].mean() if known.any() else 1.0)
    return np.asarray(owners @ users, dtype=np.float64)


def _demand(
    features: NDArray[np.float64], counts: NDArray[np.float64], rows: NDArray[np.integer]
) -> NDArray[np.float32]:
    """float32 ``[m]``: ridge regression of log(1 + own users) on features of the items ``rows``; λ by leave-one-out error."""
    if len(rows) < 2:
        return np.zeros(len(features), dtype=np.float32)
    design = standard_columns(features, rows)
    target = np.log1p(counts[rows])
    left, values, right = np.linalg.svd(design[rows], full_matrices=False)
    turned, best, weights = left.T @ (target - target.mean()), np.inf, np.zeros(design.shape[1])
    for penalty in _PENALTIES:
        shrunk = values**2 / (values**2 + penalty)
        residuals = target - target.mean() - left @ (shrunk * turned)
        error = float(np.mean(np.square(residuals / np.maximum(1.0 - np.square(left) @ shrunk, 1e-6))))
        if error < best:
            best, weights = error, right.T @ (values / (values**2 + penalty) * turned)
    return (design @ weights).astype(np.float32)
