"""Top-k for one user of a platform: from its own items, from those of the others, or from both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.platform_model import PlatformModel
from client.recommend.scorer import Scorer, z
from client.recommend.topk import top_k
from common.errors import DataError

Scope = Literal["own", "cross", "all"]


@dataclass(frozen=True)
class Recommendation:
    """One item of a list.

    Attributes:
        key, title, genres: of the item, as its card says; a digest-only item has an empty key.
        score: comparable within one list only.
        platforms: who has the item, this platform first where it does.
    """

    key: str
    title: str
    genres: tuple[str, ...]
    score: float
    platforms: tuple[str, ...]


class Recommender:
    """Answers for one loaded version of a platform's model.

    Args:
        model: as the store loads it.
    """

    def __init__(self, model: PlatformModel) -> None:
        self.model = model

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {user: row for row, user in enumerate(self.model.user_ids)}

    @cached_property
    def _own_scorer(self) -> Scorer:
        return self.model.own_scorer()

    @cached_property
    def _cross_scorer(self) -> Scorer:
        return self.model.cross_scorer()

    def recommend(
        self, user_id: str, k: int = 10, scope: Scope = "all", *, exclude_seen: bool = True
    ) -> list[Recommendation]:
        """The k best items for a user, best first; fewer where the scope has fewer.

        Raises:
            DataError: the platform does not know the user.
        """
        row = self._rows.get(user_id)
        if row is None:
            raise DataError("this platform does not know that user; check the id, or recommend for a history instead")
        return self.recommend_for_history(
            self.model.histories.select_users(np.array([row])), k, scope, exclude_seen=exclude_seen
        )

    def recommend_for_history(
        self, history: UserItemMatrix, k: int = 10, scope: Scope = "all", *, exclude_seen: bool = True
    ) -> list[Recommendation]:
        """The same for any history of own items: one row, m_own columns."""
        chosen: list[Recommendation] = []
        if scope in ("own", "all"):
            chosen += self._own(history, k, exclude_seen=exclude_seen)
        if scope in ("cross", "all"):
            chosen += self._cross(history, k)
        return sorted(chosen, key=lambda item: -item.score)[:k]

    def _own(self, history: UserItemMatrix, k: int, *, exclude_seen: bool) -> list[Recommendation]:
        # Each scope is standardised over its own candidates, so that the two can stand in one list.
        scores = z(self._own_scorer.scores(history, np.array([0])))
        ids, values = top_k(scores, k, history if exclude_seen else None)
        own = self.model.own
        return [
            Recommendation(own.keys[i], own.titles[i], own.genres[i], float(value), self._owners_of_own(i))
            for i, value in _listed(ids, values)
        ]

    def _cross(self, history: UserItemMatrix, k: int) -> list[Recommendation]:
        model = self.model
        if not model.foreign.any():
            return []
        scores = self._cross_scorer.scores(model.on_vocabulary(history), np.array([0]))
        ids, values = top_k(z(scores, model.foreign), k, candidates=model.foreign)
        items = model.vocabulary
        return [
            Recommendation(items.keys[i], items.titles[i], items.genres[i], float(value), self._owners(i))
            for i, value in _listed(ids, values)
        ]

    def _owners(self, position: int) -> tuple[str, ...]:
        return tuple(self.model.platforms[column] for column in np.flatnonzero(self.model.owners[position]))

    def _owners_of_own(self, column: int) -> tuple[str, ...]:
        position = self.model.own_positions[column]
        others = self._owners(position) if position >= 0 else ()
        return (self.model.platform, *(name for name in others if name != self.model.platform))


def _listed(ids: NDArray[np.int32], values: NDArray[np.float32]) -> list[tuple[int, float]]:
    return [(int(i), float(value)) for i, value in zip(ids[0], values[0], strict=True) if i >= 0]
