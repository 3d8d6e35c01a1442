"""A trained two-tower model as a scorer, and its vectors as the recommender keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.towers.histories import recent
from client.towers.two_tower import TwoTower

_BLOCK = 512


@dataclass(frozen=True, eq=False)
class TowerScorer:
    """⟨user(u), item(i)⟩ of some items for users by their recent histories.

    Attributes:
        model: trained; not to be trained on while this scorer is in use.
        rows: int32 ``[m]``: the model's row of each column of the histories, −1 for items that the model does not have;
            these get the user's mean score.
        scored: int32 ``[m′]``: the model's row of each item to score; those of the columns by default.
    """

    model: TwoTower
    rows: NDArray[np.int32]
    scored: NDArray[np.int32] | None = None

    @cached_property
    def item_vectors(self) -> NDArray[np.float32]:
        """float32 ``[items, d]``: of all of the model's items."""
        return np.asarray(self.model.item_vectors())

    def user_vectors(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, d]`` of the rows ``users`` of ``histories``, which are the platform's users in order."""
        return self.vectors_of(histories.select_users(users), users)

    def vectors_of(self, histories: UserItemMatrix, users: NDArray[np.integer] | list[int]) -> NDArray[np.float32]:
        """float32 ``[k, d]`` of all rows of ``histories``, which are those of ``users``; −1 is somebody unknown."""
        known = histories.select_entries(self.rows[histories.indices] >= 0)
        windows = recent(known, max(self.model.config.sequence.length, 2), self.rows)
        vectors, of_users = tf.constant(self.item_vectors), np.asarray(users, dtype=np.int32)
        encode = _encode(self.model)
        parts = [
            np.asarray(
                encode(
                    of_users[s : s + _BLOCK], windows.items[s : s + _BLOCK], windows.lengths[s : s + _BLOCK], vectors
                )
            )
            for s in range(0, len(of_users), _BLOCK)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.model.config.dimension), dtype=np.float32)

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m′]``."""
        return self.score_vectors(self.user_vectors(histories, users))

    def score_vectors(self, users: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 ``[k, m′]`` for user vectors float32 ``[k, d]``."""
        rows = self.rows if self.scored is None else self.scored
        scores: NDArray[np.float32] = users @ self.item_vectors[np.maximum(rows, 0)].T
        unknown = rows < 0
        if unknown.any():
            scores[:, unknown] = scores[:, ~unknown].mean(axis=1, keepdims=True) if not unknown.all() else 0.0
        return scores


def _encode(model: TwoTower) -> Any:
    """The user tower as one compiled function, made once a model."""
    compiled = getattr(model, "compiled_user_tower", None)
    if compiled is None:
        compiled = tf.function(model.user_vectors, reduce_retracing=True)
        model.compiled_user_tower = compiled
    return compiled
