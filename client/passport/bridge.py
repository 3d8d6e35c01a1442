"""From a profile in another platform's basis to own items, learned at home from redeemed passports of users with a history.

Ridge regression of the holders' items on their profiles, around the share of all own users who have each item: with a large
λ it *is* popularity, so that few holders lean on it. λ, how fast it grows along the profile's directions (the first tell most),
and how far the weights are drawn to the patterns of the platform's own histories are chosen by cross-validation over holders.
Whether the bridge is used is judged on folds that had no part in that choice: only where it surely beats popularity there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.passport.basis import leading_directions, scaled_histories
from common.metrics.bootstrap import PairedInterval, paired_bootstrap

DEPTH = 20
FEWEST = 20
"""People below whom nothing is chosen or judged."""
_FOLDS = 5
FEWEST_HOLDERS = _FOLDS * FEWEST
"""Below it popularity ranks, however sure the gain looks: each fold must judge as many people as anything else here."""
_RANKED = 2000
"""Items, the most common ones, that are ranked while a setting is chosen; all of them once it is."""
_JUDGED = 6000
"""Holders whose lists are looked at; more cost time and tell little."""
_DECAYS = (2.0, 1.0, 0.0)
_RIDGES = (100.0, 30.0, 10.0, 3.0)
_KNEE = 32
"""Direction at which λ is what it says."""
_PATTERNS = (1.0, 0.5, 0.0)
_PATTERN_RANK = 128
_LEVEL = 0.95
_LEANING = 100
"""Holders with whom as much is left to popularity as to them."""


@dataclass(frozen=True)
class Setting:
    """Holds what cross-validation chooses.

    Attributes:
        decay: γ: direction j has the ridge λ(j/32)^γ, so that the later ones, which tell less, count less.
        ridge: λ, in units of holders.
        pattern: in [0, 1]: how far weights are projected onto the patterns of own histories.
    """

    decay: float
    ridge: float
    pattern: float


@dataclass(frozen=True, eq=False)
class Bridge:
    """score = share + (profile − centre) · weights.

    Attributes:
        centre: float32 ``[d]``: mean profile of the holders.
        weights: float32 ``[d, m]``.
        share: float32 ``[m]``: of own users who have each item.
    """

    centre: NDArray[np.float32]
    weights: NDArray[np.float32]
    share: NDArray[np.float32]

    def scores(self, profiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 ``[k, m]`` of profiles ``[k, d or more]``."""
        deviation = profiles[:, : len(self.centre)] - self.centre
        return np.asarray(self.share + deviation @ self.weights, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class FittedBridge:
    """A bridge and what was seen when it was judged.

    Attributes:
        bridge: None: popularity ranks.
        holders: from whom it was learned.
        setting: chosen on them; None: too few holders.
        popularity: mean Recall@20 of popularity on the held-out holders.
        gain: of the bridge over it, with its paired bootstrap interval.
        trial: learned without the holders ``tried``, on whom its place beside own history can be chosen; None without one.
        tried: rows of these holders.
    """

    bridge: Bridge | None
    holders: int
    setting: Setting | None = None
    popularity: float = 0.0
    gain: PairedInterval = field(default_factory=lambda: PairedInterval(0.0, 0.0, 0.0))
    trial: Bridge | None = None
    tried: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))


def fit_bridge(
    profiles: NDArray[np.float32], histories: UserItemMatrix, everybody: UserItemMatrix, rng: np.random.Generator
) -> FittedBridge:
    """Learn a bridge, and decide whether it is used.

    Args:
        profiles: float32 ``[h, d]``: of the holders, all in one basis.
        histories: h × m: what the same users have here, each at least one item.
        everybody: n × m: all own users, holders among them.
        rng: chooses folds and resampled users.
    """
    holders = len(profiles)
    if holders < FEWEST_HOLDERS:
        return FittedBridge(None, holders)
    data = _Data(profiles.astype(np.float32), histories, everybody)
    folds, judged = rng.permutation(holders) % _FOLDS, rng.permutation(holders)[:_JUDGED]
    settings = tuple(data.settings())
    reached = np.zeros((len(settings), holders))
    for fold in range(_FOLDS):
        held_out = judged[folds[judged] == fold]
        reached[:, held_out] = data.reached(settings, folds != fold, held_out)
    popularity = data.popularity(judged)
    gain = paired_bootstrap(_nested(reached, folds, judged), popularity, rng, level=_LEVEL)
    setting = settings[_choose(reached[:, judged])]
    if gain.lower <= 0:
        return FittedBridge(None, holders, setting, float(popularity.mean()), gain)
    everyone = np.ones(holders, dtype=np.bool_)
    return FittedBridge(
        data.bridge(setting, everyone),
        holders,
        setting,
        float(popularity.mean()),
        gain,
        trial=data.bridge(setting, folds != 0),
        tried=judged[folds[judged] == 0],
    )


def _nested(
    reached: NDArray[np.float64], folds: NDArray[np.integer], judged: NDArray[np.integer]
) -> NDArray[np.float64]:
    """float64 ``[j]``: each judged holder's value under the setting that is best on the *other* folds."""
    values = np.empty(len(judged))
    for fold in range(_FOLDS):
        here = folds[judged] == fold
        values[here] = reached[_choose(reached[:, judged[~here]]), judged[here]]
    return values


