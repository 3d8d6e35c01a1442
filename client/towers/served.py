"""The user tower as a service calls it: one history at a time, one compiled function of one shape, without the items.

A request hands over the vectors of the few items that it reads, so that its cost does not grow with the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from keras import ops
from numpy.typing import NDArray

from client.towers.attribution import ID_ROW, Attribution, attribute_product
from client.towers.backends.functions import compiled
from client.towers.features import ItemFeatures
from client.towers.two_tower import TwoTower
from common.config.towers import TowerConfig
from common.contributions.tower_variables import ITEM_ROWS


class ServedTower:
    """User vectors and their attributions. Safe to use from several threads.

    Args:
        config: without encoders.
        values: of the user tower, by name; item rows are not read.
        n_users: of the platform.
        profile: float32 ``[n, a]`` or None.
    """

    def __init__(
        self,
        config: TowerConfig,
        values: Mapping[str, NDArray[np.float32]],
        n_users: int,
        profile: NDArray[np.float32] | None,
    ) -> None:
        self._model = TwoTower(config, ItemFeatures(1, ()), n_shared=1, n_users=n_users, profile=profile)
        for name, variable in {**self._model.shared, **self._model.private}.items():
            if name != ITEM_ROWS:
                variable.assign(values[name])
        self.length = max(config.sequence.length, 2)
        """Most recent items that are read."""
        # One signature: a request never waits for a second trace.
        self._encode = compiled(
            self._model.user_vectors,
            self._model.variables,
            signature=[
                ((1,), "int32"),
                ((1, self.length), "int32"),
                ((1,), "int32"),
                ((self.length, config.dimension), "float32"),
            ],
        )

    def vector(self, read: NDArray[np.float32], user: int | None) -> NDArray[np.float32]:
        """float32 ``[d]`` from the vectors float32 ``[n, d]`` of a history's items, oldest first; None is somebody unknown."""
        newest = read[-self.length :]
        padded = np.zeros((self.length, read.shape[1]), dtype=np.float32)
        padded[: len(newest)] = newest
        places = np.where(np.arange(self.length) < len(newest), np.arange(self.length), -1)
        found = self._encode(
            np.array([-1 if user is None else user], dtype=np.int32),
            places[None].astype(np.int32),
            np.array([len(newest)], dtype=np.int32),
            padded,
        )
        vector: NDArray[np.float32] = ops.convert_to_numpy(found)[0]
        return vector

    def attribution(
        self,
        read: NDArray[np.float32],
        user: int | None,
        item: NDArray[np.floating],
        parts: Mapping[str, NDArray[np.floating]],
    ) -> Attribution:
        """Return what ⟨user, item⟩ is made of, by integrated gradients from a history and an item of zero vectors.

        Args:
            read: float32 ``[n, d]``, vectors of the history's items, oldest first.
            user: None is somebody unknown.
            item: float ``[d]``.
            parts: float ``[d]`` by attribute; what ``item`` has beyond their sum is its own row.
        """
        whole = {**parts, ID_ROW: item - np.sum([*parts.values()], axis=0)}
        return attribute_product(self._model, read, whole, user=-1 if user is None else user)


def encoded_parts(model: TwoTower) -> dict[str, NDArray[np.float32]]:
    """float32 ``[items, d]`` by attribute: what each encoder adds to each item's vector, 0 where the attribute is missing."""
    content = model.content
    return {
        reader.config.attribute: ops.convert_to_numpy(present * reader(values))
        for reader, values, present in zip(content.readers, content.inputs, content._present, strict=True)
    }
