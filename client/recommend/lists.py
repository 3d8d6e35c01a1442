"""Makes the lists that are shown: what may be listed, in the order that platform and request ask for.

Where nothing is steered this asks the recommender for its best, and costs one look at a file's time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from client.data.reading.identifiers import item_key
from client.recommend.answers import NO_BARS, NO_FILTER, Bars, Candidate, ItemFilter, Recommendation, Scope
from client.recommend.filters import both, together
from client.recommend.recommender import PreparedHistory, Recommender
from client.recommend.scopes import ItemScope
from client.steering.choosing import choose, relevance
from client.steering.exposure import ExposureCap
from client.steering.hidden import HiddenItems
from client.steering.steering import AS_CONFIGURED, Steering
from common.config.serving import NeverListed, SteeringConfig

_NOT_CONFIGURED = SteeringConfig()
_NOTHING: Final = frozenset[str]()
"""One object: bars are made anew for another one."""


@dataclass(frozen=True, eq=False)
class _Standing:
    """Holds what holds for every list of one model: the bars, and what they were made from."""

    hidden: frozenset[str]
    full: frozenset[str]
    bars: Bars


class ListMaker:
    """Lists of any model of a platform. Safe for threads.

    Args:
        config: how the platform steers.
        hidden: what its operator has hidden; None: nothing.
    """

    def __init__(self, config: SteeringConfig = _NOT_CONFIGURED, hidden: HiddenItems | None = None) -> None:
        self._config, self._hidden = config, hidden
        self._usual = AS_CONFIGURED.over(config)
        self._cap: ExposureCap[str] | None = None
        if config.exposure_cap is not None:
            self._cap = ExposureCap(config.exposure_cap, config.exposure_window)
        self._standing: WeakKeyDictionary[Recommender, _Standing] = WeakKeyDictionary()
        self._novelties: WeakKeyDictionary[Recommender, tuple[NDArray[np.float64], NDArray[np.float64]]] = (
            WeakKeyDictionary()
        )
        self._lock = threading.Lock()

    @property
    def plain(self) -> bool:
        """Whether a list that asks for nothing is the best by score of what may be listed."""
        return self._cap is None and not self._usual.reorders

    def recommend(
        self,
        recommender: Recommender,
        prepared: PreparedHistory,
        k: int = 10,
        scope: Scope = "all",
        *,
        exclude_seen: bool = True,
        wanted: ItemFilter = NO_FILTER,
        asked: Steering = AS_CONFIGURED,
    ) -> list[Recommendation]:
        """A list for a history; best first by score, or where it is steered by what that asks for.

        Raises:
            StoreError: what is hidden cannot be read.
        """
        chosen = self.unnoted(recommender, prepared, k, scope, exclude_seen=exclude_seen, wanted=wanted, asked=asked)
        if self._cap is not None:
            self._cap.note([one.key for one in chosen])
        return chosen

    def unnoted(
        self,
        recommender: Recommender,
        prepared: PreparedHistory,
        k: int,
        scope: Scope,
        *,
        exclude_seen: bool = True,
        wanted: ItemFilter = NO_FILTER,
        asked: Steering = AS_CONFIGURED,
    ) -> list[Recommendation]:
        """The same for a list that nobody is shown: no cap counts it."""
        steering = self._usual if asked is AS_CONFIGURED else asked.over(self._config)
        bars = _narrowed(recommender, self.bars(recommender), steering)
        if steering.reorders:
            pool = max(self._config.pool, k)
            found = recommender.candidates(prepared, pool, scope, exclude_seen=exclude_seen, wanted=wanted, bars=bars)
            return [recommender.listed(one) for one in self.steered(recommender, found, k, steering)]
        return recommender.recommend_for(prepared, k, scope, exclude_seen=exclude_seen, wanted=wanted, bars=bars)

    def candidates(self, recommender: Recommender, prepared: PreparedHistory, k: int, scope: Scope) -> list[Candidate]:
        """The list of a request that asks for nothing, as rows of the model; counted as shown."""
        steering, bars = self._usual, self.bars(recommender)
        pool = max(self._config.pool, k) if steering.reorders else k
        found = recommender.candidates(prepared, pool, scope, bars=bars)
        if steering.reorders:
            found = self.steered(recommender, found, k, steering)
        else:
            found = sorted(found, key=lambda one: -one.score)[:k]
        if self._cap is not None:
            self._cap.note([recommender.listed(one).key for one in found])
        return found

    def similar(
        self, recommender: Recommender, key: str, k: int = 10, scope: Scope = "all", *, wanted: ItemFilter = NO_FILTER
    ) -> list[Recommendation]:
        """As the recommender's, without what may not be listed."""
        return recommender.similar(key, k, scope, wanted=wanted, bars=self.bars(recommender))

    def bars(self, recommender: Recommender) -> Bars:
        """Return what may not be listed now, whoever asks."""
        hidden = _NOTHING if self._hidden is None else self._hidden.current()
        full = _NOTHING if self._cap is None else self._cap.full()
        standing = self._standing.get(recommender)
        if standing is not None and standing.hidden is hidden and standing.full is full:
            return standing.bars
        with self._lock:
            bars = _standing_bars(recommender, self._config.never, hidden | full)
            self._standing[recommender] = _Standing(hidden, full, bars)
            return bars

    def steered(self, recommender: Recommender, found: list[Candidate], k: int, steering: Steering) -> list[Candidate]:
        """``k`` of the candidates, own ones first as the recommender gives them, in the list's order."""
        pool = sorted(found, key=lambda one: -one.score)
        foreign = np.array([one.scope == "cross" for one in pool], dtype=np.bool_)
        rows = np.array([one.row for one in pool], dtype=np.int64)
        scores = np.array([one.score for one in pool])
        own_novelty, cross_novelty = self._novelty(recommender)
        novelty = np.where(foreign, _at(cross_novelty, rows, foreign), _at(own_novelty, rows, ~foreign))

        def cosines() -> NDArray[np.floating]:
            order = np.concatenate([np.flatnonzero(~foreign), np.flatnonzero(foreign)])
            among = recommender.similarity.among(rows[~foreign], rows[foreign])
            place = np.empty(len(order), dtype=np.intp)
            place[order] = np.arange(len(order))
            return among[np.ix_(place, place)]

        places = choose(
            relevance(scores, novelty, steering.novelty or 0.0),
            k,
            diversity=steering.diversity or 0.0,
            cosines=cosines,
            foreign=foreign,
            foreign_share=steering.foreign_share if foreign.any() and not foreign.all() else None,
        )
        return [pool[place] for place in places]

    def _novelty(self, recommender: Recommender) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found = self._novelties.get(recommender)
        if found is None:
            model = recommender.model
            found = _little_known(model.histories.item_counts()), _little_known(model.foreign_popularity[model.foreign])
            self._novelties[recommender] = found
        return found


