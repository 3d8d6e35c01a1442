"""The exact loops of the CUDA backend: sums of outer products and their solutions, in float64, one row in one block of threads.

What a row comes to depends on its own entries, the factors and the other arguments alone: no padding to the longest row, no
atomic addition, and each sum in an order that the entries fix. So a user's solution is the same to the bit beside any other
users, on any number of blocks. A row of more than :data:`CHUNK` entries is cut where its own entries say, other blocks sum the
pieces, and its own block adds those in order: one popular item does not keep a card waiting.

Loops are compiled for one width p, which lets the compiler hold sums in registers. Arguments are those of
:class:`client.training.kernels.systems.RowSystems`, array by array. A *sum* is packed as the upper triangle of
``Σ w [f, y] [f, y]ᵀ`` row by row without the last one, float64 ``[p (p + 3) / 2]``: each row of the Gram matrix, then its
Σ w y f.
"""

# ruff: noqa: C901, PLR0912, PLR0915 - compiled code takes arrays and no objects

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from numba import cuda, float32, float64, int32

from client.training.kernels.cuda_compile import SHARED_BYTES, device_function, kernel
from client.training.kernels.cuda_factorise import BAND, CORNER, factorise_and_solve

CHUNK = 2048
"""Entries of a row that one block sums."""
_TILE = 8
"""Rows and columns of the sum that a thread holds."""
_TILE_SUMS = _TILE * _TILE
_MOST_THREADS = 256
_MOST_PANEL_ROWS = 16


