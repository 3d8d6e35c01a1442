"""Conjugate gradients and the squared error of the CPU backend, in float32, parallel over blocks of rows.

Arguments and blocks as in :mod:`client.training.kernels.numba_exact`. Four entries are taken at a time, so that an accumulator
is loaded and stored once for four multiply-adds.
"""

# ruff: noqa: C901, PLR0912 - compiled code takes arrays and no objects

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from client.training.kernels.numba_compile import jit, jit_parallel


@jit
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


@jit
def _add_product(total: Any, sign: Any, base: Any, x: Any) -> Any:
    """Add sign·baseᵀ·x to ``total``, by rows."""
    p = len(x)
    for j in range(p):
        c = sign * x[j]
        row = base[j]
        for k in range(p):
            total[k] += c * row[k]


@jit_parallel
def multiply_blocks(bounds: Any, rows: Any, matrix: Any, out: Any) -> Any:
    """Write rows·matrix to ``out``."""
    for block in numba.prange(len(bounds) - 1):
        for row in range(bounds[block], bounds[block + 1]):
            out[row] = 0
            _add_product(out[row], np.float32(1.0), matrix, rows[row])


@jit
def _dot(x: Any, y: Any) -> Any:
    total = np.float32(0.0)
    for j in range(len(x)):
        total += x[j] * y[j]
    return total


@jit_parallel
def cg_blocks(
    bounds: Any,
    indptr: Any,
    indices: Any,
    weights: Any,
    targets: Any,
    factors: Any,
    base: Any,
    diagonal: Any,
    ridge: Any,
    shape: Any,
    anchors: Any,
    steps: Any,
    out: Any,
) -> Any:
    """Conjugate gradients from ``out`` into ``out`` (Takács, Pilászy & Tikk 2011).

    ``base`` has no rows where it is a diagonal matrix, which stands in ``diagonal`` then.
    """
    p = factors.shape[1]
    one, zero = np.float32(1.0), np.float32(0.0)
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
            if len(base):
                _add_product(residual, -one, base, x)
            else:
                for j in range(p):
                    residual[j] -= diagonal[j] * x[j]
            _add_projections(residual, x, -one, factors, indices, weights, targets, start, stop)
            direction[:] = residual
            energy = _dot(residual, residual)
            for _ in range(steps):
                if energy < 1e-20:
                    break
                for j in range(p):
                    image[j] = ridge[row] * shape[j] * direction[j]
                if len(base):
                    _add_product(image, one, base, direction)
                else:
                    for j in range(p):
                        image[j] += diagonal[j] * direction[j]
                _add_projections(image, direction, one, factors, indices, weights, targets, start, stop)
                curvature = _dot(direction, image)
                # Not NaN either: whatever the loops are compiled with, nothing is divided by zero.
                if not curvature > zero:
                    break
                length = energy / curvature
                for j in range(p):
                    x[j] += length * direction[j]
                    residual[j] -= length * image[j]
                next_energy = _dot(residual, residual)
                ratio = next_energy / energy
                for j in range(p):
                    direction[j] = residual[j] + ratio * direction[j]
                energy = next_energy


@jit_parallel
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
