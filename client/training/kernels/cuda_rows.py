"""The loops of the CUDA backend: one row of the systems at a time in one block of threads.

What a row comes to depends on its own entries, the factors and the other arguments alone: no padding to the longest row, no
atomic addition, and each sum in an order that the entries fix. So a user's solution is the same to the bit beside any other
users, on any number of blocks. Rows are dealt to the blocks of the grid in turn.

Arguments are those of :class:`client.training.kernels.systems.RowSystems`, array by array. Matrices of scratch memory are
``pitch`` wide, the width rounded up to a multiple of four; what lies beyond the width is an identity that changes nothing.
"""

# ruff: noqa: C901, PLR0912 - compiled code takes arrays and no objects

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import cuda, float32, float64, int32

PANEL_ROWS = 16
"""Entries that a block holds in shared memory at a time."""


def _device_function(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = cuda.jit(device=True)(function)
    return compiled


def _kernel(function: Callable[..., Any]) -> Any:
    return cuda.jit(function)


@_device_function
def _fill_panel(
    panel: Any, roots: Any, factors: Any, indices: Any, weights: Any, targets: Any, start: Any, stop: Any, pitch: Any
) -> None:
    """Write √w f of the entries start:stop to the panel, zeros up to its last row, and √w y to ``roots``."""
    p = factors.shape[1]
    for place in range(cuda.threadIdx.x, PANEL_ROWS * pitch, cuda.blockDim.x):
        t, j = place // pitch, place % pitch
        value = float64(0.0)
        if start + t < stop and j < p:
            value = math.sqrt(float64(weights[start + t])) * factors[indices[start + t], j]
        panel[place] = value
    for t in range(cuda.threadIdx.x, PANEL_ROWS, cuda.blockDim.x):
        value = float64(0.0)
        if start + t < stop:
            value = math.sqrt(float64(weights[start + t])) * targets[start + t]
        roots[t] = value


@_device_function
def _add_outer_products(
    gram: Any,
    rhs: Any,
    panel: Any,
    roots: Any,
    tiles: Any,
    factors: Any,
    indices: Any,
    weights: Any,
    targets: Any,
    start: Any,
    stop: Any,
) -> None:
    """Add Σ w f fᵀ to the tiles of ``gram`` on and above the diagonal and Σ w y f to ``rhs``, entries start:stop.

    A thread has tiles of its own, 4 by 4, in registers while it goes through a panel.
    """
    pitch = gram.shape[1]
    sums = cuda.local.array(16, float64)
    for first in range(start, stop, PANEL_ROWS):
        cuda.syncthreads()
        _fill_panel(panel, roots, factors, indices, weights, targets, first, stop, pitch)
        cuda.syncthreads()
        for tile in range(cuda.threadIdx.x, len(tiles), cuda.blockDim.x):
            top, left = tiles[tile, 0], tiles[tile, 1]
            for a in range(4):
                for b in range(4):
                    sums[4 * a + b] = gram[top + a, left + b]
            for t in range(PANEL_ROWS):
                for a in range(4):
                    c = panel[t * pitch + top + a]
                    for b in range(4):
                        sums[4 * a + b] += c * panel[t * pitch + left + b]
            for a in range(4):
                for b in range(4):
                    gram[top + a, left + b] = sums[4 * a + b]
        for j in range(cuda.threadIdx.x, pitch, cuda.blockDim.x):
            total = rhs[j]
            for t in range(PANEL_ROWS):
                total += roots[t] * panel[t * pitch + j]
            rhs[j] = total
    cuda.syncthreads()


@_device_function
def _factorise_and_solve(a: Any, x: Any, sound: Any) -> None:
    """Solve a x = b in place of b = ``x`` with a = UᵀU; reads the upper triangle of ``a`` and overwrites it.

    Sets ``sound[0]`` to 0 where ``a`` is not positive definite.
    """
    n, me, step = len(x), cuda.threadIdx.x, cuda.blockDim.x
    for i in range(n):
        pivot = a[i, i]
        cuda.syncthreads()
        if not pivot > 0.0:  # every thread has read the same number, so all of them leave
            if me == 0:
                sound[0] = 0
            return
        scale = 1.0 / math.sqrt(pivot)
        for j in range(i + me, n, step):
            a[i, j] *= scale
        cuda.syncthreads()
        width = n - i - 1
        for place in range(me, width * width, step):
            j, k = i + 1 + place // width, i + 1 + place % width
            if k >= j:
                a[j, k] -= a[i, j] * a[i, k]
        cuda.syncthreads()
    for i in range(n):
        if me == 0:
            x[i] /= a[i, i]
        cuda.syncthreads()
        for j in range(i + 1 + me, n, step):
            x[j] -= x[i] * a[i, j]
        cuda.syncthreads()
    for i in range(n - 1, -1, -1):
        if me == 0:
            x[i] /= a[i, i]
        cuda.syncthreads()
        for j in range(me, i, step):
            x[j] -= x[i] * a[j, i]
        cuda.syncthreads()


@_kernel
def cholesky_rows(
    indptr: Any,
    indices: Any,
    weights: Any,
    targets: Any,
    factors: Any,
    base: Any,
    ridge: Any,
    shape: Any,
    anchors: Any,
    tiles: Any,
    scratch: Any,
    out: Any,
    unsound: Any,
) -> None:
    """Write the exact solution of each row to ``out``, float32 ``[n, p]``, and 1 to ``unsound`` of a zeroed row.

    ``scratch`` is float64 ``[blocks, pitch, pitch]``.
    """
    p, pitch, me, step = factors.shape[1], scratch.shape[2], cuda.threadIdx.x, cuda.blockDim.x
    shared = cuda.shared.array(0, float64)
    panel = shared[: PANEL_ROWS * pitch]
    roots = shared[PANEL_ROWS * pitch : PANEL_ROWS * pitch + PANEL_ROWS]
    x = shared[PANEL_ROWS * pitch + PANEL_ROWS : PANEL_ROWS * pitch + PANEL_ROWS + pitch]
    sound = cuda.shared.array(1, int32)
    gram = scratch[cuda.blockIdx.x]
    for row in range(cuda.blockIdx.x, len(indptr) - 1, cuda.gridDim.x):
        for place in range(me, pitch * pitch, step):
            j, k = place // pitch, place % pitch
            value = float64(0.0)
            if j < p and k < p:
                value = base[j, k]
            if j == k:
                value += ridge[row] * shape[j] if j < p else 1.0
            gram[j, k] = value
        for j in range(me, pitch, step):
            value = float64(0.0)
            if j < p and len(anchors):
                value = ridge[row] * shape[j] * anchors[row, j]
            x[j] = value
        if me == 0:
            sound[0] = 1
        _add_outer_products(
            gram, x, panel, roots, tiles, factors, indices, weights, targets, indptr[row], indptr[row + 1]
        )
        _factorise_and_solve(gram, x, sound)
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


@_kernel
def statistics_rows(
    indptr: Any,
    indices: Any,
    weights: Any,
    targets: Any,
    factors: Any,
    tiles: Any,
    scratch: Any,
    packed: Any,
    rhs: Any,
) -> None:
    """Write the upper triangle of Σ w f fᵀ of each row to ``packed``, row by row, and Σ w y f to ``rhs``, both float32."""
    p, pitch, me, step = factors.shape[1], scratch.shape[2], cuda.threadIdx.x, cuda.blockDim.x
    shared = cuda.shared.array(0, float64)
    panel = shared[: PANEL_ROWS * pitch]
    roots = shared[PANEL_ROWS * pitch : PANEL_ROWS * pitch + PANEL_ROWS]
    x = shared[PANEL_ROWS * pitch + PANEL_ROWS : PANEL_ROWS * pitch + PANEL_ROWS + pitch]
    gram = scratch[cuda.blockIdx.x]
    for row in range(cuda.blockIdx.x, len(indptr) - 1, cuda.gridDim.x):
        for place in range(me, pitch * pitch, step):
            gram[place // pitch, place % pitch] = 0.0
        for j in range(me, pitch, step):
            x[j] = 0.0
        _add_outer_products(
            gram, x, panel, roots, tiles, factors, indices, weights, targets, indptr[row], indptr[row + 1]
        )
        for place in range(me, p * p, step):
            j, k = place // p, place % p
            if k >= j:
                packed[row, j * p - j * (j - 1) // 2 + k - j] = gram[j, k]
        for j in range(me, p, step):
            rhs[row, j] = x[j]
        cuda.syncthreads()


@_device_function
def _sum_over_threads(value: Any, parts: Any) -> Any:
    """Σ of one float32 of each thread, added in the same order in all of them; ``parts`` holds one a thread."""
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


@_device_function
def _dot(x: Any, y: Any, parts: Any) -> Any:
    total = float32(0.0)
    for j in range(cuda.threadIdx.x, len(x), cuda.blockDim.x):
        total += x[j] * y[j]
    return _sum_over_threads(total, parts)


@_device_function
def _apply(
    image: Any,
    x: Any,
    scores: Any,
    factors: Any,
    indices: Any,
    weights: Any,
    base: Any,
    row: Any,
    start: Any,
    stop: Any,
) -> None:
    """Write (B + ρ diag(s) + Σ w f fᵀ) x to ``image``; ``row`` holds ρ s, and ``scores`` one number a thread."""
    me, step = cuda.threadIdx.x, cuda.blockDim.x
    p = len(x)
    cuda.syncthreads()
    for j in range(me, p, step):
        total = row[j] * x[j]
        for k in range(p):
            total += base[k, j] * x[k]
        image[j] = total
    for first in range(start, stop, step):
        e = first + me
        cuda.syncthreads()
        if e < stop:
            score = float32(0.0)
            for j in range(p):
                score += factors[indices[e], j] * x[j]
            scores[me] = weights[e] * score
        cuda.syncthreads()
        for j in range(me, p, step):
            total = image[j]
            for t in range(min(step, stop - first)):
                total += scores[t] * factors[indices[first + t], j]
            image[j] = total
    cuda.syncthreads()


@_kernel
def cg_rows(
    indptr: Any,
    indices: Any,
    weights: Any,
    targets: Any,
    factors: Any,
    base: Any,
    ridge: Any,
    shape: Any,
    anchors: Any,
    steps: Any,
    out: Any,
) -> None:
    """Conjugate gradients from ``out`` into ``out`` (Takács, Pilászy & Tikk 2011), all arrays float32."""
    p, me, step = factors.shape[1], cuda.threadIdx.x, cuda.blockDim.x
    shared = cuda.shared.array(0, float32)
    x, residual, direction = shared[:p], shared[p : 2 * p], shared[2 * p : 3 * p]
    image, pull, parts = shared[3 * p : 4 * p], shared[4 * p : 5 * p], shared[5 * p : 5 * p + step]
    for row in range(cuda.blockIdx.x, len(indptr) - 1, cuda.gridDim.x):
        start, stop = indptr[row], indptr[row + 1]
        cuda.syncthreads()
        for j in range(me, p, step):
            x[j] = out[row, j]
            pull[j] = ridge[row] * shape[j]
        if start == stop and len(anchors) == 0:
            for j in range(me, p, step):
                out[row, j] = float32(0.0)
            continue
        _apply(image, x, parts, factors, indices, weights, base, pull, start, stop)
        for j in range(me, p, step):
            total = -image[j]
            if len(anchors):
                total += pull[j] * anchors[row, j]
            for e in range(start, stop):
                total += weights[e] * targets[e] * factors[indices[e], j]
            residual[j] = total
            direction[j] = total
        energy = _dot(residual, residual, parts)
        for _ in range(steps):
            if energy < float32(1e-20):
                break
            _apply(image, direction, parts, factors, indices, weights, base, pull, start, stop)
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
        for j in range(me, p, step):
            out[row, j] = x[j]


@_kernel
def squared_error_rows(
    indptr: Any, indices: Any, weights: Any, targets: Any, row_factors: Any, factors: Any, errors: Any
) -> None:
    """Write Σ_e w_e (y_e − xᵀf_e)² of each row to ``errors``, float64 ``[n]``; one thread a row."""
    row = cuda.grid(1)
    if row < len(indptr) - 1:
        total = float64(0.0)
        for e in range(indptr[row], indptr[row + 1]):
            score = float32(0.0)
            for j in range(factors.shape[1]):
                score += row_factors[row, j] * factors[indices[e], j]
            difference = float64(targets[e] - score)
            total += weights[e] * difference * difference
        errors[row] = total
