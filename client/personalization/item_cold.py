"""Weights of cross-platform scorers from item-cold validation: the platform hides some of its own common items from itself.

Items that the platform has and others have, too, are dealt out to folds. A fold's items are taken out of histories, every
scorer is fitted again without them, and then ranks them: who really had one is known. So it works in a deployment as in a
simulation, releases nothing, and never looks at what users did with items that the platform lacks. A conditional logit
(McFadden 1974) over the folds' items says how the scorers weigh, none below 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.personalization.cross_parts import NEAR_FACTORS, CrossParts
from client.personalization.platform_model import CrossVerdict
from client.scoring.blend import Blend
from client.scoring.factors import FactorModel
from client.scoring.part import Part
from client.scoring.scorer import z
from common.metrics import two_way_interval

_FOLDS = 5
_USERS = 400
"""A fold, at most: more change the weights by less than other folds would."""
_FEWEST_ITEMS, _FEWEST_USERS = 25, 30
"""Common items and users with something to find, below which no weights can be told from luck."""
_RIDGE = 1e-3
_LIST, _SHORTEST = 20, 5
_START = 0.1
_ADMITTED = 0.6
"""Coverage of the interval by which near factors must make the blend better: as of the verdict on own items."""
_DROPPED = 1e-3
"""A weight below it is 0: its part would cost time and rank nothing."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Some users and hidden items.

    Attributes:
        features: float32 ``[u, c, k]``: standardised scores of each of k scorers.
        truth: bool ``[u, c]``.
        users: int ``[u]``.
        items: int ``[c]``: positions of the hidden items.
    """

    features: NDArray[np.float32]
    truth: NDArray[np.bool_]
    users: NDArray[np.integer]
    items: NDArray[np.integer]


def choose_blend(
    data: CrossParts,
    shared: FactorModel,
    without_own: NDArray[np.float32] | None,
    rng: np.random.Generator,
    *,
    level: float,
) -> tuple[Blend, CrossVerdict] | None:
    """Return what ranks the others' items, weighed on own ones; popularity alone where the blend is not surely better.

    Args:
        data: what scorers are fitted on.
        shared: the federation's factors, over the vocabulary.
        without_own: float32 ``[m, row]``: item parameters; own users have no say in those of own items. With their say in
            them the shared factors would look better than they are: None leaves these out.
        rng: deals items and users out to folds.
        level: coverage of the two-sided interval whose lower end must exceed 0, for other users and other items.

    Returns:
        None where the platform has too little in common with others to validate on.
    """
    common = data.own[data.others[data.own]]
    folds, names = _folds(data, shared, without_own, rng)
    users = len(np.unique(np.concatenate([fold.users for fold in folds]))) if folds else 0
    if len(common) < _FEWEST_ITEMS or users < _FEWEST_USERS:
        return None
    depth = _LIST / max(int(data.others.sum()) - len(common), 1)
    names, weights, reached = _admitted(folds, names, depth)
    popularity = data.popularity()
    alone = [np.broadcast_to(popularity.of_items[fold.items], fold.truth.shape) for fold in folds]
    popular = _found(folds, alone, depth)
    interval = two_way_interval(
        popular.users, popular.items, popular.shares, reached.found.astype(float) - popular.found, level=level
    )
    better = interval.lower > 0
    verdict = CrossVerdict(
        name="blend" if better else "popularity",
        metric=f"recall@{_LIST}",
        users=users,
        popularity_mean=popular.recall,
        chosen_mean=(reached if better else popular).recall,
        interval=(interval.lower, interval.upper),
    )
    if not better:
        return Blend(weights={popularity.name: 1.0}, parts=(popularity,)), verdict
    weight_of = dict(zip(names, weights, strict=True))
    parts = _named(data.fitted(data.own, data.histories, shared), names)
    return _blend(parts, np.array([weight_of[part.name] for part in parts])), verdict


def _admitted(folds: Sequence[Fold], names: list[str], depth: float) -> tuple[list[str], NDArray[np.float64], _Found]:
    """Names of the scorers, their weights, and what they found of items that had no say in them.

    Near factors are left out where the blend is not surely better with them: parts of one market gain by them, and separate
    catalogues did not.
    """
    weights, reached = _judged_blend(folds, depth)
    if NEAR_FACTORS not in names:
        return names, weights, reached
    kept = [place for place, name in enumerate(names) if name != NEAR_FACTORS]
    less_weights, less = _judged_blend([replace(fold, features=fold.features[..., kept]) for fold in folds], depth)
    gain = reached.found.astype(float) - less.found
    if two_way_interval(less.users, less.items, less.shares, gain, level=_ADMITTED).lower > 0:
        return names, weights, reached
    return [names[place] for place in kept], less_weights, less


def _judged_blend(folds: Sequence[Fold], depth: float) -> tuple[NDArray[np.float64], _Found]:
    """Weights of all folds, and what each fold's users find by weights that its items had no say in."""
    weights = conditional_logit(folds)
    scores = [
        fold.features
        @ conditional_logit([other for other in folds if other is not fold], start=weights).astype(np.float32)
        for fold in folds
    ]
    return weights, _found(folds, scores, depth)


