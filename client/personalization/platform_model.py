"""Holds all that a platform needs to recommend, as plain arrays. Never leaves the platform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import ItemDescriptions, UserItemMatrix
from client.scoring.blend import Blend
from client.scoring.factors import FactorModel, own_factors, shared_on_own, shared_on_vocabulary
from client.scoring.fold_in import Recency
from client.scoring.linear_form import LinearScope
from client.scoring.part import Part
from client.scoring.reranker import RankedScorer, Ranker
from client.scoring.scorer import PopularityScorer, Scorer
from client.scoring.towers import TowerPart
from client.towers.stored import TowerModel
from common.errors import ContractError

OWN_MODELS: Final = ("local", "shared", "anchored", "towers")
"""What may rank a platform's own items by itself, in the order in which they are put together."""
FOLDED_IN: Final = ("local", "shared", "anchored")
"""Those of them in which a user is a factor that is solved from the history."""
_BLENDS: Final = {"blend": ("local", "shared"), "tower_blend": ("local", "towers")}
"""Verdicts of two models; the weight is that of the second."""


def ranked_by(verdict: str) -> tuple[str, ...]:
    """Return which of :data:`OWN_MODELS` rank own items where :class:`OwnVerdict` has the name ``verdict``."""
    if verdict == "ranker":
        return tuple(name for name in OWN_MODELS if name != "anchored")
    return _BLENDS.get(verdict, (verdict,))


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
class CrossVerdict:
    """Holds what ranks the others' items, and what it reached on items that the platform hid from itself.

    Attributes:
        name: ``blend`` or ``popularity``.
        metric: what was compared.
        users: how many were looked at.
        popularity_mean, chosen_mean: of the metric.
        interval: of the surest share of the blend − popularity, chosen or not; for other users and as many items as only
            others have.
        share: of the blend in what ranks; the rest is popularity, which ranks alone at 0.
    """

    name: str
    metric: str
    users: int
    popularity_mean: float
    chosen_mean: float
    interval: tuple[float, float]
    share: float


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
        foreign_popularity: float64 ``[m]``: of each item that this platform does not have: users of others who have it
            (noisy, under privacy), corrected for what is popular here (:mod:`client.scoring.demand`) without privacy.
        own: the platform's m_own items.
        own_positions: int32 ``[m_own]``: each one's place in the vocabulary, −1 where nobody shares it.
        local: the platform's own factors.
        anchored: its own factors with the shared ones as their prior mean, or None.
        verdict: which ranks the own items.
        cross: what ranks the items that it does not have.
        user_ids, histories: the users and what each is known to have (n × m_own).
        towers: the deep model, or None.
        ranker: orders the best own items of all models anew, or None.
        cross_verdict: why :attr:`cross` ranks the others' items; None where nothing was validated: its weights are the shipped
            or configured ones.
    """

    platform: str
    server_round: int
    platforms: tuple[str, ...]
    vocabulary: ItemDescriptions
    owners: NDArray[np.bool_]
    shared: FactorModel
    foreign_popularity: NDArray[np.float64]
    own: ItemDescriptions
    own_positions: NDArray[np.int32]
    local: FactorModel
    anchored: FactorModel | None
    verdict: OwnVerdict
    cross: Blend
    user_ids: tuple[str, ...]
    histories: UserItemMatrix
    towers: TowerModel | None = None
    ranker: Ranker | None = None
    cross_verdict: CrossVerdict | None = None

    def without(self, gone: NDArray[np.bool_]) -> PlatformModel:
        """The same without the users of the rows where ``gone`` (bool ``[n]``) is true; what was learned of all stays."""
        if not gone.any():
            return self
        kept = np.flatnonzero(~gone)
        return replace(
            self,
            user_ids=tuple(self.user_ids[row] for row in kept),
            histories=self.histories.select_users(kept),
            towers=None if self.towers is None else self.towers.of_users(kept),
        )

    def has(self, name: str) -> bool:
        """Whether there is a model of that name to rank own items by."""
        absent = {
            "shared": not (self.own_positions >= 0).any(),
            "anchored": self.anchored is None,
            "towers": self.towers is None,
        }
        return not absent.get(name, False)

    def with_recency(self, name: str, recency: Recency | None) -> PlatformModel:
        """The same with users folded into one of :data:`FOLDED_IN` otherwise."""
        factors: dict[str, Any] = {name: replace(getattr(self, name), recency=recency)}
        return replace(self, **factors)

    @property
    def recencies(self) -> dict[str, Recency]:
        """How users' latest entries weigh, by name of the factor models that fold users in otherwise than in training."""
        models: dict[str, FactorModel | None] = {name: getattr(self, name) for name in FOLDED_IN}
        return {name: one.recency for name, one in models.items() if one is not None and one.recency is not None}

    @property
    def foreign(self) -> NDArray[np.bool_]:
        """Bool ``[m]``: the items of the vocabulary that this platform does not have."""
        return foreign_items(self.own_positions, len(self.owners))

    def own_part(self, name: str) -> Part:
        """One of :data:`OWN_MODELS` over the own items.

        Raises:
            ContractError: there is none of that name.
        """
        if name == "local":
            return own_factors("local", self.local)
        if name == "anchored" and self.anchored is not None:
            return own_factors("anchored", self.anchored)
        if name == "towers" and self.towers is not None:
            return TowerPart.on_own(self.towers)
        if name == "shared":
            return shared_on_own(self.shared, self.own_positions)
        raise ContractError(f"this platform's model has no part {name!r} for own items")

    def own_scope(self, name: str | None = None, weight: float | None = None) -> LinearScope:
        """The own items by a model of :class:`OwnVerdict`, before a ranking stage; by the verdict unless named."""
        if name is None:
            name, weight = self.verdict.name, self.verdict.weight
        if name == "ranker" and self.ranker is not None:
            return LinearScope([self.own_part(part) for part in self.ranker.parts])
        if name not in _BLENDS:
            return LinearScope([self.own_part(name)])
        return blended([self.own_part(part) for part in _BLENDS[name]], 1.0 if weight is None else weight)

    def own_scorer(self, name: str | None = None, weight: float | None = None) -> Scorer:
        """Ranks the own items as :meth:`own_scope` does, a ranking stage included; one model alone gives raw scores."""
        if name is None:
            name, weight = self.verdict.name, self.verdict.weight
        if name == "ranker" and self.ranker is not None:
            return RankedScorer(self.ranker, tuple(self.own_part(part) for part in self.ranker.parts))
        return self.own_scope(name, weight) if name in _BLENDS else self.own_part(name)

    def own_popularity(self) -> PopularityScorer:
        """Ranks the own items by how many users have them."""
        return PopularityScorer(self.histories.item_counts())

    def cross_scope(self, positions: NDArray[np.integer], blend: Blend | None = None) -> LinearScope:
        """Items of the vocabulary as those that only others have are scored; histories have own columns.

        Args:
            positions: int ``[c]``: which.
            blend: in place of :attr:`cross`.
        """
        blend = self.cross if blend is None else blend
        return self._cross_scope(positions, blend, self.own_positions)

    def _cross_scope(
        self, positions: NDArray[np.integer], blend: Blend, columns: NDArray[np.int32] | None
    ) -> LinearScope:
        kept = {part.name: part for part in blend.parts}
        parts = [(kept.get(name) or self._vocabulary_part(name)).at(positions) for name in blend.weights]
        popularity = None if blend.beta is None else log_popularity(self.foreign_popularity[positions])
        return LinearScope(parts, tuple(blend.weights.values()), popularity, blend.beta or 0.0, columns)

    def _vocabulary_part(self, name: str) -> Part:
        if name == "towers" and self.towers is not None and self.towers.n_shared:
            return TowerPart.on_vocabulary(self.towers, self.own_positions)
        if name == "shared":
            return shared_on_vocabulary(self.shared, self.own_positions)
        raise ContractError(f"this platform's model has no part {name!r} for the others' items")

    def cross_scorer(self, blend: Blend | None = None) -> Scorer:
        """Ranks the vocabulary for own users, in its columns: what serves, or ``blend``. Own items score 0."""
        foreign = np.flatnonzero(self.foreign)
        scope = self._cross_scope(foreign, self.cross if blend is None else blend, None)
        return ForeignScorer(scope, foreign, len(self.owners))

    def on_vocabulary(self, histories: UserItemMatrix) -> UserItemMatrix:
        """Own histories (columns m_own) with the vocabulary's items as columns (m)."""
        return on_vocabulary(histories, self.own_positions, len(self.owners))


