"""The two catalogues that a platform recommends from, ready to serve: its own items, and those that only others have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import ItemDescriptions
from client.personalization.platform_model import FactorModel, PlatformModel
from client.recommend.answers import Recommendation
from client.recommend.attribute_part import AttributePart
from client.recommend.filters import AttributeIndex
from client.recommend.index import ItemIndex, best_of, make_index
from client.recommend.linear_form import LinearScope, Part, Query
from client.recommend.linear_part import LinearPart
from client.recommend.mixing import Mixing, calibrated, calibrated_popularity
from client.recommend.parts import FactorPart
from client.recommend.ranking_stage import RankingStage
from client.recommend.tower_part import TowerPart
from client.scoring.fold_in import FoldIn
from client.scoring.reranker import UserContext
from client.scoring.scorer import z

_PARTS = {"blend": ("local", "shared"), "tower_blend": ("local", "towers")}
"""Of a blend; its weight is that of the second."""


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
        return AttributeIndex(self.items.keys, self.items.genres, self.owners, self.platforms)

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
        if query.vector.any() and self.stage is not None and context is not None:
            return self.stage.best(query, context, k, excluded=excluded, allowed=allowed)
        if query.vector.any():
            rows, products = self.index.best(query.vector, k, excluded=excluded, allowed=allowed)
            scores = products + np.float32(query.offset)
        else:
            rows, scores = best_of(self.popularity.copy(), k, excluded=excluded, allowed=allowed)
        return list(zip(rows.tolist(), scores.tolist(), strict=True))

    def listed(self, row: int, score: float) -> Recommendation:
        items = self.items
        owners = tuple(self.platforms[column] for column in np.flatnonzero(self.owners[row]))
        return Recommendation(items.keys[row], items.titles[row], items.genres[row], score, owners)


def own_scope(model: PlatformModel, shared: FoldIn, *, approximate_above: int) -> ItemScope:
    """The own items, ranked by what the verdict chose.

    Args:
        model: as the store loads it.
        shared: folds histories into the shared factors, see :func:`shared_fold_in`.
        approximate_above: from how many items on search is approximate.
    """
    linear = LinearScope(list(_own_parts(model, shared)))
    index = make_index(linear.items, approximate_above=approximate_above)
    ranks = model.verdict.name == "ranker" and model.ranker is not None
    owners, platforms = _owners_of_own(model)
    return ItemScope(
        decided_by=model.verdict.name,
        linear=linear,
        items=model.own,
        owners=owners,
        platforms=platforms,
        popularity=_standardised(np.log1p(model.histories.item_counts())),
        index=index,
        stage=RankingStage(model.ranker, linear, index) if ranks and model.ranker is not None else None,
    )


def _own_parts(model: PlatformModel, shared: FoldIn) -> Iterator[Part]:
    """The models that the verdict puts together."""
    verdict = model.verdict
    names: tuple[str, ...] = _PARTS.get(verdict.name, (verdict.name,))
    weight = verdict.weight if verdict.name in _PARTS and verdict.weight is not None else 1.0
    if verdict.name == "ranker" and model.ranker is not None:
        names = model.ranker.parts
    if "local" in names:
        yield _own_part("local", model.local)
    if "shared" in names:
        mean = model.shared.value_mean
        yield FactorPart("shared", shared, shared_rows(model), _shared_on_own(model, shared), weight, mean)
    if "anchored" in names and model.anchored is not None:
        yield _own_part("anchored", model.anchored)
    if "towers" in names and model.towers is not None:
        everything = np.ones(len(model.own_positions), dtype=np.bool_)
        yield TowerPart(model.towers, everything, model.towers.own, weight)


def cross_scope(model: PlatformModel, shared: FoldIn, *, approximate_above: int) -> ItemScope:
    """The items that only other platforms have, ranked by the shared models, public attributes and popularity there."""
    positions = np.flatnonzero(model.foreign)
    linear = _as_of_others(model, shared, positions)
    described = model.vocabulary
    return ItemScope(
        decided_by="tower_blend" if model.towers is not None and model.tower_weight > 0 else "shared",
        linear=linear,
        items=ItemDescriptions(
            keys=tuple(described.keys[i] for i in positions),
            titles=tuple(described.titles[i] for i in positions),
            genres=tuple(described.genres[i] for i in positions),
        ),
        owners=model.owners[positions],
        platforms=model.platforms,
        popularity=_standardised(_log_elsewhere(model, positions)),
        index=make_index(linear.items, approximate_above=approximate_above),
    )


def mixings(model: PlatformModel, shared: FoldIn, own: ItemScope, cross: ItemScope) -> tuple[Mixing, Mixing]:
    """How scores of the two scopes stand in one list, for users with a history and for those without.

    Of implicit feedback only: how an item would be rated does not tell whether a user would want it.
    """
    others = [column for column, name in enumerate(model.platforms) if name != model.platform]
    positions, foreign = model.own_positions, np.flatnonzero(model.foreign)
    columns = np.flatnonzero((positions >= 0) & model.owners[positions][:, others].any(axis=1))
    if model.shared.config.feedback != "implicit" or not len(foreign) or not len(columns):
        return Mixing(), Mixing()
    common = _as_of_others(model, shared, positions[columns])
    known = calibrated(model.histories, own.linear, cross.linear, common, columns)
    scale = _log_elsewhere(model, foreign)
    popular = (_log_elsewhere(model, positions[columns]) - scale.mean()) / max(scale.std(), np.finfo(np.float64).tiny)
    return known, calibrated_popularity(model.histories, own.popularity, popular, columns)


def shared_fold_in(model: PlatformModel) -> FoldIn:
    """Folds histories into the shared factors; the own items among them count as the catalogue."""
    return model.shared.restricted(model.own_positions[model.own_positions >= 0])


def shared_rows(model: PlatformModel) -> NDArray[np.int32]:
    """int32 ``[m_own]``: each own item's row in :func:`shared_fold_in`, −1 where nobody shares it."""
    known = model.own_positions >= 0
    return np.where(known, np.cumsum(known) - 1, -1).astype(np.int32)


