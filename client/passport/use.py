"""What redeemed passports do for recommendations at home: scores of own items for a person, from what they brought.

For a person without a history it ranks in place of popularity; beside a history of n items it has the weight b/(b + n), with b
chosen on holders whom the bridge has not seen. It is read by nothing else: what a platform contributes to the federation is
made from its interactions alone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.passport.books import Redeemed
from client.passport.bridge import Bridge, FittedBridge, fit_bridge, recall_at
from client.passport.contents import Basis, Contents
from client.passport.shared import shared_basis, shared_fold_in, shared_rows
from client.passport.tastes import AttributeSpace
from client.recommend.answers import Brought
from client.recommend.recommender import Recommender
from client.scoring.scorer import z
from common.metrics.bootstrap import paired_bootstrap

BALANCE = 5.0
"""b where no holders tell: items of own history that weigh as much as what was brought."""
_BALANCES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_LENGTHS = (1, 3, 10)
"""Own histories cut to so many items, on which b is chosen."""
_BALANCED = 150
_WEIGHTS = (0.1, 0.2, 0.5, 1.0)
_TRIED = 400
_FEWEST = 20


@dataclass(frozen=True, eq=False)
class Bridges:
    """One bridge for each basis from which passports came.

    Attributes:
        by_digest: of the basis.
        serials: of the passports that they were learned from: of one that is revoked, none of them may be used.
        balances: b of each bridge that is used.
    """

    by_digest: Mapping[bytes, FittedBridge]
    serials: frozenset[str]
    balances: Mapping[bytes, float] = field(default_factory=dict)


class PassportUse:
    """For one loaded version of a platform's model. Safe for threads.

    Args:
        recommender: of the version.
    """

    def __init__(self, recommender: Recommender) -> None:
        self._model, self._own = recommender.model, recommender.own.linear
        self._popularity = recommender.own.popularity
        self._users = {user: row for row, user in enumerate(recommender.model.user_ids)}
        self._bridges = Bridges({}, frozenset())
        self._lock = threading.Lock()

    @property
    def bridges(self) -> Bridges:
        return self._bridges

    def learn(self, redeemed: Sequence[Redeemed], *, seed: int = 0) -> Bridges:
        """Fit the bridges anew from passports in use of users with a history."""
        by_basis: dict[bytes, list[tuple[int, NDArray[np.float32]]]] = {}
        lengths = self._model.histories.row_lengths
        serials = set()
        for item in redeemed:
            row, profile = self._users.get(item.receipt.user), item.contents.profile
            if row is None or profile is None or not lengths[row]:
                continue
            by_basis.setdefault(profile.basis.digest, []).append((row, profile.values))
            serials.add(item.receipt.serial)
        fitted, balances = {}, {}
        for digest, holders in sorted(by_basis.items()):
            width = max(len(values) for _, values in holders)
            same = [(row, values) for row, values in holders if len(values) == width]
            histories = self._model.histories.select_users(np.array([row for row, _ in same]))
            profiles = np.stack([values for _, values in same])
            found = fit_bridge(profiles, histories, self._model.histories, np.random.default_rng(seed))
            fitted[digest] = found
            if found.trial is not None:
                balances[digest] = self._balance(
                    found.trial, profiles[found.tried], histories.select_users(found.tried)
                )
        with self._lock:
            self._bridges = Bridges(fitted, frozenset(serials), balances)
        return self._bridges

    def forget_bridges(self) -> None:
        """Use none until they are learned anew."""
        with self._lock:
            self._bridges = Bridges({}, frozenset())

    def brought(self, redeemed: Sequence[Redeemed]) -> Brought | None:
        """What a person's passports say of own items; None where nothing in them can be used here."""
        scores = self._popularity.astype(np.float32)
        platforms: list[str] = []
        balances: list[float] = []
        for item in redeemed:
            mine = self._scores(item.contents)
            if mine is not None:
                scores = mine if not platforms else scores + mine
                platforms.append(item.receipt.platform)
                digest = b"" if item.contents.profile is None else item.contents.profile.basis.digest
                balances.append(self.bridges.balances.get(digest, BALANCE))
        if not platforms:
            return None
        return Brought(_standard(scores), float(np.mean(balances)), tuple(dict.fromkeys(platforms)))

    def _scores(self, contents: Contents) -> NDArray[np.float32] | None:
        """float32 ``[m]``, standardised, popularity in it; None where nothing can be used."""
        fitted = None if contents.profile is None else self.bridges.by_digest.get(contents.profile.basis.digest)
        bridge = None if fitted is None else fitted.bridge
        scores, used = self._popularity.astype(np.float32), False
        if bridge is not None and contents.profile is not None and len(contents.profile.values) >= len(bridge.centre):
            scores, used = _standard(bridge.scores(contents.profile.values[None])[0]), True
        if contents.tastes is not None and self._weight_of_tastes:
            scores = scores + np.float32(self._weight_of_tastes) * _standard(self._attributes.scores(contents.tastes))
            used = True
        factor = contents.factor
        if factor is not None and self._weight_of_factor and factor.basis.digest == self._basis.digest:
            scores = scores + np.float32(self._weight_of_factor) * self._of_factors(factor.values[None])[0]
            used = True
        return _standard(scores) if used else None

    def _balance(self, trial: Bridge, profiles: NDArray[np.float32], histories: UserItemMatrix) -> float:
        """The b that finds most of the rest of holders' histories, cut to a few items, by a bridge that has not seen them."""
        found = np.zeros(len(_BALANCES))
        for row in range(min(len(profiles), _BALANCED)):
            columns, values = histories.row(row), histories.values[histories.indptr[row] : histories.indptr[row + 1]]
            brought = _standard(trial.scores(profiles[row : row + 1])[0])
            for length in _LENGTHS:
                rest = columns[length:]
                if not len(rest):
                    continue
                query = self._own.query(columns[:length], values[:length])
                own = self._own.items @ query.vector + np.float32(query.offset)
                shares = np.array([b / (b + length) for b in _BALANCES], dtype=np.float32)[:, None]
                ranked = (1 - shares) * own + shares * brought
                ranked[:, columns[:length]] = -np.inf
                truth = np.arange(len(_BALANCES) + 1) * len(rest), np.tile(rest, len(_BALANCES))
                found += recall_at(ranked, *truth, 20)
        return _BALANCES[int(found.argmax())] if found.any() else BALANCE

    @cached_property
    def _attributes(self) -> AttributeSpace:
        return AttributeSpace(self._model.own)

    @cached_property
    def _basis(self) -> Basis:
        return shared_basis(self._model)

    @cached_property
    def _halves(self) -> tuple[list[NDArray[np.int32]], list[NDArray[np.int32]], list[NDArray[np.float32]]]:
        """Of some own users: the older half of the history, the newer, and the older one's values."""
        histories = self._model.histories
        rows = np.flatnonzero(histories.row_lengths >= 4)
        rows = np.random.default_rng(0).permutation(rows)[:_TRIED]
        older, newer, values = [], [], []
        for start, end in zip(histories.indptr[rows], histories.indptr[rows + 1], strict=True):
            middle = (start + end) // 2
            older.append(histories.indices[start:middle])
            newer.append(histories.indices[middle:end])
            values.append(histories.values[start:middle])
        return older, newer, values

    @cached_property
    def _weight_of_tastes(self) -> float:
        """Beside popularity: chosen on own users as if the older half of their history lay on another platform."""
        known = [self._attributes.tastes(columns) for columns in self._halves[0]]
        if not any(known):
            return 0.0
        nothing = np.zeros(len(self._popularity), dtype=np.float32)
        return self._chosen([nothing if t is None else _standard(self._attributes.scores(t)) for t in known])

    @cached_property
    def _weight_of_factor(self) -> float:
        """The same for a factor in the space of shared items."""
        rows = shared_rows(self._model)
        if self._model.shared.config.feedback != "implicit" or not (rows >= 0).any():
            return 0.0
        fold_in, factors = shared_fold_in(self._model), []
        for columns, values in zip(self._halves[0], self._halves[2], strict=True):
            known = rows[columns] >= 0
            factors.append(fold_in.user(rows[columns][known], values[known]))
        return self._chosen(list(self._of_factors(np.stack(factors)))) if factors else 0.0

    def _of_factors(self, factors: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 ``[k, m]``: standardised scores of own items; those that nobody shares have the mean, 0."""
        fold_in, rows = shared_fold_in(self._model), shared_rows(self._model)
        scores = np.zeros((len(factors), len(rows)), dtype=np.float32)
        if factors.shape[1] == fold_in.scoring_items.shape[1]:
            scores[:, rows >= 0] = z(factors @ fold_in.scoring_items.T)
        return scores

    def _chosen(self, scores: Sequence[NDArray[np.float32]]) -> float:
        """The weight beside popularity that surely finds more of the newer halves; 0 where none does."""
        older, newer, _ = self._halves
        if len(scores) < _FEWEST:
            return 0.0
        truth = np.concatenate([[0], np.cumsum([len(items) for items in newer])]), np.concatenate(newer)

        def reached(weight: float) -> NDArray[np.float64]:
            ranked = np.stack([self._popularity + np.float32(weight) * mine for mine in scores])
            for row, seen in enumerate(older):
                ranked[row, seen] = -np.inf
            return recall_at(ranked, *truth, 20)

        popularity, rng = reached(0.0), np.random.default_rng(0)
        best, gain = 0.0, 0.0
        for weight in _WEIGHTS:
            interval = paired_bootstrap(reached(weight), popularity, rng)
            if interval.lower > 0 and interval.mean > gain:
                best, gain = weight, interval.mean
        return best


def _standard(scores: NDArray[np.floating]) -> NDArray[np.float32]:
    standardised: NDArray[np.float32] = z(scores.astype(np.float32)[None])[0]
    return standardised
