"""Exact solves and sums of the CPU backend, in float64, parallel over blocks of rows.

Nothing is compiled at import; each loop is compiled at its first call and cached on disk where a cache directory can be
written. Arguments are those of :class:`client.training.kernels.systems.RowSystems`, array by array; ``bounds`` (int64
``[blocks + 1]``) cuts the rows into the blocks that run in parallel.
"""

# ruff: noqa: C901 - compiled code takes arrays and no objects

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from client.training.kernels.numba_compile import jit, jit_parallel

MAX_WIDTH = 2112
"""Longest factor; the constant distance of rows in scratch memory, and no multiple of a power of two that caches mind."""
_STRIDE = np.uint64(MAX_WIDTH)
_PANEL_ROWS = 32


@jit
def _fill_panel(
    panel: Any, rhs: Any, factors: Any, indices: Any, weights: Any, targets: Any, start: Any, stop: Any
) -> Any:
    """Write √w f of the entries start:stop into the panel, zeros up to a multiple of four rows; add Σ w y f to ``rhs``.

    Returns the number of panel rows written.
    """
    p = factors.shape[1]
    count = stop - start
    filled = (count + 3) // 4 * 4
    for t in range(filled):
        row = panel[t * MAX_WIDTH : t * MAX_WIDTH + p]
        if t < count:
            root = np.sqrt(np.float64(weights[start + t]))
            target = root * targets[start + t]
            f = factors[indices[start + t]]
            for j in range(p):
                row[j] = root * f[j]
                rhs[j] += target * row[j]
        else:
            row[:] = 0.0
    return filled


@jit
def _multiply_panel(tile: Any, panel: Any, filled: Any, first: Any, p: Any) -> Any:
    """Rows first:first + 4 of panelᵀ·panel, from column ``first`` on, into the four rows of ``tile``.

    Offsets are unsigned and strides constant: signed ones bring numba's wrap-around and unknown ones bring checks whether
    arrays overlap, and with either the compiler does not vectorise.
    """
    one, two, three = _STRIDE, _STRIDE + _STRIDE, _STRIDE + _STRIDE + _STRIDE
    j, end = np.uint64(first), np.uint64(p)
    j1, j2, j3 = j + np.uint64(1), j + np.uint64(2), j + np.uint64(3)
    for k in range(j, end):
        tile[k] = 0.0
        tile[one + k] = 0.0
        tile[two + k] = 0.0
        tile[three + k] = 0.0
    for t in range(0, filled, 4):
        r0 = np.uint64(t) * _STRIDE
        r1, r2, r3 = r0 + one, r0 + two, r0 + three
        a0, a1, a2, a3 = panel[r0 + j], panel[r1 + j], panel[r2 + j], panel[r3 + j]
        b0, b1, b2, b3 = panel[r0 + j1], panel[r1 + j1], panel[r2 + j1], panel[r3 + j1]
        c0, c1, c2, c3 = panel[r0 + j2], panel[r1 + j2], panel[r2 + j2], panel[r3 + j2]
        d0, d1, d2, d3 = panel[r0 + j3], panel[r1 + j3], panel[r2 + j3], panel[r3 + j3]
        for k in range(j, end):
            x0, x1, x2, x3 = panel[r0 + k], panel[r1 + k], panel[r2 + k], panel[r3 + k]
            tile[k] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
            tile[one + k] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
            tile[two + k] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
            tile[three + k] += d0 * x0 + d1 * x1 + d2 * x2 + d3 * x3


@jit
def _add_outer_products(
    gram: Any, rhs: Any, scratch: Any, factors: Any, indices: Any, weights: Any, targets: Any, start: Any, stop: Any
) -> Any:
    """Add Σ w f fᵀ to the upper triangle of ``gram`` (float64) and Σ w y f to ``rhs``, entries start:stop."""
    panel, tile = scratch
    p = factors.shape[1]
    for first in range(start, stop, _PANEL_ROWS):
        filled = _fill_panel(panel, rhs, factors, indices, weights, targets, first, min(first + _PANEL_ROWS, stop))
        for j in range(0, p, 4):
            _multiply_panel(tile, panel, filled, j, p)
            for extra in range(min(4, p - j)):
                row = gram[j + extra]
                products = tile[extra * MAX_WIDTH : extra * MAX_WIDTH + p]
                for k in range(j + extra, p):
                    row[k] += products[k]