def _little_known(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """float64 ``[m]``: 1 for an item that nobody has, 0 for the one that most have, by log(1 + users)."""
    logarithms = np.log1p(np.maximum(counts.astype(np.float64), 0.0))
    most = float(logarithms.max(initial=0.0))
    return 1 - logarithms / most if most > 0 else np.ones(len(counts))


def _at(values: NDArray[np.float64], rows: NDArray[np.int64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    found = np.zeros(len(rows))
    found[where] = values[rows[where]]
    return found


def _rows(scope: ItemScope, keys: Iterable[str]) -> NDArray[np.int64]:
    return np.array(sorted(scope.rows[key] for key in keys if key in scope.rows), dtype=np.int64)


def _standing_bars(recommender: Recommender, never: NeverListed, keys: frozenset[str]) -> Bars:
    found = {}
    for name, scope in (("own", recommender.own), ("cross", recommender.cross)):
        ruled = np.flatnonzero(_ruled_out(scope, never)) if never != NeverListed() else None
        rows = together(ruled, _rows(scope, keys) if keys else None)
        found[name] = None if rows is None or not len(rows) else np.unique(rows)
    return NO_BARS if found["own"] is None and found["cross"] is None else Bars(own=found["own"], cross=found["cross"])


def _ruled_out(scope: ItemScope, never: NeverListed) -> NDArray[np.bool_]:
    """Bool ``[m]``: the items that a rule of the platform keeps out."""
    out = np.zeros(len(scope.items.keys), dtype=np.bool_)
    for rule in (ItemFilter(any_genres=never.genres), ItemFilter(key_prefixes=never.key_prefixes)):
        mask = scope.attributes.mask(rule)
        out |= False if mask is None else mask
    told = scope.items.described
    for name, barred in never.where.items():
        out |= told.passing(name, barred)
    if never.platforms:
        others = [column for column, name in enumerate(scope.platforms) if name not in never.platforms]
        out |= ~scope.owners[:, others].any(axis=1)
    return out


def _narrowed(recommender: Recommender, bars: Bars, steering: Steering) -> Bars:
    """The bars with a request's own lists; a request cannot allow what may not be listed."""
    if not steering.allow_keys and not steering.deny_keys:
        return bars
    own, cross = recommender.own, recommender.cross
    denied = [item_key(key) or "" for key in steering.deny_keys]
    if denied:
        bars = replace(
            bars, own=together(bars.own, _rows(own, denied)), cross=together(bars.cross, _rows(cross, denied))
        )
    if steering.allow_keys:
        allowed = [item_key(key) or "" for key in steering.allow_keys]
        bars = replace(
            bars,
            only_own=both(bars.only_own, _mask(own, allowed)),
            only_cross=both(bars.only_cross, _mask(cross, allowed)),
        )
    return bars


def _mask(scope: ItemScope, keys: Iterable[str]) -> NDArray[np.bool_]:
    mask = np.zeros(len(scope.items.keys), dtype=np.bool_)
    mask[_rows(scope, keys)] = True
    return mask
