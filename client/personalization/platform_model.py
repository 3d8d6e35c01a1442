"""What a platform ends up with: everything that is needed to recommend, as plain arrays. Never leaves the platform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import ItemDescriptions, UserItemMatrix
from client.scoring.attributes import AttributeTransferScorer
from client.scoring.ease import LinearTransferScorer
from client.scoring.fold_in import FoldIn
from client.scoring.reranker import RankedScorer, Ranker
from client.scoring.scorer import BlendScorer, CrossScorer, PopularityScorer, Scorer, SumScorer
from client.towers.stored import TowerModel
from common.config.model import FactorizationConfig

OWN_MODELS: Final = ("local", "shared", "anchored", "towers")
"""What may rank a platform's own items by itself, in the order in which they are put together."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FactorModel:
    """Item parameters and the hyperparameters that go with them.

    Attributes:
        item_parameters: float32 ``[m, row]``.
        config: of the training.
        value_mean: μ of explicit feedback, else 0.
    """

    item_parameters: NDArray[np.float32]
    config: FactorizationConfig
    value_mean: float = 0.0

    def restricted(self, rows: NDArray[np.integer]) -> FoldIn:
        """A scorer over the items ``rows`` alone, which count as the whole catalogue."""
        return FoldIn(self.item_parameters[rows], self.config, self.value_mean)


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnVerdict:
    """Which model ranks the platform's own items, chosen on its validation users.

    Attributes:
        name: ``local``, ``shared``, ``blend``, ``anchored``, ``towers``, ``tower_blend`` or ``ranker``.
        weight: w of ``blend``: z(local) + w·z(shared); of ``tower_blend``: z(local) + w·z(towers).
        metric: what was compared.
        local_mean, chosen_mean: of the metric on the validation users.
        interval: paired bootstrap interval of the difference.
    """

    name: str
    weight: float | None
    metric: str
    local_mean: float
    chosen_mean: float
    interval: tuple[float, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class PlatformModel:
    """Shared and own item factors, the verdict between them, and the users' histories.

    Attributes:
        platform: its name.
        server_round: of the shared parameters.
        platforms: names of all platforms, sorted.
        vocabulary: the m items of the federation.
        owners: bool ``[m, P]``: who shares which item.
        shared: the federation's factors, over the vocabulary.
        elsewhere: float64 ``[m]``: popularity of each item that this platform does not have: users of others who have it
            (noisy, under privacy), corrected for what is popular here (:mod:`client.scoring.demand`) without privacy.
        own: the platform's m_own items.
        own_positions: int32 ``[m_own]``: each one's place in the vocabulary, −1 where nobody shares it.
        local: the platform's own factors.
        anchored: its own factors with the shared ones as their prior mean, or None.
        verdict: which ranks the own items.
        beta: weight of log popularity in cross-platform scores.
        user_ids, histories: the users and what each is known to have (n × m_own).
        towers: the deep model, or None.
        tower_weight: γ, weight of its standardised scores in cross-platform scores.
        attributes: places items among the platform's own tastes by what is publicly known of them, or None.
        attribute_weight: α, weight of its standardised scores in cross-platform scores.
        linear: ridge weights from own items to those of others, or None.
        linear_weight: κ, weight of its standardised scores in cross-platform scores.
        ranker: orders the best own items of all models anew, or None.
    """

    platform: str
    server_round: int
    platforms: tuple[str, ...]
    vocabulary: ItemDescriptions
    owners: NDArray[np.bool_]
    shared: FactorModel
    elsewhere: NDArray[np.float64]
    own: ItemDescriptions
    own_positions: NDArray[np.int32]
    local: FactorModel
    anchored: FactorModel | None
    verdict: OwnVerdict
    beta: float
    user_ids: tuple[str, ...]
    histories: UserItemMatrix
    towers: TowerModel | None = None
    tower_weight: float = 0.0
    attributes: AttributeTransferScorer | None = None
    attribute_weight: float = 0.0
    linear: LinearTransferScorer | None = None
    linear_weight: float = 0.0
    ranker: Ranker | None = None

    def has(self, name: str) -> bool:
        """Whether there is a model of that name to rank own items by."""
        absent = {
            "shared": not (self.own_positions >= 0).any(),
            "anchored": self.anchored is None,
            "towers": self.towers is None,
        }
        return not absent.get(name, False)

    @property
    def foreign(self) -> NDArray[np.bool_]:
        """Bool ``[m]``: the items of the vocabulary that this platform does not have."""
        return foreign_items(self.own_positions, len(self.owners))

    def own_scorer(self, name: str | None = None, weight: float | None = None) -> Scorer:
        """Ranks the own items by a model of :class:`OwnVerdict`.

        By the verdict unless named.
        """
        if name is None:
            name, weight = self.verdict.name, self.verdict.weight
        if name == "ranker" and self.ranker is not None:
            return RankedScorer(self.ranker, tuple(self.own_scorer(part) for part in self.ranker.parts))
        local = FoldIn(self.local.item_parameters, self.local.config, self.local.value_mean)
        if name == "local":
            return local
        if name == "anchored" and self.anchored is not None:
            return FoldIn(self.anchored.item_parameters, self.anchored.config, self.anchored.value_mean)
        if name in ("towers", "tower_blend") and self.towers is not None:
            deep = self.towers.on_own()
            return deep if name == "towers" else BlendScorer(local, deep, 1.0 if weight is None else weight)
        shared = SharedOnOwn(self.shared, self.own_positions)
        return shared if name == "shared" else BlendScorer(local, shared, 1.0 if weight is None else weight)

    def own_popularity(self) -> PopularityScorer:
        """Ranks the own items by how many users have them."""
        return PopularityScorer(self.histories.item_counts())

    def cross_scorer(self, beta: float | None = None) -> Scorer:
        """Ranks the vocabulary for own users.

        z(z(shared) + γ·z(towers) + α·z(attributes) + κ·z(linear)) + β·log popularity elsewhere.
        """
        others: list[tuple[Scorer, float]] = []
        if self.towers is not None and self.tower_weight > 0:
            others.append((self.towers.on_vocabulary(), self.tower_weight))
        if self.attributes is not None and self.attribute_weight > 0:
            others.append((self.attributes, self.attribute_weight))
        if self.linear is not None and self.linear_weight > 0:
            others.append((self.linear, self.linear_weight))
        shared = SharedOnVocabulary(self.shared, self.own_positions)
        return cross_blend(shared, others, self.elsewhere, self.beta if beta is None else beta, self.foreign)

    def on_vocabulary(self, histories: UserItemMatrix) -> UserItemMatrix:
        """Own histories (columns m_own) with the vocabulary's items as columns (m)."""
        return on_vocabulary(histories, self.own_positions, len(self.owners))


def cross_blend(
    shared: Scorer,
    others: Sequence[tuple[Scorer, float]],
    popularity: NDArray[np.float64],
    beta: float,
    candidates: NDArray[np.bool_],
) -> Scorer:
    """The scorer of :meth:`PlatformModel.cross_scorer`, with ``others`` and their weights beside the shared factors."""
    blend = SumScorer([(shared, 1.0), *others], candidates) if others else shared
    return CrossScorer(blend, popularity, beta, candidates=candidates)


def foreign_items(own_positions: NDArray[np.int32], n_items: int) -> NDArray[np.bool_]:
    """Bool ``[m]``: which of ``n_items`` are none of a platform's own."""
    mask = np.ones(n_items, dtype=np.bool_)
    mask[own_positions[own_positions >= 0]] = False
    return mask


def on_vocabulary(histories: UserItemMatrix, own_positions: NDArray[np.int32], n_items: int) -> UserItemMatrix:
    """Own histories ``[n, m_own]`` in columns of the vocabulary ``[n, m]``; items that nobody shares fall out."""
    kept = histories.select_entries(own_positions[histories.indices] >= 0)
    return replace(kept, indices=own_positions[kept.indices].astype(np.int32), n_items=n_items)


@dataclass(frozen=True, eq=False)
class SharedOnOwn:
    """Shared factors as a scorer of the own catalogue. An item that nobody shares gets the user's mean score.

    Attributes:
        shared: over the vocabulary.
        own_positions: int32 ``[m_own]``.
    """

    shared: FactorModel
    own_positions: NDArray[np.int32]

    @cached_property
    def _fold_in(self) -> FoldIn:
        return self.shared.restricted(self.own_positions[self.own_positions >= 0])

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m_own]``."""
        columns = np.flatnonzero(self.own_positions >= 0)
        known = self._fold_in.scores(histories.select_items(columns), users)
        mean = known.mean(axis=1, keepdims=True) if len(columns) else np.zeros((len(users), 1), dtype=np.float32)
        scores = np.repeat(mean, histories.n_items, axis=1)
        scores[:, columns] = known
        return scores


@dataclass(frozen=True, eq=False)
class SharedOnVocabulary:
    """Shared factors as a scorer of the whole vocabulary, for users whose catalogue is the platform's.

    Absence is not dislike: what the own platform does not have is not held against an item (mechanism.md).

    Attributes:
        shared: over the vocabulary.
        own_positions: int32 ``[m_own]``.
    """

    shared: FactorModel
    own_positions: NDArray[np.int32]

    @cached_property
    def _fold_in(self) -> FoldIn:
        return self.shared.restricted(self.own_positions[self.own_positions >= 0])

    @cached_property
    def _all_items(self) -> NDArray[np.float32]:
        return self.shared.restricted(np.arange(len(self.shared.item_parameters))).scoring_items

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]`` from own histories ``[n, m]`` in columns of the vocabulary."""
        own = histories.select_users(np.asarray(users)).select_items(self.own_positions[self.own_positions >= 0])
        scores: NDArray[np.float32] = self._fold_in.scoring_factors(self._fold_in.users(own)) @ self._all_items.T
        return scores
