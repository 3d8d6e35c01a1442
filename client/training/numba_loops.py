"""The compiled loops of the CPU backend, parallel over blocks of rows.

Importing this module compiles nothing; each loop is compiled at its first call and cached on disk where a cache
directory can be written. Inner loops take four entries at a time, so that an accumulator is loaded and stored once for
four multiply-adds. Arguments are those of :class:`client.training.systems.RowSystems`, array by array; ``bounds``
(int64 ``[blocks + 1]``) cuts the rows into the blocks that run in parallel.
"""

# ruff: noqa: C901, PLR0917 - compiled code takes arrays and no objects, and a call inside a loop would cost more than it

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

_FASTMATH = {"contract", "reassoc", "nsz"}  # without nnan and ninf: failures are recognised by NaN


def _jit(function: Callable[..., Any], *, parallel: bool = False) -> Callable[..., Any]:
    """Compile with a disk cache, or without one where the installation and the home directory are read-only."""
    try:
        compiled: Callable[..., Any] = numba.njit(function, cache=True, fastmath=_FASTMATH, parallel=parallel)
    except RuntimeError:  # numba: "no locator available"
        compiled = numba.njit(function, fastmath=_FASTMATH, parallel=parallel)
    return compiled


def _jit_parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    return _jit(function, parallel=True)


@_jit
def _add_outer_products(
    gram: Any, rhs: Any, factors: Any, indices: Any, weights: Any, targets: Any, start: Any, stop: Any
) -> Any:
    """Add Σ w f fᵀ to the upper triangle of ``gram`` (float64) and Σ w y f to ``rhs``, entries start:stop."""
    p = factors.shape[1]
    e = start
    while e < stop:
        f0 = factors[indices[e]]
        f1 = factors[indices[e + 1]] if e + 1 < stop else f0
        f2 = factors[indices[e + 2]] if e + 2 < stop else f0
        f3 = factors[indices[e + 3]] if e + 3 < stop else f0
        w0 = np.float64(weights[e])
        w1 = np.float64(weights[e + 1]) if e + 1 < stop else 0.0
        w2 = np.float64(weights[e + 2]) if e + 2 < stop else 0.0
        w3 = np.float64(weights[e + 3]) if e + 3 < stop else 0.0
        y0 = w0 * targets[e]
        y1 = w1 * targets[e + 1] if e + 1 < stop else 0.0
        y2 = w2 * targets[e + 2] if e + 2 < stop else 0.0
        y3 = w3 * targets[e + 3] if e + 3 < stop else 0.0
        for j in range(p):
            rhs[j] += y0 * f0[j] + y1 * f1[j] + y2 * f2[j] + y3 * f3[j]
            c0, c1, c2, c3 = w0 * f0[j], w1 * f1[j], w2 * f2[j], w3 * f3[j]
            row = gram[j]
            for k in range(j, p):
                row[k] += c0 * f0[k] + c1 * f1[k] + c2 * f2[k] + c3 * f3[k]
        e += 4


@_jit
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


@_jit_parallel
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
    """Exact solutions of all rows into ``out``; returns the number of rows that were not positive definite."""
    failures = 0
    p = factors.shape[1]
    for block in numba.prange(len(bounds) - 1):
        gram = np.empty((p, p))
        x = np.empty(p)
        for row in range(bounds[block], bounds[block + 1]):
            gram[:] = base
            x[:] = 0.0
            for j in range(p):
                gram[j, j] += ridge[row] * shape[j]
            if len(anchors):
                for j in range(p):
                    x[j] = ridge[row] * shape[j] * anchors[row, j]
            _add_outer_products(gram, x, factors, indices, weights, targets, indptr[row], indptr[row + 1])
            if not _factorise_and_solve(gram, x):
                failures += 1
            for j in range(p):
                out[row, j] = x[j]
    return failures