def _as_of_others(model: PlatformModel, shared: FoldIn, positions: NDArray[np.integer]) -> LinearScope:
    """Items of the vocabulary, scored as those that only other platforms have."""
    items = model.shared.restricted(positions).scoring_items
    parts: list[Part] = [FactorPart("shared", shared, shared_rows(model), items, value_mean=model.shared.value_mean)]
    if model.towers is not None and model.tower_weight > 0:
        rows = positions.astype(np.int32)
        parts.append(TowerPart(model.towers, model.own_positions >= 0, rows, model.tower_weight))
    if model.attributes is not None and model.attribute_weight > 0:
        parts.append(AttributePart(model.attributes, model.own_positions, positions, model.attribute_weight))
    if model.linear is not None and model.linear_weight > 0:
        parts.append(LinearPart(model.linear, model.own_positions, positions, model.linear_weight))
    return LinearScope(parts, _log_elsewhere(model, positions), model.beta)


def _log_elsewhere(model: PlatformModel, positions: NDArray[np.integer]) -> NDArray[np.float64]:
    # The floor of CrossScorer: noise must not make the logarithm blow up.
    logarithms: NDArray[np.float64] = np.log(np.maximum(model.elsewhere[positions], 1.0))
    return logarithms


def _own_part(name: str, factors: FactorModel) -> FactorPart:
    fold_in = FoldIn(factors.item_parameters, factors.config, factors.value_mean)
    return FactorPart(name, fold_in, None, fold_in.scoring_items, value_mean=factors.value_mean)


def _shared_on_own(model: PlatformModel, shared: FoldIn) -> NDArray[np.float32]:
    """The own items' shared factors; an item that nobody shares has their mean, hence the user's mean score."""
    known = model.own_positions >= 0
    items = np.empty((len(known), shared.scoring_items.shape[1]), dtype=np.float32)
    items[known] = shared.scoring_items
    items[~known] = shared.scoring_items.mean(axis=0, dtype=np.float64)
    return items


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
