"""Gradients of single users' losses, for training under user-level privacy.

A user's gradient is that of the user's own mean loss at the broadcast weights. It touches the rows of the user's items and
of the round's negatives, and of those alone is it formed: no dense gradient of the item table exists for any user.
Nothing in it depends on other users (soundness: no in-batch negatives, no batch statistics, no dropout). So what is private
of a user is left out too: profiles are put on the whole platform's scale, and embeddings are trained beside others'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.towers.histories import PADDING, Windows, recent_targets
from client.towers.losses import choice_losses
from client.towers.two_tower import TwoTower
from common.config.towers import TowerTraining
from common.contributions.tower_variables import ITEM_ROWS
from common.contributions.updates import UserGradients

CHUNK = 32
"""Users whose gradients are in memory at once."""
_NOBODY = np.array([-1], dtype=np.int32)


class GradientComputer:
    """Per-user gradients of the shared variables.

    Args:
        model: holds the broadcast weights; its private variables are neither trained nor read.
        matrix: interactions with shared items, n × m_p.
        positions: int32 ``[m_p]``: their rows in the vocabulary.
        training: loss and negatives; every item of the catalogue is a negative where it says 0.
    """

    def __init__(
        self, model: TwoTower, matrix: UserItemMatrix, positions: NDArray[np.int32], training: TowerTraining
    ) -> None:
        self._model, self._matrix, self._positions, self._training = model, matrix, positions, training
        self._dense: list[keras.Variable] = [v for name, v in model.shared.items() if name != ITEM_ROWS]
        self._length = max(model.config.sequence.length, 2)
        self._full = training.negatives == 0

    def load(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the broadcast weights."""
        self._model.load(values)

    def gradients(self, users: NDArray[np.int64], *, public_seed: Sequence[int]) -> Iterator[UserGradients]:
        """The gradients of ``users`` (int64 ``[k]``), :data:`CHUNK` at a time, in their order.

        Args:
            users: rows of the matrix; one without two items has a gradient of zero.
            public_seed: of the negatives, which are drawn from the catalogue and known to everybody.
        """
        negatives = self._negatives(public_seed)
        windows = recent_targets(self._matrix, self._length, self._positions, users)
        for start in range(0, len(users), CHUNK):
            part = windows.rows(np.arange(start, min(start + CHUNK, len(users))))
            yield self._chunk(part, negatives)

    def _negatives(self, public_seed: Sequence[int]) -> NDArray[np.int32]:
        if self._full:
            return self._positions.astype(np.int32)
        count = min(self._training.negatives, len(self._positions))
        rng = np.random.default_rng([*public_seed, 3])
        return rng.choice(self._positions, size=count, replace=False).astype(np.int32)

    def _chunk(self, windows: Windows, negatives: NDArray[np.int32]) -> UserGradients:
        touched, items, targets = localise(windows, negatives)
        # Every chunk has the same shape, so that one compiled function serves them all.
        missing = CHUNK - len(windows)
        padded = [np.pad(a, [(0, missing), *[(0, 0)] * (a.ndim - 1)]) for a in (touched, items, targets)]
        with tf.device(self._model.device):
            dense, rows = self._compute(*padded, np.pad(windows.lengths, (0, missing)), len(negatives))
        kept = len(windows)
        row_gradients = np.where((touched >= 0)[:, :, None], np.asarray(rows)[:kept], 0.0)
        has_rows = ITEM_ROWS in self._model.shared
        empty = np.zeros((kept, 0), dtype=np.int32)
        return UserGradients(
            dense=np.asarray(dense)[:kept],
            positions=touched if has_rows else empty,
            rows=row_gradients.astype(np.float32) if has_rows else np.zeros((kept, 0, 0), dtype=np.float32),
        )

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def _compute(self, touched: Any, items: Any, targets: Any, lengths: Any, n_negatives: int) -> Any:
        # One user after another in one graph: a vectorised backward pass has no kernels for batched attention weights.
        return tf.map_fn(
            lambda window: self._of_one(window, n_negatives),
            (touched, items, targets, lengths),
            fn_output_signature=(tf.float32, tf.float32),
            parallel_iterations=8,
        )

    def _of_one(self, window: tuple[Any, ...], n_negatives: Any) -> tuple[Any, Any]:
        touched, items, targets, length = window
        rows = tf.maximum(touched, 0)
        if self._model.config.item_ids:
            own = tf.gather(tf.convert_to_tensor(self._model.item_rows), rows)
        else:
            own = tf.zeros((tf.shape(rows)[0], self._model.config.dimension))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(own)
            for variable in self._dense:
                tape.watch(variable.value)
            vectors = own if self._model.content.empty else own + self._model.content.of_rows(rows)
            out = self._model.prefix_vectors(_NOBODY, items[None], length[None], vectors)[0]
            known = tf.cast(targets != PADDING, tf.float32)
            labels = tf.maximum(targets, 0)
            losses = choice_losses(
                self._training,
                out,
                targets=tf.gather(vectors, labels),
                labels=labels,
                candidates=vectors[:n_negatives],
                n_items=len(self._positions),
            )
            loss = tf.reduce_sum(losses * known) / tf.maximum(tf.reduce_sum(known), 1.0)
        gradients = tape.gradient(
            loss, [own, *[v.value for v in self._dense]], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        flat = [tf.reshape(tf.convert_to_tensor(gradient), [-1]) for gradient in gradients[1:]]
        return tf.concat(flat, axis=0) if flat else tf.zeros(0), gradients[0]


def localise(
    windows: Windows, negatives: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """The rows that each user touches, and the windows in places of these.

    Returns:
        touched: int32 ``[b, k + L + 1]``: the negatives, then the user's other items, each once; −1 fills up.
        items, targets: int32 ``[b, L]``: places in ``touched``, −1 where there is none.
    """
    users, length = windows.items.shape
    count = len(negatives)
    touched = np.full((users, count + length + 1), PADDING, dtype=np.int32)
    touched[:, :count] = negatives
    items, targets = np.full_like(windows.items, PADDING), np.full_like(windows.targets, PADDING)
    place_of_negative = {int(row): place for place, row in enumerate(negatives)}
    for user in range(users):
        place = dict(place_of_negative)
        size = windows.lengths[user]
        for row in (*windows.items[user, :size], *windows.targets[user, :size]):
            if int(row) >= 0 and int(row) not in place:
                touched[user, len(place)] = row
                place[int(row)] = len(place)
        items[user, :size] = [place[int(row)] for row in windows.items[user, :size]]
        targets[user, :size] = [place[int(row)] for row in windows.targets[user, :size]]
    return touched, items, targets