def conditional_logit(folds: Sequence[Fold], start: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """float64 ``[k]``: w ≥ 0 that maximises the mean of log softmax(Σ w_k z_k) over what users had, less 0.001·‖w‖².

    The softmax of a user is over a fold's items. The problem is convex.
    """
    k, n = folds[0].features.shape[2], sum(float(fold.truth.sum()) for fold in folds)
    begin = np.full(k, _START) if start is None else start

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        total, slope = 0.0, np.zeros(k)
        for fold in folds:
            scores = fold.features @ weights.astype(np.float32)
            scores -= scores.max(axis=1, keepdims=True)
            odds = np.exp(scores)
            normal = odds.sum(axis=1, keepdims=True)
            wanted = fold.truth.sum(axis=1, keepdims=True)
            total += float((wanted * np.log(normal)).sum() - scores[fold.truth].sum())
            surplus = (wanted * (odds / normal) - fold.truth).astype(np.float32)
            slope += np.tensordot(surplus, fold.features, axes=2)
        return total / n + _RIDGE * float(weights @ weights), slope / n + 2 * _RIDGE * weights

    found = scipy.optimize.minimize(
        loss, begin, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * k, options={"maxiter": 100, "ftol": 1e-7}
    )
    weights: NDArray[np.float64] = np.where(found.x < _DROPPED, 0.0, found.x)
    return weights


_Fitted = tuple[list[Part], NDArray[np.integer], UserItemMatrix, NDArray[np.integer], UserItemMatrix]
"""Scorers of a fold, its hidden items, histories without them, users who had some, and which."""


def _folds(
    data: CrossParts, shared: FactorModel, without_own: NDArray[np.float32] | None, rng: np.random.Generator
) -> tuple[list[Fold], list[str]]:
    """Return the folds that have users, and the names of the scorers that all folds have."""
    common = data.own[data.others[data.own]]
    if len(common) < _FEWEST_ITEMS:
        return [], []
    of_fold, fitted = rng.permutation(len(common)) % _FOLDS, list[_Fitted]()
    for number in range(_FOLDS):
        hidden = common[of_fold == number]
        truth = data.histories.select_items(hidden)
        users = np.flatnonzero(truth.row_lengths)
        users = np.sort(rng.permutation(users)[:_USERS])
        mask = np.zeros(data.histories.n_items, dtype=np.bool_)
        mask[hidden] = True
        left = data.histories.select_entries(~mask[data.histories.indices])
        known = shared
        if without_own is not None:
            known = replace(shared, item_parameters=shared.with_rows(hidden, without_own[hidden]))
        parts = _judged(data.fitted(np.setdiff1d(data.own, hidden), left, known), without_own)
        fitted.append((parts, hidden, left, users, truth))
    # Some scorers want attributes that occur together, which the items left of a fold need not have.
    everywhere = set.intersection(*({part.name for part in parts} for parts, *_ in fitted))
    names = [part.name for part in fitted[0][0] if part.name in everywhere]
    folds = []
    for parts, items, histories, judging, having in fitted:
        if len(judging):
            features = _standardised(_named(parts, names), items, histories, judging)
            folds.append(Fold(features, _dense(having.select_users(judging)), judging, items))
    return folds, names


def _named(parts: Sequence[Part], names: Sequence[str]) -> list[Part]:
    return [part for part in parts if part.name in names]


def _judged(parts: Sequence[Part], without_own: NDArray[np.float32] | None) -> list[Part]:
    """Those that own items can tell the worth of."""
    return [part for part in parts if without_own is not None or part.name not in {"shared", NEAR_FACTORS}]


def _standardised(
    parts: Sequence[Part], hidden: NDArray[np.integer], histories: UserItemMatrix, users: NDArray[np.integer]
) -> NDArray[np.float32]:
    return np.stack([z(part.at(hidden).scores(histories, users)) for part in parts], axis=-1)


def _dense(matrix: UserItemMatrix) -> NDArray[np.bool_]:
    dense = np.zeros((matrix.n_users, matrix.n_items), dtype=np.bool_)
    dense[matrix.entry_users(), matrix.indices] = True
    return dense


@dataclass(frozen=True, eq=False)
class _Found:
    """Holds what a ranking found of all that the folds' users had.

    Attributes:
        users, items: int ``[n]``: of each interaction.
        shares: float64 ``[n]``: what finding it adds to the recall, a mean over users of means over folds.
        found: bool ``[n]``.
    """

    users: NDArray[np.integer]
    items: NDArray[np.integer]
    shares: NDArray[np.float64]
    found: NDArray[np.bool_]

    @property
    def recall(self) -> float:
        return float(self.shares @ self.found)


def _found(folds: Sequence[Fold], scores: Sequence[NDArray[np.float32]], depth: float) -> _Found:
    """Count what lists find that are as large a share (``depth``) of the candidates as 20 are of the others' items."""
    judged, times = np.unique(np.concatenate([fold.users for fold in folds]), return_counts=True)
    parts = []
    for fold, scored in zip(folds, scores, strict=True):
        n_items = fold.truth.shape[1]
        length = int(np.clip(round(depth * n_items), min(_SHORTEST, n_items), _LIST))
        # Of equal scores those that nobody wanted come first, as in every evaluation.
        listed = np.zeros(fold.truth.shape, dtype=np.bool_)
        np.put_along_axis(listed, np.lexsort((fold.truth, -scored), axis=1)[:, :length], True, axis=1)
        rows, columns = np.nonzero(fold.truth)
        folds_of = times[np.searchsorted(judged, fold.users)]
        shares = 1.0 / (np.minimum(fold.truth.sum(axis=1), length) * folds_of * len(judged))
        parts.append((fold.users[rows], fold.items[columns], shares[rows], listed[rows, columns]))
    return _Found(*(np.concatenate(of_folds) for of_folds in zip(*parts, strict=True)))


def _blend(parts: Sequence[Part], weights: NDArray[np.float64]) -> Blend:
    """The parts that weigh anything; shared factors are the platform model's own."""
    kept = [(part, float(weight)) for part, weight in zip(parts, weights, strict=True) if weight > 0]
    return Blend(
        weights={part.name: weight for part, weight in kept},
        parts=tuple(part for part, _ in kept if part.name != "shared"),
    )