def _choose(reached: NDArray[np.float64]) -> int:
    """The first setting, hence the one that leans most on popularity, within half a standard error of the best.

    With few holders the best of many is luck (Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3).
    """
    if reached.shape[1] < 2:
        return 0
    behind = reached[reached.mean(axis=1).argmax()] - reached
    error = behind.std(axis=1, ddof=1) / np.sqrt(reached.shape[1])
    return int(np.flatnonzero(behind.mean(axis=1) <= error / 2)[0])


class _Data:
    """Holders and patterns in the form that regressions take.

    Args:
        profiles, histories, everybody: as in :func:`fit_bridge`.
    """

    def __init__(self, profiles: NDArray[np.float32], histories: UserItemMatrix, everybody: UserItemMatrix) -> None:
        self.profiles = profiles
        self._items = histories.incidence(np.float32).sorted_indices()
        self._lengths = histories.row_lengths
        # What one more hit adds to a holder's Recall@20, whose mean is what counts.
        worth = 1 / np.clip(self._lengths, 1, DEPTH)
        self._weights = (worth / worth.mean()).astype(np.float32)[:, None]
        counts = everybody.item_counts()
        self._share = (counts / max(everybody.n_users, 1)).astype(np.float32)
        self._patterns = leading_directions(scaled_histories(everybody)[0], _PATTERN_RANK).astype(np.float32)
        self._root = np.sqrt(np.maximum(counts, 1)).astype(np.float32)
        self._common = np.argsort(-counts, kind="stable")[:_RANKED]
        self._truth = self._items[:, self._common]

    def settings(self) -> Iterator[Setting]:
        """All that are tried, those that lean most on popularity first."""
        return (Setting(decay, ridge, s) for ridge, s, decay in product(_RIDGES, _PATTERNS, _DECAYS))

    def popularity(self, holders: NDArray[np.integer]) -> NDArray[np.float64]:
        """float64 ``[k]``: Recall@20 of the most common items."""
        return self._recalls(np.tile(self._share[self._common], (len(holders), 1)), holders)

    def reached(
        self, settings: Sequence[Setting], learners: NDArray[np.bool_], holders: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """float64 ``[settings, k]``: Recall@20 of ``holders``, as of people without a history, learned from ``learners``."""
        regression = _Regression(self.profiles[learners], *self._moments(learners, self._common))
        profiles, share = self.profiles[holders], self._share[self._common]
        found = np.empty((len(settings), len(holders)))
        for row, setting in enumerate(settings):
            bridge = regression.bridge(setting, share)
            found[row] = self._recalls(bridge.scores(profiles), holders)
        return found

    def bridge(self, setting: Setting, learners: NDArray[np.bool_]) -> Bridge:
        """Learned from ``learners``, over all items."""
        moments = self._moments(learners, np.arange(len(self._share)))
        return _Regression(self.profiles[learners], *moments).bridge(setting, self._share)

    def _moments(
        self, learners: NDArray[np.bool_], columns: NDArray[np.integer]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """float32 ``[d, columns]`` twice: profiles times items, as they are and projected onto the patterns."""
        deviations = self.profiles[learners] - self.profiles[learners].mean(axis=0)
        moments = np.asarray((deviations * self._weights[learners]).T @ self._items[np.flatnonzero(learners)])
        tastes = (moments / self._root) @ self._patterns
        return moments[:, columns], (tastes @ self._patterns[columns].T) * self._root[columns]

    def _recalls(self, scores: NDArray[np.float32], holders: NDArray[np.integer]) -> NDArray[np.float64]:
        truth = self._truth[holders]
        return recall_at(scores, truth.indptr, truth.indices, DEPTH, lengths=self._lengths[holders])


class _Regression:
    """The normal equations of one set of holders, for any setting.

    Args:
        profiles: float32 ``[h, d]``.
        moments, projected: as :meth:`_Data._moments`.
    """

    def __init__(
        self, profiles: NDArray[np.float32], moments: NDArray[np.float32], projected: NDArray[np.float32]
    ) -> None:
        self._centre = profiles.mean(axis=0)
        deviations = (profiles - self._centre).astype(np.float64)
        self._trust = len(profiles) / (len(profiles) + _LEANING)
        self._gram = deviations.T @ deviations
        self._moments, self._projected = moments, projected

    def bridge(self, setting: Setting, share: NDArray[np.float32]) -> Bridge:
        d, s = len(self._centre), setting.pattern
        normal = self._gram + setting.ridge * np.diag((np.arange(1, d + 1) / _KNEE) ** setting.decay)
        targets = (1 - s) * self._moments + s * self._projected
        weights = np.linalg.inv(normal).astype(np.float32) @ targets
        return Bridge(self._centre, weights * np.float32(self._trust), share)


def recall_at(
    scores: NDArray[np.float32],
    indptr: NDArray[np.integer],
    indices: NDArray[np.integer],
    k: int,
    *,
    lengths: NDArray[np.integer] | None = None,
) -> NDArray[np.float64]:
    """float64 ``[n]``: Σ hits / min(k, |T|) of the k best scores, as :func:`common.metrics.ranking.recall`.

    Args:
        scores: float32 ``[n, m]``.
        indptr: int ``[n + 1]``, the truth in compressed rows.
        indices: int, its columns.
        k: depth.
        lengths: int ``[n]``: |T| where some of the truth is no column of ``scores``.
    """
    k = min(k, scores.shape[1])
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    rows = np.repeat(np.arange(len(scores)), np.diff(indptr))
    held = np.zeros(scores.shape, dtype=np.bool_)
    held[rows, indices] = True
    hits = np.take_along_axis(held, best, axis=1).sum(axis=1)
    return np.asarray(hits / np.clip(np.diff(indptr) if lengths is None else lengths, 1, k))
