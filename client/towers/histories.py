"""Histories as the sequence encoders read them: fixed-width windows of item rows, padded behind the last item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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

    def histories(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Items and lengths."""
        return self.items, self.lengths

    def filled(self, size: int) -> Windows:
        """The same with empty windows of somebody unknown behind them, ``size`` in all."""
        more = ((0, size - len(self)), (0, 0))
        return Windows(
            np.pad(self.users, more[0], constant_values=-1),
            np.pad(self.items, more, constant_values=PADDING),
            np.pad(self.targets, more, constant_values=PADDING),
            np.pad(self.lengths, more[0]),
            np.pad(self.values, more),
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


@dataclass(frozen=True, eq=False)
class BatchTargets:
    """One training step's windows, and the targets in them one after another.

    Attributes:
        windows: of b users.
        places: int32 ``[t]``: user · L + position of each target.
        targets: int32 ``[t]``: rows.
        values: float32 ``[t]``.
        weights: float32 ``[t]``: what a target's loss counts, times ``total``.
        total: float32: what the weighted losses' sum is divided by.
        counted: float32 ``[t]``: 1, and 0 for what only fills up.
        count: how many are 1.
    """

    windows: Windows
    places: NDArray[np.int32]
    targets: NDArray[np.int32]
    values: NDArray[np.float32]
    weights: NDArray[np.float32]
    total: NDArray[np.float32]
    counted: NDArray[np.float32]
    count: int

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The arrays that a step computes with, in the order of its arguments."""
        of_users = self.windows.users, self.windows.items, self.windows.lengths
        return *of_users, self.places, self.targets, self.values, self.weights, self.total, self.counted


_SHAPES = 8
"""Numbers of targets that batches are filled up to, where each shape costs a compilation."""


def batch_targets(batch: Windows, size: int | None, weigh: Literal["users", "targets"]) -> BatchTargets:
    """The targets of ``batch``.

    Args:
        batch: of at least one user with a target.
        size: users that every batch is filled up to with nobody, and its targets to one of few numbers; None fills nothing.
        weigh: users: every user's mean loss counts alike, however long the history is; targets: every target does.
    """
    users, known = len(batch), batch.targets != PADDING
    rows, count = np.nonzero(known)[0], int(known.sum())
    share = (
        np.float32(1.0) / batch.lengths[rows].astype(np.float32)
        if weigh == "users"
        else np.ones(count, dtype=np.float32)
    )
    total = max(users, 1) if weigh == "users" else max(count, 1)
    places = np.flatnonzero(known).astype(np.int32)
    fill = 0
    if size is not None:
        batch = batch.filled(size)
        step = max(1, size * batch.items.shape[1] // _SHAPES)
        fill = -(-count // step) * step - count
    ones = np.ones(count, dtype=np.float32)
    return BatchTargets(
        windows=batch,
        places=np.pad(places, (0, fill)),
        targets=np.pad(batch.targets.ravel()[places], (0, fill)),
        values=np.pad(batch.values.ravel()[places], (0, fill)),
        weights=np.pad(share, (0, fill)),
        total=np.array(total, dtype=np.float32),
        counted=np.pad(ones, (0, fill)),
        count=count,
    )