@_jit
def _add_projections(
    total: Any, direction: Any, sign: Any, factors: Any, indices: Any, weights: Any, targets: Any, start: Any, stop: Any
) -> Any:
    """Add sign·Σ w (fᵀdirection) f to ``total``; where sign is −1 add Σ w y f too, which makes it the residual."""
    p = factors.shape[1]
    zero = np.float32(0.0)
    e = start
    while e < stop:
        f0 = factors[indices[e]]
        f1 = factors[indices[e + 1]] if e + 1 < stop else f0
        f2 = factors[indices[e + 2]] if e + 2 < stop else f0
        f3 = factors[indices[e + 3]] if e + 3 < stop else f0
        w0 = weights[e]
        w1 = weights[e + 1] if e + 1 < stop else zero
        w2 = weights[e + 2] if e + 2 < stop else zero
        w3 = weights[e + 3] if e + 3 < stop else zero
        s0 = s1 = s2 = s3 = zero
        for j in range(p):
            d = direction[j]
            s0 += f0[j] * d
            s1 += f1[j] * d
            s2 += f2[j] * d
            s3 += f3[j] * d
        if sign < zero:
            s0 = targets[e] - s0
            s1 = targets[e + 1] - s1 if e + 1 < stop else zero
            s2 = targets[e + 2] - s2 if e + 2 < stop else zero
            s3 = targets[e + 3] - s3 if e + 3 < stop else zero
        s0 *= w0
        s1 *= w1
        s2 *= w2
        s3 *= w3
        for j in range(p):
            total[j] += s0 * f0[j] + s1 * f1[j] + s2 * f2[j] + s3 * f3[j]
        e += 4


@_jit
def _add_product(total: Any, sign: Any, base: Any, x: Any) -> Any:
    """Add sign·base·x to ``total`` for symmetric ``base``, by rows."""
    p = len(x)
    for j in range(p):
        c = sign * x[j]
        row = base[j]
        for k in range(p):
            total[k] += c * row[k]


@_jit
def _dot(x: Any, y: Any) -> Any:
    total = np.float32(0.0)
    for j in range(len(x)):
        total += x[j] * y[j]
    return total


@_jit_parallel
def cg_blocks(
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
    steps: Any,
    out: Any,
) -> Any:
    """Conjugate gradients from ``out`` into ``out`` (Takács, Pilászy & Tikk 2011)."""
    p = factors.shape[1]
    one = np.float32(1.0)
    for block in numba.prange(len(bounds) - 1):
        residual = np.empty(p, dtype=np.float32)
        direction = np.empty(p, dtype=np.float32)
        image = np.empty(p, dtype=np.float32)
        for row in range(bounds[block], bounds[block + 1]):
            start, stop = indptr[row], indptr[row + 1]
            x = out[row]
            if start == stop and not len(anchors):
                x[:] = 0
                continue
            for j in range(p):
                residual[j] = -ridge[row] * shape[j] * x[j]
            if len(anchors):
                for j in range(p):
                    residual[j] += ridge[row] * shape[j] * anchors[row, j]
            _add_product(residual, -one, base, x)
            _add_projections(residual, x, -one, factors, indices, weights, targets, start, stop)
            direction[:] = residual
            energy = _dot(residual, residual)
            for _ in range(steps):
                if energy < 1e-20:
                    break
                for j in range(p):
                    image[j] = ridge[row] * shape[j] * direction[j]
                _add_product(image, one, base, direction)
                _add_projections(image, direction, one, factors, indices, weights, targets, start, stop)
                length = energy / _dot(direction, image)
                for j in range(p):
                    x[j] += length * direction[j]
                    residual[j] -= length * image[j]
                next_energy = _dot(residual, residual)
                ratio = next_energy / energy
                for j in range(p):
                    direction[j] = residual[j] + ratio * direction[j]
                energy = next_energy


@_jit_parallel
def statistics_blocks(
    bounds: Any, indptr: Any, indices: Any, weights: Any, targets: Any, factors: Any, packed: Any, rhs: Any
) -> Any:
    p = factors.shape[1]
    for block in numba.prange(len(bounds) - 1):
        gram = np.empty((p, p))
        x = np.empty(p)
        for row in range(bounds[block], bounds[block + 1]):
            gram[:] = 0.0
            x[:] = 0.0
            _add_outer_products(gram, x, factors, indices, weights, targets, indptr[row], indptr[row + 1])
            position = 0
            for j in range(p):
                rhs[row, j] = x[j]
                for k in range(j, p):
                    packed[row, position] = gram[j, k]
                    position += 1


@_jit_parallel
def squared_error_blocks(
    bounds: Any, indptr: Any, indices: Any, weights: Any, targets: Any, row_factors: Any, factors: Any
) -> Any:
    errors = np.zeros(len(bounds) - 1)
    for block in numba.prange(len(bounds) - 1):
        total = 0.0
        for row in range(bounds[block], bounds[block + 1]):
            x = row_factors[row]
            for e in range(indptr[row], indptr[row + 1]):
                difference = np.float64(targets[e] - _dot(x, factors[indices[e]]))
                total += weights[e] * difference * difference
        errors[block] = total
    return errors
