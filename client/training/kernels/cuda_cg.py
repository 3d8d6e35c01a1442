"""Conjugate gradients and the squared error of the CUDA backend, one row in one block of threads.

As in :mod:`client.training.kernels.cuda_exact` a row's bits depend on its own entries alone. A panel of factors lies in shared
memory, where one thread takes one entry for the scores and one dimension for the sums; a row that fits the panel is read once
for all steps. Longer ones than :data:`~client.training.kernels.cuda_exact.CHUNK` come as a dense system.
"""

# ruff: noqa: C901, PLR0912, PLR0915 - compiled code takes arrays and no objects

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from numba import cuda, float32, float64

from client.training.kernels.cuda_compile import SHARED_BYTES, device_function, kernel

THREADS = 128
"""Of a block; a power of two."""


@device_function
def _sum_over_threads(value: Any, parts: Any) -> Any:
    """Σ of one number of each thread, added in the same order in all of them; ``parts`` holds one a thread."""
    cuda.syncthreads()
    parts[cuda.threadIdx.x] = value
    cuda.syncthreads()
    half = cuda.blockDim.x // 2
    while half > 0:
        if cuda.threadIdx.x < half:
            parts[cuda.threadIdx.x] += parts[cuda.threadIdx.x + half]
        cuda.syncthreads()
        half //= 2
    return parts[0]


@device_function
def _dot(x: Any, y: Any, parts: Any) -> Any:
    total = float32(0.0)
    for j in range(cuda.threadIdx.x, len(x), cuda.blockDim.x):
        total += x[j] * y[j]
    return _sum_over_threads(total, parts)


@device_function
def _fill(panel: Any, factors: Any, indices: Any, first: Any, stop: Any, p: Any, panel_rows: Any) -> None:
    """Write the factors of up to ``panel_rows`` entries from ``first`` on to the panel, p + 1 apart for the memory's banks."""
    for place in range(cuda.threadIdx.x, panel_rows * p, cuda.blockDim.x):
        t, j = place // p, place % p
        if first + t < stop:
            panel[t * (p + 1) + j] = factors[indices[first + t], j]