@dataclass(frozen=True, eq=False)
class ForeignScorer:
    """Scores of some items of a vocabulary; all others score 0 and are no candidates.

    Attributes:
        scope: over the items.
        positions: int ``[c]``: their places.
        n_items: m.
    """

    scope: LinearScope
    positions: NDArray[np.integer]
    n_items: int

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]`` from histories in columns of the vocabulary."""
        scores = np.zeros((len(users), self.n_items), dtype=np.float32)
        scores[:, self.positions] = self.scope.scores(histories, np.asarray(users))
        return scores


def blended(parts: Sequence[Part], weight: float) -> LinearScope:
    """z(first) + w·z(second)."""
    return LinearScope(parts, (1.0, weight))


def log_popularity(counts: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of the users who have each item; at least 0, so that noise cannot make the logarithm blow up."""
    logarithms: NDArray[np.float64] = np.log(np.maximum(counts, 1.0))
    return logarithms


def foreign_items(own_positions: NDArray[np.int32], n_items: int) -> NDArray[np.bool_]:
    """Bool ``[m]``: which of ``n_items`` are none of a platform's own."""
    mask = np.ones(n_items, dtype=np.bool_)
    mask[own_positions[own_positions >= 0]] = False
    return mask


def on_vocabulary(histories: UserItemMatrix, own_positions: NDArray[np.int32], n_items: int) -> UserItemMatrix:
    """Own histories ``[n, m_own]`` in columns of the vocabulary ``[n, m]``; items that nobody shares fall out."""
    kept = histories.select_entries(own_positions[histories.indices] >= 0)
    return replace(kept, indices=own_positions[kept.indices].astype(np.int32), n_items=n_items)
