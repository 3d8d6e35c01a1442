"""The two catalogues that a platform recommends from, ready to serve: its own items, and those that only others have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import ItemDescriptions
from client.personalization.platform_model import PlatformModel, log_popularity
from client.recommend.answers import Recommendation
from client.recommend.filters import AttributeIndex
from client.recommend.index import ItemIndex, best_of, make_index
from client.recommend.mixing import Mixing, calibrated, calibrated_popularity
from client.recommend.ranking_stage import RankingStage
from client.scoring.linear_form import LinearScope, Query
from client.scoring.reranker import UserContext
from client.scoring.scorer import z


@dataclass(frozen=True, eq=False)
class ItemScope:
    """The items of one scope with everything a request asks of them.

    Attributes:
        decided_by: as in :class:`client.recommend.answers.Explanation`.
        linear: their scores.
        items: their descriptions, in order of row.
        owners: bool ``[m, P]``.
        platforms: the P names, this platform first.
        popularity: float32 ``[m]``: standardised log popularity; ranks for a user of whom nothing is known.
        index: finds the best rows.
        stage: orders the best rows anew, or None.
    """

    decided_by: str
    linear: LinearScope
    items: ItemDescriptions
    owners: NDArray[np.bool_]
    platforms: tuple[str, ...]
    popularity: NDArray[np.float32]
    index: ItemIndex
    stage: RankingStage | None = None

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of each item that has a key."""
        return {key: row for row, key in enumerate(self.items.keys) if key}

    @cached_property
    def attributes(self) -> AttributeIndex:
        return AttributeIndex(self.items.keys, self.items.described, self.owners, self.platforms)

    def best(
        self,
        query: Query,
        k: int,
        *,
        excluded: NDArray[np.integer] | None,
        allowed: NDArray[np.bool_] | None,
        context: UserContext | None = None,
    ) -> list[tuple[int, float]]:
        """Rows and scores of the k best, best first; a ranking stage needs the user's ``context``."""
        if query.ranks and self.stage is not None and context is not None:
            return self.stage.best(query, context, k, excluded=excluded, allowed=allowed)
        if query.ranks and not self.linear.linear:
            rows, scores = best_of(self.linear.scored(query), k, excluded=excluded, allowed=allowed)
        elif query.ranks:
            rows, products = self.index.best(query.vector, k, excluded=excluded, allowed=allowed)
            scores = products + np.float32(query.offset)
        else:
            rows, scores = best_of(self.popularity.copy(), k, excluded=excluded, allowed=allowed)
        return list(zip(rows.tolist(), scores.tolist(), strict=True))

    def best_with(
        self,
        query: Query,
        brought: NDArray[np.float32],
        share: float,
        k: int,
        *,
        excluded: NDArray[np.integer] | None,
        allowed: NDArray[np.bool_] | None,
    ) -> list[tuple[int, float]]:
        """The same by (1 − share)·own score + share·brought (float32 ``[m]``): exact, and without a ranking stage."""
        scored = self.scored(query, brought, share)
        rows, scores = best_of(scored, k, excluded=excluded, allowed=allowed)
        return list(zip(rows.tolist(), scores.tolist(), strict=True))

    def scored(
        self, query: Query, brought: NDArray[np.float32] | None = None, share: float = 0.0
    ) -> NDArray[np.float32]:
        """float32 ``[m]``: the scores of all items, without a ranking stage."""
        own = self.linear.scored(query) if query.ranks else self.popularity.copy()
        return own if brought is None else np.float32(1 - share) * own + np.float32(share) * brought

    @cached_property
    def owner_names(self) -> dict[bytes, tuple[str, ...]]:
        """Names of the owners, by their row of :attr:`owners`: few rows differ, and each list names the owners of its items."""
        return {row.tobytes(): tuple(compress(self.platforms, row)) for row in np.unique(self.owners, axis=0)}

    def listed(self, row: int, score: float) -> Recommendation:
        items = self.items
        owners = self.owner_names[self.owners[row].tobytes()]
        return Recommendation(
            items.keys[row], items.titles[row], items.genres[row], score, owners, items.further.shown(row)
        )


