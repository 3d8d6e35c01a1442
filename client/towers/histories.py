"""Histories as the sequence encoders read them: fixed-width windows of item rows, padded behind the last item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix

PADDING = -1


@dataclass(frozen=True, eq=False)
class Windows:
    """Pieces of histories with the item that follows each.

    Attributes:
        users: int32 ``[b]``.
        items: int32 ``[b, L]``; the model's row of each item, −1 behind the last one.
        targets: int32 ``[b, L]``; the item after each position, −1 where there is none.
        lengths: int32 ``[b]``.
        values: float32 ``[b, L]``; rating or weight of each target, 0 where there is none.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    targets: NDArray[np.int32]
    lengths: NDArray[np.int32]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.users)

    def rows(self, chosen: NDArray[np.integer]) -> Windows:
        """The windows ``chosen`` (int ``[k]``)."""
        return Windows(
            self.users[chosen], self.items[chosen], self.targets[chosen], self.lengths[chosen], self.values[chosen]
        )


def recent(matrix: UserItemMatrix, length: int, rows: NDArray[np.int32]) -> Windows:
    """Each user's last ``length`` items and no target: what a user is known by. Users without items have length 0."""
    lengths = np.minimum(matrix.row_lengths, length)
    starts = matrix.indptr[1:] - lengths
    return _windows(matrix, np.arange(matrix.n_users), starts, lengths, length, rows, with_targets=False)


def training_windows(matrix: UserItemMatrix, length: int, rows: NDArray[np.int32], rng: np.random.Generator) -> Windows:
    """One window a user: its last ``length`` + 1 items, or with probability ½ as many from a random place before.

    A user of n items has n − 1 targets; one with fewer than two items has none and is left out. Long histories are seen
    whole over the epochs without making one user count more than another.
    """
    users = np.flatnonzero(matrix.row_lengths >= 2)
    sizes = np.minimum(matrix.row_lengths[users] - 1, length)
    room = matrix.row_lengths[users] - 1 - sizes
    back = np.where(rng.random(len(users)) < 0.5, 0, (rng.random(len(users)) * (room + 1)).astype(np.int64))
    starts = matrix.indptr[users + 1] - 1 - sizes - back
    return _windows(matrix, users, starts, sizes, length, rows, with_targets=True)


def _windows(
    matrix: UserItemMatrix,
    users: NDArray[np.integer],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    width: int,
    rows: NDArray[np.int32],
    *,
    with_targets: bool,
) -> Windows:
    offsets = np.arange(width)
    inside = offsets[None, :] < lengths[:, None]
    entries = np.where(inside, starts[:, None] + offsets[None, :], 0)
    shape = inside.shape
    # A matrix without entries has nothing to look up; every position is padding then.
    indices = matrix.indices if matrix.nnz else np.zeros(2, dtype=np.int32)
    values = matrix.values if matrix.nnz else np.zeros(2, dtype=np.float32)
    items = np.where(inside, rows[indices[entries]], PADDING)
    targets = np.full(shape, PADDING, dtype=np.int32)
    weights = np.zeros(shape, dtype=np.float32)
    if with_targets:
        following = np.where(inside, entries + 1, 0)
        targets = np.where(inside, rows[indices[following]], PADDING)
        weights = np.where(inside, values[following], 0.0)
    return Windows(
        users.astype(np.int32),
        items.astype(np.int32),
        targets.astype(np.int32),
        lengths.astype(np.int32),
        weights.astype(np.float32),
    )


def recent_targets(matrix: UserItemMatrix, length: int, rows: NDArray[np.int32], users: NDArray[np.integer]) -> Windows:
    """The last window of each of ``users`` with its targets, one a user; fewer than two items make an empty one."""
    lengths = np.clip(matrix.row_lengths[users] - 1, 0, length)
    starts = matrix.indptr[np.asarray(users) + 1] - 1 - lengths
    return _windows(matrix, users, np.maximum(starts, 0), lengths, length, rows, with_targets=True)
