"""Top-k for one user of a platform: from its own items, from those of the others, or from both."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.reading.identifiers import identifier, item_key
from client.data.recorded import ANY_EVENT, Event, EventRules
from client.personalization.platform_model import PlatformModel
from client.recommend.answers import (
    NO_BARS,
    NO_FILTER,
    Bars,
    Brought,
    Candidate,
    Contribution,
    Explanation,
    ItemFilter,
    ModelShare,
    Recommendation,
    Scope,
)
from client.recommend.explain import OwnValues, ScoreShares, explain_score
from client.recommend.filters import both, together
from client.recommend.index import best_of
from client.recommend.mixing import Mixing
from client.recommend.scopes import ItemScope, cross_scope, mixings, own_scope
from client.recommend.similar import ItemSimilarity
from client.scoring.linear_form import Query
from client.scoring.reranker import UserContext
from common.config.serving import EXACT_UP_TO
from common.errors import DataError

__all__ = ["History", "PreparedHistory", "Recommendation", "Recommender", "Scope"]


@dataclass(frozen=True, eq=False)
class History:
    """Holds what a user is known to have.

    Attributes:
        columns: int32 ``[n]``: own items, oldest first, unique.
        values: float32 ``[n]``: weights or ratings.
        foreign: int32 ``[e]``: rows of the cross scope; they are not recommended again, and move no factor.
        user: row of the model's user that it belongs to; None: of nobody that the model knows.
        newest: time of the newest entry; NaN where there is none or its time means nothing.
    """

    columns: NDArray[np.int32]
    values: NDArray[np.float32]
    foreign: NDArray[np.int32]
    user: int | None = None
    newest: float = math.nan


class PreparedHistory:
    """A history with its queries, each solved when first needed: what is worth keeping per user.

    Args:
        history: of one user.
        own: the scope of own items of the model that will answer.
        cross: its scope of the others' items.
        brought: from other platforms, or None.
    """

    def __init__(self, history: History, own: ItemScope, cross: ItemScope, brought: Brought | None = None) -> None:
        self.history = history
        self.brought = brought
        self._scopes = {"own": own, "cross": cross}
        self._queries: dict[str, Query] = {}

    @cached_property
    def context(self) -> UserContext | None:
        """Return what a ranking stage of own items asks; None without one."""
        stage = self._scopes["own"].stage
        return None if stage is None else stage.context(self.history.columns, self.history.newest)

    def query(self, scope: str) -> Query:
        """The history's side of a scope's linear form."""
        found = self._queries.get(scope)
        if found is None:
            history = self.history
            # Own items have what was brought beside their score: a prior would count it twice.
            prior = self.brought.factor if self.brought is not None and scope == "cross" else None
            found = self._scopes[scope].linear.query(history.columns, history.values, history.user, prior)
            self._queries[scope] = found
        return found


class Recommender:
    """Answers for one loaded version of a platform's model. Safe to use from several threads.

    Args:
        model: as the store loads it.
        approximate_above: from how many items of a scope on search is approximate.
    """

    def __init__(self, model: PlatformModel, *, approximate_above: int = EXACT_UP_TO) -> None:
        self.model = model
        self.own = own_scope(model, approximate_above=approximate_above)
        self.cross = cross_scope(model, approximate_above=approximate_above)
        self.similarity = ItemSimilarity(model)

    def over(self, user_ids: Sequence[str], histories: UserItemMatrix) -> Recommender:
        """The same for other users than the model knows, one id per row of ``histories`` (n × m_own)."""
        self.mixings  # noqa: B018 -- of the model's users, so that lists do not depend on who is asked for with whom
        other = copy.copy(self)
        other.__dict__.pop("_users", None)
        other.model = replace(self.model, user_ids=tuple(user_ids), histories=histories)
        return other

    @cached_property
    def _users(self) -> dict[str, int]:
        # Models of earlier versions have ids as these compared them.
        return {identifier(user) or user: row for row, user in enumerate(self.model.user_ids)}

    @cached_property
    def _own_values(self) -> OwnValues:
        return OwnValues.of(self.model.own.described)

    @cached_property
    def mixings(self) -> tuple[Mixing, Mixing]:
        """How the others' items stand among the own ones, for users with a history and for those without."""
        return mixings(self.model, self.own, self.cross)

    @property
    def implicit(self) -> bool:
        """Whether values are weights, which must be above 0, and not ratings."""
        return self.model.local.config.feedback == "implicit"

    def warm_up(self) -> None:
        """Compute now what the first requests would have to wait for."""
        self._users.get("")
        self.mixings, self._own_values  # noqa: B018 -- computed when first asked for
        for scope in (self.own, self.cross):
            scope.attributes.mask(NO_FILTER)
            scope.owner_names  # noqa: B018 -- computed when first asked for
            self.knows_item("")
            scope.linear.query(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))

    def row_of(self, user_id: str) -> int:
        """The model's row of a user, however spelt; −1 where it has none."""
        return self._users.get(identifier(user_id) or "", -1)

    def knows_item(self, key: str) -> bool:
        key = item_key(key) or ""
        return key in self.own.rows or key in self.cross.rows

    def history_of(self, user_id: str, events: Sequence[Event] = (), rules: EventRules = ANY_EVENT) -> History:
        """Return what the model and later ``events`` (as recorded, and counted by ``rules``) know of a user, however spelt.

        Raises:
            DataError: neither knows the user.
        """
        row = self._users.get(identifier(user_id) or "")
        if row is None and not events:
            raise DataError("this platform does not know that user; check the id, or recommend for a history instead")
        return self.history_at(row, events, rules)

    def history_at(self, row: int | None, events: Sequence[Event] = (), rules: EventRules = ANY_EVENT) -> History:
        """The same for a row of the model; None: nobody that it knows."""
        histories = self.model.histories
        known = slice(0, 0) if row is None else slice(histories.indptr[row], histories.indptr[row + 1])
        return replace(self._with_events(known, events, rules), user=row)

    def history_from(
        self, items: Iterable[tuple[str, float]], rules: EventRules = ANY_EVENT
    ) -> tuple[History, tuple[str, ...]]:
        """A history from item keys and values, oldest first, and the keys that the model does not know."""
        given = list(items)
        events = [Event(item_key=item_key(key) or "", value=value, time=at) for at, (key, value) in enumerate(given)]
        ignored = tuple(key for key, _ in given if not self.knows_item(key))
        return replace(self._with_events(slice(0, 0), events, rules), newest=math.nan), ignored

    def prepare(self, history: History, brought: Brought | None = None) -> PreparedHistory:
        return PreparedHistory(history, self.own, self.cross, brought)

    def recommend(
        self,
        user_id: str,
        k: int = 10,
        scope: Scope = "all",
        *,
        exclude_seen: bool = True,
        wanted: ItemFilter = NO_FILTER,
    ) -> list[Recommendation]:
        """The k best items for a user, best first; fewer where the scope has fewer.

        Raises:
            DataError: the platform does not know the user.
        """
        prepared = self.prepare(self.history_of(user_id))
        return self.recommend_for(prepared, k, scope, exclude_seen=exclude_seen, wanted=wanted)

    def recommend_for(
        self,
        prepared: PreparedHistory,
        k: int = 10,
        scope: Scope = "all",
        *,
        exclude_seen: bool = True,
        wanted: ItemFilter = NO_FILTER,
        bars: Bars = NO_BARS,
    ) -> list[Recommendation]:
        """The same for any history. In a list of both scopes the others' items have scores on the own items' scale."""
        found = self.candidates(prepared, k, scope, exclude_seen=exclude_seen, wanted=wanted, bars=bars)
        return [self.listed(one) for one in sorted(found, key=lambda one: -one.score)[:k]]

    def listed(self, candidate: Candidate) -> Recommendation:
        items = self.own if candidate.scope == "own" else self.cross
        return items.listed(candidate.row, candidate.score)

    def candidates(
        self,
        prepared: PreparedHistory,
        k: int,
        scope: Scope,
        *,
        exclude_seen: bool = True,
        wanted: ItemFilter = NO_FILTER,
        bars: Bars = NO_BARS,
    ) -> list[Candidate]:
        """The k best of each scope that is asked for, own items first, each best first, on one scale."""
        chosen: list[Candidate] = []
        mixing = self._mixing_for(prepared) if scope == "all" and len(self.cross.linear) else Mixing()
        for name, items, seen in (
            ("own", self.own, prepared.history.columns),
            ("cross", self.cross, prepared.history.foreign),
        ):
            if scope in (name, "all") and len(items.linear):
                barred, only = bars.of(name)
                allowed = both(items.attributes.mask(wanted), only)
                excluded = together(seen if exclude_seen else None, barred)
                if name == "own" and prepared.brought is not None:
                    share = prepared.brought.share(len(seen))
                    found = items.best_with(
                        prepared.query(name), prepared.brought.scores, share, k, excluded=excluded, allowed=allowed
                    )
                else:
                    found = items.best(
                        prepared.query(name), k, excluded=excluded, allowed=allowed, context=prepared.context
                    )
                standing = mixing if name == "cross" else Mixing()
                chosen += [Candidate(name, row, standing.on_own_scale(score)) for row, score in found]
        return chosen

    def own_scores(self, prepared: PreparedHistory) -> NDArray[np.float32]:
        """float32 ``[m_own]``: by which :meth:`recommend_for` ranks own items, without a ranking stage."""
        brought = prepared.brought
        if brought is None:
            return self.own.scored(prepared.query("own"))
        share = brought.share(len(prepared.history.columns))
        return self.own.scored(prepared.query("own"), brought.scores, share)

    def similar(
        self,
        key: str,
        k: int = 10,
        scope: Scope = "all",
        *,
        wanted: ItemFilter = NO_FILTER,
        bars: Bars = NO_BARS,
    ) -> list[Recommendation]:
        """The k items most like the item ``key``, most alike first; the score is the cosine.

        Raises:
            DataError: no item of the model has that key.
        """
        own, foreign = self._place(key)
        chosen: list[Recommendation] = []
        if scope in ("own", "all") and len(self.own.linear):
            cosines = self.similarity.to_own(own) if own >= 0 else self.similarity.foreign_to_own(foreign)
            chosen += _most_alike(self.own, cosines, k, own, wanted, bars.of("own"))
        if scope in ("cross", "all") and len(self.cross.linear):
            cosines = self.similarity.own_to_foreign(own) if own >= 0 else self.similarity.to_foreign(foreign)
            chosen += _most_alike(self.cross, cosines, k, foreign, wanted, bars.of("cross"))
        alike = sorted(chosen, key=lambda item: -item.score)[:k]
        # Rounding takes the cosine of two equal directions past 1.
        return [replace(item, score=min(1.0, item.score)) for item in alike]

    def explain(
        self, history: History, key: str, *, limit: int | None = None, prior: NDArray[np.float32] | None = None
    ) -> Explanation:
        """Why the item ``key`` has its score for a history, the ``limit`` largest contributions listed.

        Args:
            history: of one user.
            key: of the item.
            limit: of contributions; None: all.
            prior: of the user's factor, where the item is another platform's.

        Raises:
            DataError: no item of the model has that key.
        """
        own, foreign = self._place(key)
        scope, row = (self.own, own) if own >= 0 else (self.cross, foreign)
        shares = explain_score(
            scope.linear, row, history.columns, history.values, history.user, None if own >= 0 else prior
        )
        largest = np.argsort(-np.abs(shares.contributions), kind="stable")[:limit]
        listed = tuple(
            Contribution(self.model.own.keys[column], self.model.own.titles[column], float(amount))
            for column, amount in zip(history.columns[largest], shares.contributions[largest], strict=True)
        )
        popularity, decided_by, models = _decision(scope, row, shares)
        moved = self._moved_by_ranking(history, own, popularity + float(shares.by_part.sum()))
        if scope is self.own and scope.stage is not None:
            models = {**models, "ranker": ModelShare(1.0, moved)}
        return Explanation(
            key=scope.items.keys[row],
            title=scope.items.titles[row],
            score=float(shares.by_part.sum()) + popularity + moved,
            contributions=listed,
            others=float(shares.contributions.sum() - sum(item.amount for item in listed)),
            item_bias=shares.item_bias + moved,
            popularity=popularity,
            decided_by=decided_by,
            models=models,
            attributes=shares.attributes,
            reasons=self._own_values.in_common(
                self._own_values.values(scope.items.select([row]).described), history.columns
            ),
        )

    def explain_with(self, history: History, brought: Brought, key: str, *, limit: int | None = None) -> Explanation:
        """The same where the person brought something: every part of an own score has its weight, and so has what was brought.

        To the others' items what was brought adds as the prior of the user's factor.

        Raises:
            DataError: no item of the model has that key.
        """
        own, _ = self._place(key)
        why = self.explain(history, key, limit=limit, prior=brought.factor)
        if own < 0:
            return replace(why, passports=brought.platforms) if "passport" in why.models else why
        share = brought.share(len(history.columns))
        rest, amount = 1 - share, share * float(brought.scores[own])
        models = {name: ModelShare(rest * part.weight, rest * part.amount) for name, part in why.models.items()}
        # A ranking stage orders nothing beside a passport.
        moved = models.pop("ranker", ModelShare(0.0, 0.0)).amount
        return replace(
            why,
            score=rest * why.score - moved + amount,
            contributions=tuple(replace(part, amount=rest * part.amount) for part in why.contributions),
            others=rest * why.others,
            item_bias=rest * why.item_bias - moved + amount,
            popularity=rest * why.popularity,
            models={**models, "passport": ModelShare(share, amount)},
            attributes={name: rest * value for name, value in why.attributes.items()},
            passports=brought.platforms,
        )

    def _moved_by_ranking(self, history: History, own: int, blended: float) -> float:
        """Return what the ranking stage adds to an own item's score in a list without filters; 0 without a stage."""
        stage, prepared = self.own.stage, self.prepare(history)
        if stage is None or own < 0 or prepared.context is None or own in history.columns:
            return 0.0
        count = stage.ranker.config.candidates
        query = prepared.query("own")
        listed = self.own.best(query, count, excluded=history.columns, allowed=None, context=prepared.context)
        return dict(listed).get(own, blended) - blended

    def _mixing_for(self, prepared: PreparedHistory) -> Mixing:
        of_known, of_unknown = self.mixings
        known = prepared.query("own").ranks or (prepared.brought is not None and prepared.query("cross").ranks)
        return of_known if known else of_unknown

    def _place(self, key: str) -> tuple[int, int]:
        """Own column and row in the cross scope; −1 for the one that it has not."""
        same = item_key(key) or ""
        own, foreign = self.own.rows.get(same, -1), self.cross.rows.get(same, -1)
        if own < 0 and foreign < 0:
            raise DataError(f"no item of the model has the key {key!r}; keys look like imdb:0114709")
        return own, foreign

    def _with_events(self, known: slice, events: Sequence[Event], rules: EventRules) -> History:
        """The model's entries ``known`` and later events, cleaned as training will clean them, in order of time."""
        histories = self.model.histories
        own = [(self.own.rows[event.item_key], event) for event in events if event.item_key in self.own.rows]
        columns = np.concatenate([histories.indices[known], np.array([column for column, _ in own], dtype=np.int32)])
        weights = np.array([rules.weight(event.value) for _, event in own], dtype=np.float32)
        values = np.concatenate([histories.values[known], weights])
        times = np.concatenate([histories.times[known], np.array([event.time for _, event in own], dtype=np.int64)])
        kept = rules.counted(columns, values, times, earlier=len(histories.indices[known]))
        foreign = {self.cross.rows[event.item_key] for event in events if event.item_key in self.cross.rows}
        newest_at = float(times[kept[-1]]) if len(kept) else math.nan
        return History(columns[kept], values[kept], np.array(sorted(foreign), dtype=np.int32), newest=newest_at)


