"""Solves one packed system with all threads of a block, for the exact loops of the CUDA backend."""

# ruff: noqa: C901, PLR0912 - compiled code takes arrays and no objects

from __future__ import annotations

from typing import Any

from numba import cuda, float64

from client.training.kernels.cuda_compile import device_function

BAND = 8
"""Rows that are factorised at a time; a block has at least so many threads."""
CORNER = BAND * BAND


@device_function
def factorise_and_solve(a: Any, x: Any, inverse: Any, corner: Any, panel: Any, most: Any, sound: Any, p: Any) -> None:
    """Solve the packed system ``a`` by LDLᵀ into ``x``; overwrites ``a``, and ``inverse`` with 1 over D.

    The right-hand side goes through the factorisation as a last column. Sets ``sound[0]`` to 0 where a pivot is not positive.

    A band of rows is done at a time. A thread takes one column of it into registers and subtracts all rows above, whose
    scaled parts in the band come through ``panel``, ``most`` rows at a time: a number of ``a`` is read once a band. The
    band's own rows meet in ``corner``. Each number of ``a`` is subtracted from in the order of the rows above it.
    """
    me, step = cuda.threadIdx.x, cuda.blockDim.x
    held = cuda.local.array(BAND, float64)
    for top in range(0, p, BAND):
        for first in range(top, p + 1, step):
            j = first + me
            row = row_of(top, p)
            for s in range(BAND):
                held[s] = a[row + j] if top + s < p and top + s <= j <= p else 0.0
                row += p - top - s
            for low in range(0, top, most):
                high = min(low + most, top)
                cuda.syncthreads()
                for place in range(me, (high - low) * BAND, step):
                    k, i = low + place // BAND, top + place % BAND
                    panel[place] = a[row_of(k, p) + i] * inverse[k] if i < p else 0.0
                cuda.syncthreads()
                if j <= p:
                    row = row_of(low, p)
                    for k in range(low, high):
                        right = a[row + j]
                        for s in range(BAND):
                            held[s] -= panel[(k - low) * BAND + s] * right
                        row += p - k
            if first == top:
                for s in range(BAND):
                    if s <= me < BAND:
                        corner[s * BAND + me] = held[s]
                if not _factorise_corner(corner, inverse, sound, top, min(BAND, p - top)):
                    return
            for s in range(BAND):
                for t in range(BAND):
                    if t < s and top + s < p:
                        held[s] -= corner[t * BAND + s] * inverse[top + t] * held[t]
            row = row_of(top, p)
            for s in range(BAND):
                if top + s < p and top + s <= j <= p:
                    a[row + j] = held[s]
                row += p - top - s
    cuda.syncthreads()
    _substitute_back(a, x, inverse, corner, p)


@device_function
def row_of(i: Any, p: Any) -> Any:
    """Element (i, j) of a packed sum lies at this + j."""
    return i * p - i * (i - 1) // 2


@device_function
def _factorise_corner(corner: Any, inverse: Any, sound: Any, top: Any, height: Any) -> bool:
    """Factorise a band's own rows and columns, in shared memory; False, for all threads, where a pivot is not positive."""
    me, step = cuda.threadIdx.x, cuda.blockDim.x
    cuda.syncthreads()
    for s in range(height):
        pivot = corner[s * BAND + s]
        if not pivot > 0.0:  # every thread has read the same number, so all of them leave
            if me == 0:
                sound[0] = 0
            return False
        over = 1.0 / pivot
        if me == 0:
            inverse[top + s] = over
        for place in range(me, BAND * BAND, step):
            t, j = place // BAND, place % BAND
            if s < t <= j < height:
                corner[place] -= corner[s * BAND + t] * over * corner[s * BAND + j]
        cuda.syncthreads()
    return True


@device_function
def _substitute_back(a: Any, x: Any, inverse: Any, corner: Any, p: Any) -> None:
    """Solve D Lᵀ x = z, where z is the last column of ``a``, a band of rows at a time from the last."""
    me, step = cuda.threadIdx.x, cuda.blockDim.x
    for j in range(me, p, step):
        x[j] = a[row_of(j, p) + p]
    for top in range((p - 1) // BAND * BAND, -1, -BAND):
        height = min(BAND, p - top)
        cuda.syncthreads()
        for place in range(me, BAND * BAND, step):
            s, t = place // BAND, place % BAND
            if s <= t < height:
                corner[place] = a[row_of(top + s, p) + top + t]
        cuda.syncthreads()
        for t in range(height - 1, -1, -1):
            if me == 0:
                x[top + t] *= inverse[top + t]
            cuda.syncthreads()
            for s in range(me, t, step):
                x[top + s] -= x[top + t] * corner[s * BAND + t]
            cuda.syncthreads()
        for j in range(me, top, step):
            row = row_of(j, p) + top
            value = x[j]
            for t in range(BAND - 1, -1, -1):
                if t < height:
                    value -= x[top + t] * a[row + t]
            x[j] = value
    cuda.syncthreads()