@device_function
def _add_panels(
    total: Any,
    panel: Any,
    held: Any,
    factors: Any,
    indices: Any,
    weights: Any,
    targets: Any,
    start: Any,
    stop: Any,
    p: Any,
    across: Any,
    panel_rows: Any,
) -> None:
    """Write the packed sum of the entries start:stop to ``total``.

    Thread (r, c) of the upper triangle of threads holds rows r, r + ``across``, … and columns c, c + ``across``, …: neighbours
    read neighbouring numbers of the panel, and each pair of dimensions has one place.
    """
    me, step, pitch = cuda.threadIdx.x, cuda.blockDim.x, _TILE * across
    tiles = across * (across + 1) // 2
    sums = cuda.local.array(_TILE_SUMS, float64)
    found = cuda.local.array(_TILE_SUMS, float64)
    left = cuda.local.array(_TILE, float64)
    for first_tile in range(0, tiles, step):
        r, c = 0, min(first_tile + me, tiles - 1)
        while c >= across - r:
            c -= across - r
            r += 1
        c += r
        for k in range(_TILE_SUMS):
            sums[k] = 0.0
        for first in range(start, stop, panel_rows):
            cuda.syncthreads()
            for place in range(me, panel_rows * pitch, step):
                e, j = first + place // pitch, place % pitch
                value = float64(0.0)
                if e < stop:
                    if j < p:
                        value = float64(factors[indices[e], j])
                    elif j == p:
                        value = float64(targets[e])
                panel[place] = value
            for t in range(me, panel_rows, step):
                held[t] = float64(weights[first + t]) if first + t < stop else 0.0
            cuda.syncthreads()
            for t in range(panel_rows):
                for a in range(_TILE):
                    left[a] = held[t] * panel[t * pitch + r + a * across]
                for b in range(_TILE):
                    right = panel[t * pitch + c + b * across]
                    for a in range(_TILE):
                        sums[_TILE * a + b] += left[a] * right
        # Placed by numbers that the compiler does not know, sums themselves could not stay in registers.
        for k in range(_TILE_SUMS):
            found[k] = sums[k]
        if first_tile + me < tiles:
            for a in range(_TILE):
                for b in range(_TILE):
                    i, j = r + a * across, c + b * across
                    low, high = min(i, j), max(i, j)
                    if low < p and high <= p and (r < c or a <= b):
                        total[low * p - low * (low - 1) // 2 + high] = found[_TILE * a + b]
    cuda.syncthreads()


@device_function
def _add_pieces(total: Any, pieces: Any, first: Any, last: Any) -> None:
    """Write Σ of the rows first:last of ``pieces`` to ``total``, in that order."""
    for place in range(cuda.threadIdx.x, len(total), cuda.blockDim.x):
        value = float64(0.0)
        for piece in range(first, last):
            value += pieces[piece, place]
        total[place] = value
    cuda.syncthreads()


class ExactKernels(NamedTuple):
    """The loops for one width.

    Attributes:
        sum_pieces: sums of pieces of rows.
        solve_rows: exact solutions.
        write_statistics: sums as they are released.
        write_systems: dense systems in float32, of rows in pieces.
        threads: of a block.
        shared: bytes of shared memory.
        sum_size: float64 numbers of a sum.
        scratch: whether a block needs a sum's memory on the device.
    """

    sum_pieces: Any
    solve_rows: Any
    write_statistics: Any
    write_systems: Any
    threads: int
    shared: int
    sum_size: int
    scratch: bool


@functools.lru_cache
def exact_kernels(p: int, threads: int | None = None) -> ExactKernels:
    """The loops for factors of width ``p``.

    Args:
        p: the width.
        threads: of a block, eight at least; as many as there are tiles unless given.
    """
    across = math.ceil((p + 1) / _TILE)
    pitch, size = _TILE * across, p * (p + 3) // 2
    tiles = across * (across + 1) // 2
    panel_rows = _MOST_PANEL_ROWS
    while panel_rows > 1 and 8 * (panel_rows * (pitch + 1) + 2 * p + CORNER) > SHARED_BYTES:
        panel_rows //= 2
    panel_size = panel_rows * pitch
    taken = panel_size + panel_rows + 2 * p + CORNER
    inside = 8 * (taken + size) <= SHARED_BYTES
    whole = taken + size

    @kernel
    def sum_pieces(
        starts: Any, stops: Any, indices: Any, weights: Any, targets: Any, factors: Any, pieces: Any
    ) -> None:
        """Write the packed sum of the entries starts[i]:stops[i] to row i of ``pieces``."""
        shared = cuda.shared.array(0, float64)
        panel, held = shared[:panel_size], shared[panel_size : panel_size + panel_rows]
        for piece in range(cuda.blockIdx.x, len(starts), cuda.gridDim.x):
            start, stop = starts[piece], stops[piece]
            _add_panels(
                pieces[piece], panel, held, factors, indices, weights, targets, start, stop, p, across, panel_rows
            )

    @kernel
    def solve_rows(
        rows: Any,
        of_pieces: Any,
        pieces: Any,
        indptr: Any,
        indices: Any,
        weights: Any,
        targets: Any,
        factors: Any,
        base: Any,
        ridge: Any,
        shape: Any,
        anchors: Any,
        scratch: Any,
        out: Any,
        unsound: Any,
    ) -> None:
        """Write the exact solution of each of ``rows`` to ``out``, float32 ``[n, p]``, and 1 to ``unsound`` of a zeroed row.

        The pieces of rows[i] are of_pieces[i]:of_pieces[i + 1]; without any it is summed here.
        """
        me, step = cuda.threadIdx.x, cuda.blockDim.x
        shared = cuda.shared.array(0, float64)
        panel, held = shared[:panel_size], shared[panel_size : panel_size + panel_rows]
        corner = shared[panel_size + panel_rows : taken - 2 * p]
        x, inverse = shared[taken - 2 * p : taken - p], shared[taken - p : taken]
        sound = cuda.shared.array(1, int32)
        a = shared[taken:whole] if inside else scratch[cuda.blockIdx.x]
        for i in range(cuda.blockIdx.x, len(rows), cuda.gridDim.x):
            row = rows[i]
            if of_pieces[i] < of_pieces[i + 1]:
                _add_pieces(a, pieces, of_pieces[i], of_pieces[i + 1])
            else:
                start, stop = indptr[row], indptr[row + 1]
                _add_panels(a, panel, held, factors, indices, weights, targets, start, stop, p, across, panel_rows)
            for j in range(me, p, step):
                pull = ridge[row] * shape[j]
                for k in range(j + 1):
                    a[k * p - k * (k - 1) // 2 + j] += base[k, j] + (pull if k == j else 0.0)
                if len(anchors):
                    a[j * p - j * (j - 1) // 2 + p] += pull * anchors[row, j]
            if me == 0:
                sound[0] = 1
            cuda.syncthreads()
            factorise_and_solve(a, x, inverse, corner, panel, panel_size // BAND, sound, p)
            cuda.syncthreads()
            for j in range(me, p, step):
                value = float32(x[j])
                out[row, j] = value
                if not abs(value) <= float32(3.4028235e38):  # NaN too; all threads write the same
                    sound[0] = 0
            cuda.syncthreads()
            if sound[0] == 0:
                for j in range(me, p, step):
                    out[row, j] = float32(0.0)
                if me == 0:
                    unsound[row] = 1
            cuda.syncthreads()

    @kernel
    def write_statistics(
        rows: Any,
        of_pieces: Any,
        pieces: Any,
        indptr: Any,
        indices: Any,
        weights: Any,
        targets: Any,
        factors: Any,
        first: Any,
        scratch: Any,
        packed: Any,
        rhs: Any,
    ) -> None:
        """Write Σ w f fᵀ of each of ``rows``, packed, and Σ w y f, float32, to row − ``first`` of ``packed`` and ``rhs``."""
        me, step = cuda.threadIdx.x, cuda.blockDim.x
        shared = cuda.shared.array(0, float64)
        panel, held = shared[:panel_size], shared[panel_size : panel_size + panel_rows]
        a = shared[taken:whole] if inside else scratch[cuda.blockIdx.x]
        for i in range(cuda.blockIdx.x, len(rows), cuda.gridDim.x):
            row = rows[i]
            if of_pieces[i] < of_pieces[i + 1]:
                _add_pieces(a, pieces, of_pieces[i], of_pieces[i + 1])
            else:
                start, stop = indptr[row], indptr[row + 1]
                _add_panels(a, panel, held, factors, indices, weights, targets, start, stop, p, across, panel_rows)
            for k in range(p):
                above = k * p - k * (k - 1) // 2
                for j in range(k + me, p, step):
                    packed[row - first, above - k + j] = float32(a[above + j])
            for j in range(me, p, step):
                rhs[row - first, j] = float32(a[j * p - j * (j - 1) // 2 + p])
            cuda.syncthreads()

    @kernel
    def write_systems(of_pieces: Any, pieces: Any, base: Any, systems: Any, sides: Any) -> None:
        """Write B + Σ w f fᵀ of each row in pieces, float32 ``[k, p, p]``, and Σ w y f, float32 ``[k, p]``."""
        for i in range(cuda.blockIdx.x, len(of_pieces) - 1, cuda.gridDim.x):
            for j in range(cuda.threadIdx.x, p, cuda.blockDim.x):
                for k in range(j + 1):
                    value = float64(base[k, j])
                    for piece in range(of_pieces[i], of_pieces[i + 1]):
                        value += pieces[piece, k * p - k * (k - 1) // 2 + j]
                    systems[i, k, j] = float32(value)
                    systems[i, j, k] = float32(value)
                value = float64(0.0)
                for piece in range(of_pieces[i], of_pieces[i + 1]):
                    value += pieces[piece, j * p - j * (j - 1) // 2 + p]
                sides[i, j] = float32(value)

    block = max(BAND, threads) if threads else min(_MOST_THREADS, 32 * math.ceil(tiles / 32))
    shared = 8 * (whole if inside else taken)
    return ExactKernels(sum_pieces, solve_rows, write_statistics, write_systems, block, shared, size, not inside)