@jit
def _factorise_and_solve(a: Any, x: Any) -> Any:
    """Solve a x = b in place of b = ``x`` with a = UᵀU; only the upper triangle of ``a`` is read and it is overwritten.

    Returns False if ``a`` is not positive definite.
    """
    p = len(x)
    for i in range(p):
        row = a[i]
        k = 0
        while k + 3 < i:
            r0, r1, r2, r3 = a[k], a[k + 1], a[k + 2], a[k + 3]
            c0, c1, c2, c3 = r0[i], r1[i], r2[i], r3[i]
            for j in range(i, p):
                row[j] -= c0 * r0[j] + c1 * r1[j] + c2 * r2[j] + c3 * r3[j]
            k += 4
        while k < i:
            r0 = a[k]
            c0 = r0[i]
            for j in range(i, p):
                row[j] -= c0 * r0[j]
            k += 1
        if not row[i] > 0.0:
            return False
        scale = 1.0 / np.sqrt(row[i])
        for j in range(i, p):
            row[j] *= scale
    for i in range(p):
        row = a[i]
        x[i] /= row[i]
        xi = x[i]
        for j in range(i + 1, p):
            x[j] -= xi * row[j]
    for i in range(p - 1, -1, -1):
        row = a[i]
        total = x[i]
        for j in range(i + 1, p):
            total -= row[j] * x[j]
        x[i] = total / row[i]
    return True


@jit_parallel
def cholesky_blocks(
    bounds: Any,
    indptr: Any,
    indices: Any,
    weights: Any,
    targets: Any,
    factors: Any,
    base: Any,
    ridge: Any,
    shape: Any,
    anchors: Any,
    out: Any,
) -> Any:
    """Exact solutions of all rows into ``out``; returns how many broke down, which are zero.

    A row that is not positive definite, or not finite in float32, touches no other.
    """
    failures = 0
    p = factors.shape[1]
    for block in numba.prange(len(bounds) - 1):
        gram = np.empty((p, p))
        x = np.empty(p)
        scratch = (np.zeros(_PANEL_ROWS * MAX_WIDTH), np.zeros(4 * MAX_WIDTH))
        for row in range(bounds[block], bounds[block + 1]):
            gram[:] = base
            x[:] = 0.0
            for j in range(p):
                gram[j, j] += ridge[row] * shape[j]
            if len(anchors):
                for j in range(p):
                    x[j] = ridge[row] * shape[j] * anchors[row, j]
            _add_outer_products(gram, x, scratch, factors, indices, weights, targets, indptr[row], indptr[row + 1])
            sound = _factorise_and_solve(gram, x)
            for j in range(p):
                out[row, j] = x[j]
                sound = sound and np.isfinite(out[row, j])
            if not sound:
                failures += 1
                for j in range(p):
                    out[row, j] = 0.0
    return failures


@jit_parallel
def statistics_blocks(
    bounds: Any, indptr: Any, indices: Any, weights: Any, targets: Any, factors: Any, packed: Any, rhs: Any
) -> Any:
    p = factors.shape[1]
    for block in numba.prange(len(bounds) - 1):
        gram = np.empty((p, p))
        x = np.empty(p)
        scratch = (np.zeros(_PANEL_ROWS * MAX_WIDTH), np.zeros(4 * MAX_WIDTH))
        for row in range(bounds[block], bounds[block + 1]):
            gram[:] = 0.0
            x[:] = 0.0
            _add_outer_products(gram, x, scratch, factors, indices, weights, targets, indptr[row], indptr[row + 1])
            position = 0
            for j in range(p):
                rhs[row, j] = x[j]
                for k in range(j, p):
                    packed[row, position] = gram[j, k]
                    position += 1
