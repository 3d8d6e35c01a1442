"""A trained two-tower model as a scorer, and its vectors as the recommender keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.towers.backends.functions import compiled, compiles_each_shape
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
        vectors: NDArray[np.float32] = ops.convert_to_numpy(self.model.item_vectors())
        return vectors

    def user_vectors(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, d]`` of the rows ``users`` of ``histories``, which are the platform's users in order."""
        return self.vectors_of(histories.select_users(users), users)

    def vectors_of(self, histories: UserItemMatrix, users: NDArray[np.integer] | list[int]) -> NDArray[np.float32]:
        """float32 ``[k, d]`` of all rows of ``histories``, which are those of ``users``; −1 is somebody unknown."""
        known = histories.select_entries(self.rows[histories.indices] >= 0)
        windows = recent(known, max(self.model.config.sequence.length, 2), self.rows)
        vectors, of_users = ops.convert_to_tensor(self.item_vectors), np.asarray(users, dtype=np.int32)
        encode = _encode(self.model)
        fill = -len(of_users) % _BLOCK if compiles_each_shape() else 0
        asked = np.pad(of_users, (0, fill), constant_values=-1), *windows.filled(len(of_users) + fill).histories()
        parts = [
            ops.convert_to_numpy(encode(*(one[s : s + _BLOCK] for one in asked), vectors))
            for s in range(0, len(of_users), _BLOCK)
        ]
        nothing = np.zeros((0, self.model.config.dimension), dtype=np.float32)
        return np.concatenate([nothing, *parts])[: len(of_users)]

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
    found = getattr(model, "compiled_user_tower", None)
    if found is None:
        found = compiled(model.user_vectors, model.variables)
        model.compiled_user_tower = found
    return found