def own_scope(model: PlatformModel, *, approximate_above: int) -> ItemScope:
    """The own items, ranked by what the verdict chose.

    Args:
        model: as the store loads it.
        approximate_above: from how many items on search is approximate.
    """
    linear = model.own_scope()
    index = make_index(linear.items, approximate_above=approximate_above)
    ranks = model.verdict.name == "ranker" and model.ranker is not None
    owners, platforms = _owners_of_own(model)
    return ItemScope(
        decided_by=model.verdict.name,
        linear=linear,
        items=_by_agreed(model),
        owners=owners,
        platforms=platforms,
        popularity=_standardised(np.log1p(model.histories.item_counts())),
        index=index,
        stage=RankingStage(model.ranker, linear, index) if ranks and model.ranker is not None else None,
    )


def cross_scope(model: PlatformModel, *, approximate_above: int) -> ItemScope:
    """The items that only other platforms have, ranked by the model's :class:`~client.scoring.blend.Blend`."""
    positions = np.flatnonzero(model.foreign)
    linear = model.cross_scope(positions)
    return ItemScope(
        decided_by=_decided_by(model),
        linear=linear,
        items=model.vocabulary.select(positions),
        owners=model.owners[positions],
        platforms=model.platforms,
        popularity=_standardised(log_popularity(model.foreign_popularity[positions])),
        index=make_index(linear.items, approximate_above=approximate_above),
    )


def _by_agreed(model: PlatformModel) -> ItemDescriptions:
    """The own items with every attribute that the federation knows of, told here or not: both scopes are asked alike."""
    kinds = {**model.vocabulary.further.kinds, **model.own.further.kinds}
    return replace(model.own, further=model.own.further.agreed(kinds, len(model.own.keys)))


def _decided_by(model: PlatformModel) -> str:
    """As in :class:`client.recommend.answers.Explanation`."""
    if model.cross_verdict is not None:
        return model.cross_verdict.name
    return "tower_blend" if "towers" in model.cross.weights else "shared"


def mixings(model: PlatformModel, own: ItemScope, cross: ItemScope) -> tuple[Mixing, Mixing]:
    """How scores of the two scopes stand in one list, for users with a history and for those without.

    Of implicit feedback only: how an item would be rated does not tell whether a user would want it.
    """
    others = [column for column, name in enumerate(model.platforms) if name != model.platform]
    positions, foreign = model.own_positions, np.flatnonzero(model.foreign)
    columns = np.flatnonzero((positions >= 0) & model.owners[positions][:, others].any(axis=1))
    if model.shared.config.feedback != "implicit" or not len(foreign) or not len(columns):
        return Mixing(), Mixing()
    common = model.cross_scope(positions[columns])
    known = calibrated(model.histories, own.linear, cross.linear, common, columns)
    scale = log_popularity(model.foreign_popularity[foreign])
    # Where all of them are equally popular there is no scale, and one divides by nothing.
    spread = float(scale.std()) or 1.0
    popular = (log_popularity(model.foreign_popularity[positions[columns]]) - scale.mean()) / spread
    return known, calibrated_popularity(model.histories, own.popularity, popular, columns)


def _owners_of_own(model: PlatformModel) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    others = [column for column, name in enumerate(model.platforms) if name != model.platform]
    owners = np.zeros((len(model.own_positions), 1 + len(others)), dtype=np.bool_)
    owners[:, 0] = True
    shared = np.flatnonzero(model.own_positions >= 0)
    owners[shared, 1:] = model.owners[model.own_positions[shared]][:, others]
    return owners, (model.platform, *(model.platforms[column] for column in others))


def _standardised(scores: NDArray[np.floating]) -> NDArray[np.float32]:
    standardised: NDArray[np.float32] = z(scores.astype(np.float32)[None])[0]
    return standardised
