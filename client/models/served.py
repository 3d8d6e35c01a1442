"""The user tower as a service calls it: one history at a time, one compiled function of one shape, without the items.

A request hands over the vectors of the few items that it reads, so that its cost does not grow with the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from client.models.attribution import ID_ROW, Attribution, integrated_gradients
from client.models.features import ItemFeatures
from client.models.towers import TwoTower
from common.config.towers import TowerConfig
from common.parameters import ITEM_ROWS


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
        self._dimension = config.dimension
        # One signature: a request never waits for a second trace.
        self._encode = tf.function(
            self._model.user_vectors,
            input_signature=[
                tf.TensorSpec([1], tf.int32),
                tf.TensorSpec([1, self.length], tf.int32),
                tf.TensorSpec([1], tf.int32),
                tf.TensorSpec([self.length, config.dimension], tf.float32),
            ],
        )

    def vector(self, read: NDArray[np.float32], user: int | None) -> NDArray[np.float32]:
        """float32 ``[d]`` from the vectors float32 ``[n, d]`` of a history's items, oldest first; None is somebody unknown."""
        newest = read[-self.length :]
        padded = np.zeros((self.length, self._dimension), dtype=np.float32)
        padded[: len(newest)] = newest
        found = self._encode(
            tf.constant([-1 if user is None else user], dtype=tf.int32),
            tf.constant(_places(self.length, len(newest), 1)),
            tf.constant([len(newest)], dtype=tf.int32),
            tf.constant(padded),
        )
        vector: NDArray[np.float32] = np.asarray(found)[0]
        return vector

    def attribution(
        self,
        read: NDArray[np.float32],
        user: int | None,
        item: NDArray[np.floating],
        parts: Mapping[str, NDArray[np.floating]],
    ) -> Attribution:
        """What ⟨user, item⟩ is made of, by integrated gradients from a history and an item of zero vectors.

        Args:
            read: float32 ``[n, d]``, vectors of the history's items, oldest first.
            user: None is somebody unknown.
            item: float ``[d]``.
            parts: float ``[d]`` by attribute; what ``item`` has beyond their sum is its own row.
        """
        newest = read[-self.length :] if self._model.config.sequence.kind != "none" else read[:0]
        width = max(len(newest), 2)
        embedded = np.zeros((width, self._dimension), dtype=np.float32)
        embedded[: len(newest)] = newest
        whole = [*parts.values(), item - np.sum([*parts.values()], axis=0)]

        def scores(inputs: Sequence[tf.Tensor]) -> tf.Tensor:
            of_history, of_item = inputs
            batch = int(of_history.shape[0])
            users = self._model.user_vectors(
                tf.fill([batch], -1 if user is None else user),
                tf.constant(_places(width, len(newest), batch)),
                tf.fill([batch], len(newest)),
                tf.reshape(of_history, [batch * width, -1]),
            )
            return tf.reduce_sum(users * tf.reduce_sum(of_item, axis=1), axis=1)

        found = integrated_gradients(scores, [embedded, np.stack(whole)])
        history = np.zeros(len(read))
        history[len(read) - len(newest) :] = found.parts[0].sum(axis=1)[: len(newest)]
        shares = found.parts[1].sum(axis=1)
        return Attribution(
            score=found.value,
            baseline=found.baseline,
            history=history,
            attributes={name: float(share) for name, share in zip([*parts, ID_ROW], shares, strict=True)},
            gap=found.gap,
        )


def _places(width: int, filled: int, batch: int) -> NDArray[np.int32]:
    """int32 ``[batch, width]``: rows of ``batch`` windows that lie one behind the other, −1 behind each one's last item."""
    along = np.arange(width)
    places = np.where(along < filled, along + width * np.arange(batch)[:, None], -1)
    return places.astype(np.int32)


def encoded_parts(model: TwoTower) -> dict[str, NDArray[np.float32]]:
    """float32 ``[items, d]`` by attribute: what each encoder adds to each item's vector, 0 where the attribute is missing."""
    content = model.content
    return {
        reader.config.attribute: np.asarray(present * reader(values))
        for reader, values, present in zip(content.readers, content.inputs, content._present, strict=True)
    }