@device_function
def _apply(
    image: Any,
    x: Any,
    sign: Any,
    panel: Any,
    scores: Any,
    dots: Any,
    partial: Any,
    factors: Any,
    indices: Any,
    weights: Any,
    targets: Any,
    base: Any,
    diagonal: Any,
    start: Any,
    stop: Any,
    p: Any,
    panel_rows: Any,
    dot_parts: Any,
    sum_parts: Any,
) -> None:
    """Write sign·(B + diag(diagonal) + Σ w f fᵀ) x to ``image``, with Σ w y f added where ``sign`` is −1.

    ``base`` may have no rows: B is zero then.
    """
    me, step = cuda.threadIdx.x, cuda.blockDim.x
    cuda.syncthreads()
    for place in range(me, sum_parts * p, step):
        total = float32(0.0)
        for k in range(place // p, len(base), sum_parts):
            total += base[k, place % p] * x[k]
        partial[place] = sign * total
    for first in range(start, stop, panel_rows):
        if stop - start > panel_rows:
            cuda.syncthreads()
            _fill(panel, factors, indices, first, stop, p, panel_rows)
            cuda.syncthreads()
        count = min(panel_rows, stop - first)
        for place in range(me, dot_parts * panel_rows, step):
            t = place % panel_rows
            score = float32(0.0)
            if t < count:
                for j in range(place // panel_rows, p, dot_parts):
                    score += panel[t * (p + 1) + j] * x[j]
            dots[place] = score
        cuda.syncthreads()
        for t in range(me, count, step):
            score = float32(0.0)
            for part in range(dot_parts):
                score += dots[part * panel_rows + t]
            if sign < float32(0.0):
                score = targets[first + t] - score
            scores[t] = weights[first + t] * score
        cuda.syncthreads()
        for place in range(me, sum_parts * p, step):
            total = partial[place]
            for t in range(place // p, count, sum_parts):
                total += scores[t] * panel[t * (p + 1) + place % p]
            partial[place] = total
    cuda.syncthreads()
    for j in range(me, p, step):
        total = sign * diagonal[j] * x[j]
        for part in range(sum_parts):
            total += partial[part * p + j]
        image[j] = total
    cuda.syncthreads()


class CgKernel(NamedTuple):
    """The loop for one width, its threads a block and bytes of shared memory."""

    solve_rows: Any
    threads: int
    shared: int


@functools.lru_cache
def cg_kernel(p: int, threads: int | None = None) -> CgKernel | None:
    """The loop for factors of width ``p``, or None where they do not fit a block."""
    block = threads or THREADS
    sum_parts = max(1, block // p)
    others = 6 * p + block + sum_parts * p
    panel_rows = 128
    while panel_rows and 4 * (others + panel_rows * (p + 2) + max(block, panel_rows)) > SHARED_BYTES:
        panel_rows //= 2
    if not panel_rows:
        return None
    dot_parts = max(1, block // panel_rows)
    dots_size = dot_parts * panel_rows
    panel_size = panel_rows * (p + 1)
    sums_at = 6 * p + block
    panel_at = others
    scores_at = panel_at + panel_size
    dots_at = scores_at + panel_rows
    whole = dots_at + dots_size

    @kernel
    def solve_rows(
        rows: Any,
        indptr: Any,
        indices: Any,
        weights: Any,
        targets: Any,
        factors: Any,
        bases: Any,
        own: Any,
        sides: Any,
        ridge: Any,
        shape: Any,
        anchors: Any,
        steps: Any,
        out: Any,
        unsound: Any,
    ) -> None:
        """Conjugate gradients from ``out`` into ``out`` for each of ``rows`` (Takács, Pilászy & Tikk 2011), in float32.

        ``unsound`` is 1 for a row that is not finite, which is zeroed.

        With ``sides`` row i of them and of ``bases`` is the data term of rows[i]; without, its entries are, beside bases[0],
        which may have no rows, and diag(own).
        """
        me, step = cuda.threadIdx.x, cuda.blockDim.x
        shared = cuda.shared.array(0, float32)
        x, residual, direction = shared[:p], shared[p : 2 * p], shared[2 * p : 3 * p]
        image, pull, diagonal = shared[3 * p : 4 * p], shared[4 * p : 5 * p], shared[5 * p : 6 * p]
        parts = shared[6 * p : sums_at]
        partial, panel = shared[sums_at:panel_at], shared[panel_at:scores_at]
        scores, dots = shared[scores_at:dots_at], shared[dots_at:whole]
        one, dense = float32(1.0), len(sides) > 0
        for i in range(cuda.blockIdx.x, len(rows), cuda.gridDim.x):
            row = rows[i]
            start, stop = indptr[row], indptr[row + 1]
            empty = start == stop
            if dense:
                stop = start
            base = bases[i] if dense else bases[0]
            cuda.syncthreads()
            for j in range(me, p, step):
                x[j] = out[row, j]
                pull[j] = ridge[row] * shape[j]
                diagonal[j] = pull[j] if dense else pull[j] + own[j]
            if empty and len(anchors) == 0:
                for j in range(me, p, step):
                    out[row, j] = float32(0.0)
                continue
            if stop - start <= panel_rows:
                _fill(panel, factors, indices, start, stop, p, panel_rows)
            _apply(
                image, x, -one, panel, scores, dots, partial, factors, indices, weights, targets, base, diagonal,
                start, stop, p, panel_rows, dot_parts, sum_parts,
            )  # fmt: skip
            for j in range(me, p, step):
                total = image[j]
                if dense:
                    total += sides[i, j]
                if len(anchors):
                    total += pull[j] * anchors[row, j]
                residual[j] = total
                direction[j] = total
            energy = _dot(residual, residual, parts)
            for _ in range(steps):
                if energy < float32(1e-20):
                    break
                _apply(
                    image, direction, one, panel, scores, dots, partial, factors, indices, weights, targets, base,
                    diagonal, start, stop, p, panel_rows, dot_parts, sum_parts,
                )  # fmt: skip
                curvature = _dot(direction, image, parts)
                if not curvature > float32(0.0):
                    break
                length = energy / curvature
                for j in range(me, p, step):
                    x[j] += length * direction[j]
                    residual[j] -= length * image[j]
                next_energy = _dot(residual, residual, parts)
                for j in range(me, p, step):
                    direction[j] = residual[j] + next_energy / energy * direction[j]
                energy = next_energy
            spoilt = float32(0.0)
            for j in range(me, p, step):
                spoilt += float32(0.0) if abs(x[j]) <= float32(3.4028235e38) else float32(1.0)
            spoilt = _sum_over_threads(spoilt, parts)
            for j in range(me, p, step):
                out[row, j] = x[j] if spoilt == float32(0.0) else float32(0.0)
            if me == 0 and spoilt > float32(0.0):
                unsound[row] = 1

    return CgKernel(solve_rows, block, 4 * whole)


@kernel
def multiply_rows(rows: Any, matrix: Any, out: Any) -> None:
    """Write rows·matrix to ``out``, float32; each number by one thread, so that a row's bits are its own."""
    p = matrix.shape[1]
    for place in range(cuda.grid(1), len(rows) * p, cuda.gridsize(1)):
        row, j = place // p, place % p
        total = float32(0.0)
        for k in range(len(matrix)):
            total += rows[row, k] * matrix[k, j]
        out[row, j] = total


@kernel
def squared_error_rows(
    indptr: Any, indices: Any, weights: Any, targets: Any, row_factors: Any, factors: Any, errors: Any
) -> None:
    """Write Σ_e w_e (y_e − xᵀf_e)² of each row to ``errors``, float64 ``[n]``."""
    parts = cuda.shared.array(0, float64)
    for row in range(cuda.blockIdx.x, len(indptr) - 1, cuda.gridDim.x):
        total = float64(0.0)
        for e in range(indptr[row] + cuda.threadIdx.x, indptr[row + 1], cuda.blockDim.x):
            score = float32(0.0)
            for j in range(factors.shape[1]):
                score += row_factors[row, j] * factors[indices[e], j]
            difference = float64(targets[e] - score)
            total += weights[e] * difference * difference
        total = _sum_over_threads(total, parts)
        if cuda.threadIdx.x == 0:
            errors[row] = total
