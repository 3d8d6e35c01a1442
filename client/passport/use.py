"""Scores own items for a person, from the redeemed passports that they brought.

For a person without a history it ranks in place of popularity; beside a history of n items it has the weight b/(b + n), with b
chosen on holders whom the bridge has not seen. It is read by nothing else: what a platform contributes to the federation is
made from its interactions alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import ItemDescriptions
from client.passport.books import Redeemed
from client.passport.bridge import FEWEST, Bridge, FittedBridge, fit_bridge
from client.passport.choosing import BALANCE, MOST, Known, chosen_balance, chosen_weight, halved
from client.passport.contents import Basis, Contents, Factor
from client.passport.spaces import (
    TASTES,
    AttributeSpace,
    TextSpace,
    common_names,
    places_of,
    shared_basis,
    shared_fold_in,
    shared_rows,
)
from client.recommend.answers import Brought
from client.recommend.recommender import Recommender
from client.scoring.fold_in import FoldIn
from client.scoring.scorer import z

Scores = NDArray[np.float32]
Spaces = Callable[[ItemDescriptions], TextSpace | None]
_ADDED = ("tastes", "factor", "texts")
"""Contents that count beside a bridge or popularity by a weight."""
_EXPECTED = 20
"""Own items that stand for what was brought where a factor is needed and none was."""


@dataclass(frozen=True, eq=False)
class Learned:
    """Holds what holders told, or own users where there are too few of them.

    Attributes:
        bridges: one for each basis from which passports came, by its digest, and that from tastes.
        names: of the tastes that this one reads, in order.
        serials: of the passports that it was learned from: of one that is revoked, nothing of it may be used.
        weights_with_bridge, weights_with_popularity: weights of what is added, by kind; with a bridge none of what too few
            brought.
        balance: b.
    """

    bridges: Mapping[bytes, FittedBridge] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    serials: frozenset[str] = frozenset()
    weights_with_bridge: Mapping[str, float] = field(default_factory=dict)
    weights_with_popularity: Mapping[str, float] = field(default_factory=dict)
    balance: float = BALANCE


@dataclass(frozen=True, eq=False)
class _Holder:
    """A user with a history: the row, and what was brought."""

    row: int
    contents: Contents


class PassportUse:
    """For one loaded version of a platform's model. Safe for threads.

    Args:
        recommender: of the version.
        texts: the catalogue's texts as vectors, asked once and where somebody brought such; None: there are none.
    """

    def __init__(self, recommender: Recommender, texts: Spaces | None = None) -> None:
        self._model, self._own = recommender.model, recommender.own.linear
        self._spaces = texts
        self._text_space: TextSpace | None = None
        self._popularity = recommender.own.popularity
        self._users = {user: row for row, user in enumerate(recommender.model.user_ids)}
        self._learned = Learned()
        self._lock = threading.Lock()

    @property
    def learned(self) -> Learned:
        return self._learned

    def learn(self, redeemed: Sequence[Redeemed], *, seed: int = 0) -> Learned:
        """Learn bridges, weights and balance anew from passports in use of users with a history."""
        lengths = self._model.histories.row_lengths
        holders, serials = [], set()
        for item in redeemed:
            row = self._users.get(item.receipt.user)
            if row is not None and lengths[row]:
                holders.append(_Holder(row, item.contents))
                serials.add(item.receipt.serial)
        self._read_texts(redeemed)
        names = common_names([holder.contents for holder in holders], FEWEST)
        bridges, unseen = self._bridges_of(holders, names, seed)
        bridged = [(holder, scores) for holder, scores in unseen if scores is not self._popularity]
        weights_with_bridge, with_bridge = self._weights(bridged)
        weights_with_popularity, with_popularity = self._weights([(holder, self._popularity) for holder, _ in unseen])
        for kind in set(_ADDED) - weights_with_popularity.keys():
            weights_with_popularity[kind] = self._without_holders(kind)
        judged, scores = (bridged, with_bridge) if len(bridged) >= FEWEST else (unseen, with_popularity)
        people = [self._known(holder.row, mine) for (holder, _), mine in zip(judged, scores, strict=True)]
        balance = chosen_balance(people, [_standard(each) for each in scores], self._own)
        with self._lock:
            self._learned = Learned(
                bridges, names, frozenset(serials), weights_with_bridge, weights_with_popularity, balance
            )
        return self._learned

    def forget(self) -> None:
        """Use nothing of what was learned, until it is learned anew."""
        with self._lock:
            self._learned = Learned()

    def brought(self, redeemed: Sequence[Redeemed]) -> Brought | None:
        """Return what a person's passports say of own items; None where nothing in them can be used here."""
        learned, total = self._learned, np.zeros_like(self._popularity)
        platforms: list[str] = []
        for item in redeemed:
            mine = self._scores(item.contents, learned)
            if mine is not None:
                total = total + mine
                platforms.append(item.receipt.platform)
        if not platforms:
            return None
        scores = _standard(total)
        return Brought(scores, learned.balance, tuple(dict.fromkeys(platforms)), self._prior(redeemed, scores))

    def _prior(self, redeemed: Sequence[Redeemed], scores: Scores) -> NDArray[np.float32] | None:
        """float32 ``[row]``: prior mean of the person's factor over the shared items: the factor that was brought.

        Without one, that of somebody who has the shared own items which what was brought expects most.
        """
        factors = [item.contents.factor for item in redeemed]
        mine = [factor.values for factor in factors if factor is not None and self._fits(factor)]
        if mine:
            return np.asarray(np.mean(mine, axis=0), dtype=np.float32)
        rows = self._shared_rows
        if self._model.shared.config.feedback != "implicit" or not (rows >= 0).any():
            return None
        shared = np.flatnonzero(rows >= 0)
        best = shared[np.argsort(-scores[shared], kind="stable")[:_EXPECTED]]
        return self._shared_fold_in.user(rows[best], np.ones(len(best)))

    def _fits(self, factor: Factor) -> bool:
        return factor.basis.digest == self._basis.digest and len(factor.values) == self._shared_items.shape[1]

    def _scores(self, contents: Contents, learned: Learned) -> Scores | None:
        """float32 ``[m]``, standardised, popularity in it; None where nothing can be used."""
        bridged = None
        for key, place in places_of(contents, learned.names).items():
            fitted = learned.bridges.get(key)
            if bridged is None and fitted is not None:
                bridged = _crossed(fitted.bridge, place)
        scores = self._popularity if bridged is None else bridged
        used = bridged is not None
        weights = learned.weights_with_popularity if bridged is None else learned.weights_with_bridge
        for kind in _ADDED:
            weight = weights.get(kind, 0.0)
            mine = self._added(kind, contents) if weight else None
            if mine is not None:
                scores, used = scores + np.float32(weight) * mine, True
        return _standard(scores) if used else None

    def _bridges_of(
        self, holders: Sequence[_Holder], names: tuple[str, ...], seed: int
    ) -> tuple[dict[bytes, FittedBridge], list[tuple[_Holder, Scores]]]:
        """Bridges by basis, and holders with standardised scores from what has not seen them: bridge or popularity."""
        by_key: dict[bytes, list[tuple[int, NDArray[np.float32]]]] = {}
        for number, holder in enumerate(holders):
            for key, place in places_of(holder.contents, names).items():
                by_key.setdefault(key, []).append((number, place))
        bridges = dict[bytes, FittedBridge]()
        served, tried = set[int](), dict[int, Scores]()
        # In the order in which they are used: a profile's before that of tastes.
        for key in sorted(by_key, key=lambda key: (key == TASTES, key)):
            same = _widest(by_key[key])
            rows = np.array([holders[number].row for number, _ in same])
            fitted = bridges[key] = fit_bridge(
                np.stack([place for _, place in same]),
                self._model.histories.select_users(rows),
                self._model.histories,
                np.random.default_rng(seed),
            )
            for one in fitted.tried:
                number, place = same[one]
                scores = None if number in served else _crossed(fitted.trial, place)
                if scores is not None:
                    tried[number] = scores
            if fitted.bridge is not None:
                served |= {number for number, _ in same}
        unseen = [(holder, self._popularity) for number, holder in enumerate(holders) if number not in served]
        unseen += [(holders[number], scores) for number, scores in tried.items()]
        order = np.random.default_rng(seed).permutation(len(unseen))[:MOST]
        return bridges, [unseen[place] for place in order]

    def _added(self, kind: str, contents: Contents) -> Scores | None:
        """float32 ``[m]``: standardised; None without that content, or where it cannot be read here."""
        if kind == "factor":
            return self._factor(contents)
        if kind == "tastes":
            return None if contents.tastes is None else _standard(self._attributes.scores(contents.tastes))
        space, texts = self._text_space, contents.texts
        scores = None if space is None or texts is None else space.scores(texts)
        return None if scores is None else _standard(scores)

    def _factor(self, contents: Contents) -> Scores | None:
        """float32 ``[m]``: standardised; items that nobody shares have the mean, 0. None without a factor of this space."""
        factor, items, rows = contents.factor, self._shared_items, self._shared_rows
        if factor is None or not self._fits(factor):
            return None
        scores = np.zeros(len(rows), dtype=np.float32)
        scores[rows >= 0] = z((items @ factor.values)[None])[0]
        return scores

    def _known(self, row: int, base: Scores) -> Known:
        histories = self._model.histories
        entries = slice(histories.indptr[row], histories.indptr[row + 1])
        return Known(base, np.zeros(0, dtype=np.int32), histories.indices[entries], histories.values[entries])

    def _weights(self, holders: Sequence[tuple[_Holder, Scores]]) -> tuple[dict[str, float], list[Scores]]:
        """Weights of what is added to the holders' scores, one after the other, and the scores with it."""
        weights, scores = dict[str, float](), [mine for _, mine in holders]
        for kind in _ADDED:
            content = [self._added(kind, holder.contents) for holder, _ in holders]
            having = [place for place, mine in enumerate(content) if mine is not None]
            if len(having) < FEWEST:
                continue
            people = [self._known(holders[place][0].row, scores[place]) for place in having]
            weight = weights[kind] = chosen_weight(people, [mine for mine in content if mine is not None])
            both = zip(scores, content, strict=True)
            scores = [each if mine is None else each + np.float32(weight) * mine for each, mine in both]
        return weights, scores

    def _without_holders(self, kind: str) -> float:
        """Here and not when first asked for: it takes a while."""
        if kind == "factor":
            return self._factor_without_holders
        return self._tastes_without_holders if kind == "tastes" else self._texts_without_holders()

    def _read_texts(self, redeemed: Sequence[Redeemed]) -> None:
        """Vectors of the catalogue's texts are made in the background, and only where somebody brought such."""
        wanted = any(item.contents.texts is not None for item in redeemed)
        if wanted and self._text_space is None and self._spaces is not None:
            self._text_space = self._spaces(self._model.own)

    @cached_property
    def _attributes(self) -> AttributeSpace:
        return AttributeSpace(self._model.own)

    @cached_property
    def _basis(self) -> Basis:
        return shared_basis(self._model)

    @cached_property
    def _shared_fold_in(self) -> FoldIn:
        return shared_fold_in(self._model)

    @property
    def _shared_items(self) -> NDArray[np.float32]:
        return self._shared_fold_in.scoring_items

    @cached_property
    def _shared_rows(self) -> NDArray[np.int32]:
        return shared_rows(self._model)

    @cached_property
    def _halves(self) -> list[Known]:
        """Some own users: the newer half of the history is to be found, the older is not ranked."""
        return halved(self._model.histories, self._popularity)

    @cached_property
    def _tastes_without_holders(self) -> float:
        """Beside popularity: chosen on own users as if the older half of their history lay on another platform."""
        known = [self._attributes.tastes(one.seen) for one in self._halves]
        nothing = np.zeros_like(self._popularity)
        scores = [nothing if t is None else _standard(self._attributes.scores(t)) for t in known]
        return chosen_weight(self._halves, scores)

    def _texts_without_holders(self) -> float:
        """The same of texts."""
        space = self._text_space
        if space is None:
            return 0.0
        nothing, scores = np.zeros_like(self._popularity), list[Scores]()
        for one in self._halves:
            texts = space.texts(one.seen)
            mine = None if texts is None else space.scores(texts)
            scores.append(nothing if mine is None else _standard(mine))
        return chosen_weight(self._halves, scores)

    @cached_property
    def _factor_without_holders(self) -> float:
        """The same; 0 where the shared factors did not surely beat popularity on items that the platform hid from itself.

        Own users alone cannot tell: the shared factors were trained on both halves of their history.
        """
        verdict, rows = self._model.cross_verdict, self._shared_rows
        if self._model.shared.config.feedback != "implicit" or verdict is None or verdict.name == "popularity":
            return 0.0
        fold_in, scores = self._shared_fold_in, []
        for one in self._halves:
            known = rows[one.seen] >= 0
            mine = np.zeros(len(rows), dtype=np.float32)
            mine[rows >= 0] = z((fold_in.scoring_items @ fold_in.user(rows[one.seen][known], one.values[known]))[None])[
                0
            ]
            scores.append(mine)
        return chosen_weight(self._halves, scores)


def _widest(places: list[tuple[int, NDArray[np.float32]]]) -> list[tuple[int, NDArray[np.float32]]]:
    """Those with as many numbers as any."""
    width = max(len(place) for _, place in places)
    return [(number, place) for number, place in places if len(place) == width]


def _crossed(bridge: Bridge | None, place: NDArray[np.float32]) -> Scores | None:
    """float32 ``[m]``: standardised; None without a bridge for so many numbers."""
    if bridge is None or len(place) < len(bridge.centre):
        return None
    return _standard(bridge.scores(place[None])[0])


def _standard(scores: NDArray[np.floating]) -> NDArray[np.float32]:
    standardised: NDArray[np.float32] = z(scores.astype(np.float32)[None])[0]
    return standardised