def _most_alike(
    scope: ItemScope,
    cosines: NDArray[np.float32],
    k: int,
    itself: int,
    wanted: ItemFilter,
    bars: tuple[NDArray[np.integer] | None, NDArray[np.bool_] | None],
) -> list[Recommendation]:
    excluded = together(np.array([itself] if itself >= 0 else [], dtype=np.int64), bars[0])
    allowed = both(scope.attributes.mask(wanted), bars[1])
    rows, found = best_of(cosines, k, excluded=excluded, allowed=allowed)
    return [scope.listed(row, score) for row, score in zip(rows.tolist(), found.tolist(), strict=True)]


def _decision(scope: ItemScope, row: int, shares: ScoreShares) -> tuple[float, str, Mapping[str, ModelShare]]:
    """The popularity part, what decided, and the share of each model."""
    parts = zip(scope.linear.parts, scope.linear.weights, shares.by_part, strict=True)
    models = {part.name: ModelShare(float(weight), float(amount)) for part, weight, amount in parts}
    if not shares.contributions.any() and not shares.item_bias:
        popularity = float(scope.popularity[row])
        return popularity, "popularity", {"popularity": ModelShare(1.0, popularity)}
    if shares.brought.any():
        brought = zip(scope.linear.parts, shares.brought, strict=True)
        models |= {
            part.name: replace(models[part.name], amount=models[part.name].amount - float(mine))
            for part, mine in brought
        }
        models["passport"] = ModelShare(1.0, float(shares.brought.sum()))
    if scope.linear.has_popularity:
        models["popularity"] = ModelShare(scope.linear.beta, shares.popularity)
    return shares.popularity, scope.decided_by, models
