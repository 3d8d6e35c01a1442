"""Arrays on a GPU that stay between calls, and entries there: which rows one block takes whole, and which go in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import cuda

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.training.kernels.systems import Entries


class Workspace:
    """Memory of the current device that one call after another uses: getting it anew each time would stop the device."""

    def __init__(self) -> None:
        self._flat: dict[tuple[str, np.dtype[Any]], Any] = {}
        self._each = 0
        self._nothing: dict[tuple[tuple[int, ...], np.dtype[Any]], Any] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of whatever content, until ``name`` is asked for again; it grows and never shrinks."""
        key, size = (name, np.dtype(dtype)), math.prod(shape)
        if not size:  # a view of nothing is not sure to be one
            if (shape, key[1]) not in self._nothing:
                self._nothing[shape, key[1]] = cuda.device_array(shape, dtype)
            return self._nothing[shape, key[1]]
        if key not in self._flat or len(self._flat[key]) < size:
            self._flat.pop(key, None)  # before the new one is there, so that both need not fit
            self._flat[key] = cuda.device_array(size, dtype)
        return self._flat[key][:size].reshape(shape)

    def holding(self, name: str, content: NDArray[Any]) -> Any:
        """An array with that content, as :meth:`empty`."""
        content = np.ascontiguousarray(content)
        array = self.empty(name, content.shape, content.dtype)
        if content.size:
            array.copy_to_device(content)
        return array

    def zeros(self, name: str, n: int) -> Any:
        """uint8 ``[n]`` of zeros."""
        return self.holding(name, np.zeros(n, dtype=np.uint8))

    def each_once(self, n: int) -> tuple[Any, Any]:
        """0 … n − 1, int32, and as many ones, float32: entries that meet each row once. Not to be written to."""
        if n > self._each:
            self.holding("order", np.arange(n, dtype=np.int32))
            self.holding("ones", np.ones(n, dtype=np.float32))
            self._each = n
        return self.empty("order", (n,), np.int32), self.empty("ones", (n,), np.float32)


@dataclass(frozen=True, eq=False)
class RowBatch:
    """Rows that are solved by one launch, all whole or all in pieces.

    Attributes:
        rows: int64 ``[k]`` on the device, longest first.
        of_pieces: int64 ``[k + 1]`` on the device; the pieces of rows[i] are of_pieces[i]:of_pieces[i + 1].
        starts: int64 ``[n_pieces]`` on the device; first entry of each piece.
        stops: likewise; the entry behind its last.
        n_pieces: 0 where rows are whole.
    """

    rows: Any
    of_pieces: Any
    starts: Any
    stops: Any
    n_pieces: int


class PlacedEntries:
    """The arrays of :class:`~client.training.kernels.systems.Entries` on the current device.

    A piece has ``chunk`` entries of its row, counted from the row's first: where a row is cut hangs on nothing else.

    Attributes:
        arrays: indptr, indices, weights and targets on the device.
        n_bytes: of these.
    """

    def __init__(self, entries: Entries, chunk: int) -> None:
        host = (entries.indptr, entries.indices, entries.weights, entries.targets_or_ones())
        self.arrays = tuple(cuda.to_device(np.ascontiguousarray(array)) for array in host)
        self.n_bytes = sum(array.nbytes for array in host)
        self._indptr = entries.indptr
        self._chunk = chunk
        self._batches: dict[tuple[int, int, int], list[RowBatch]] = {}

    def batches(self, most_pieces: int, first: int = 0, last: int | None = None) -> Iterator[RowBatch]:
        """The rows first:last, those in pieces before the others, at most about ``most_pieces`` pieces at a time."""
        stop = len(self._indptr) - 1 if last is None else last
        key = (most_pieces, first, stop)
        if key not in self._batches:
            self._batches[key] = list(self._cut(most_pieces, first, stop))
        yield from self._batches[key]

    def _cut(self, most_pieces: int, first: int, last: int) -> Iterator[RowBatch]:
        lengths = np.diff(self._indptr[first : last + 1])
        order = np.argsort(-lengths, kind="stable")
        counts = -(-lengths[order] // self._chunk)
        in_pieces = int(np.searchsorted(-counts, -1))  # counts fall
        begun = np.cumsum(counts[:in_pieces]) // max(1, most_pieces)
        for part in np.split(order[:in_pieces], np.flatnonzero(np.diff(begun)) + 1):
            if len(part):
                yield self._in_pieces(first + part)
        whole = first + order[in_pieces:]
        if len(whole):
            none = np.zeros(0, dtype=np.int64)
            yield _batch(whole, np.zeros(len(whole) + 1, dtype=np.int64), none, none)

    def _in_pieces(self, rows: NDArray[np.int64]) -> RowBatch:
        counts = -(-(self._indptr[rows + 1] - self._indptr[rows]) // self._chunk)
        of_pieces = np.concatenate([[0], np.cumsum(counts)])
        number = np.arange(of_pieces[-1]) - np.repeat(of_pieces[:-1], counts)
        starts = np.repeat(self._indptr[rows], counts) + self._chunk * number
        return _batch(
            rows, of_pieces, starts, np.minimum(starts + self._chunk, np.repeat(self._indptr[rows + 1], counts))
        )


def _batch(
    rows: NDArray[np.int64], of_pieces: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> RowBatch:
    arrays = [cuda.to_device(np.ascontiguousarray(part, dtype=np.int64)) for part in (rows, of_pieces, starts, stops)]
    return RowBatch(arrays[0], arrays[1], arrays[2], arrays[3], len(starts))
