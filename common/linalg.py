"""Dense linear algebra that platforms and the aggregator share: packing, batched solves, ridges, first factors.

NumPy alone, float64 throughout: the aggregator solves for item factors with these functions and needs no TensorFlow.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK_BYTES = 32 * 2**20
"""Largest batch of d × d systems that is factorised at a time, so that memory does not grow with their number."""


def packed_size(d: int) -> int:
    """The number of entries in the upper triangle of a d × d matrix, d(d + 1)/2.

    >>> packed_size(3)
    6
    """
    return d * (d + 1) // 2


@lru_cache(maxsize=16)
def _upper_triangle(d: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    rows, columns = np.triu_indices(d)
    return rows, columns


@lru_cache(maxsize=16)
def _places(d: int) -> NDArray[np.intp]:
    """Where each entry of a symmetric matrix, row by row, lies in the packed one; intp ``[d²]``."""
    rows, columns = _upper_triangle(d)
    places = np.empty((d, d), dtype=np.intp)
    places[rows, columns] = places[columns, rows] = np.arange(packed_size(d))
    return places.ravel()


def pack_symmetric(a: NDArray[Any]) -> NDArray[Any]:
    """The upper triangles, row by row, of symmetric matrices ``[..., d, d]`` as ``[..., d(d + 1)/2]``; dtype is kept.

    Only the upper triangle is read: a matrix that is not symmetric loses its lower one.

    >>> pack_symmetric(np.array([[1, 2], [2, 3]])).tolist()
    [1, 2, 3]
    """
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ContractError(f"matrices to pack must be square; got shape {a.shape}")
    rows, columns = _upper_triangle(a.shape[-1])
    return a[..., rows, columns]


def unpack_symmetric(packed: NDArray[Any], d: int) -> NDArray[Any]:
    """The inverse of :func:`pack_symmetric`: ``[..., d(d + 1)/2]`` as exactly symmetric ``[..., d, d]``, dtype kept.

    Raises:
        ContractError: the last axis is not d(d + 1)/2 long.
    """
    if packed.ndim < 1 or packed.shape[-1] != packed_size(d):
        raise ContractError(f"a packed {d} × {d} matrix has {packed_size(d)} entries; got shape {packed.shape}")
    return packed.take(_places(d), axis=-1).reshape(*packed.shape[:-1], d, d)


def solve_posdef(
    a: NDArray[np.floating], b: NDArray[np.floating], *, block_bytes: int = _BLOCK_BYTES
) -> NDArray[np.float64]:
    """Solve k symmetric positive definite systems by Cholesky factorisation, in float64.

    Args:
        a: floating ``[k, d, d]``; only the lower triangles are read.
        b: floating ``[k, d]``.
        block_bytes: largest batch of systems that is factorised at a time.

    Returns:
        float64 ``[k, d]``. Scratch memory is bounded whatever k is.

    Raises:
        ContractError: the shapes do not fit together.
        ConfigError: a system is not positive definite or not finite.
    """
    if a.ndim != 3 or a.shape[1] != a.shape[2] or b.shape != a.shape[:2]:
        raise ContractError(f"systems must have shapes [k, d, d] and [k, d]; got {a.shape} and {b.shape}")
    k, d = b.shape
    solutions = np.empty((k, d))
    block = max(1, block_bytes // (8 * d * d)) if d else k
    for start in range(0, k, block):
        stop = min(start + block, k)
        solutions[start:stop] = _solve_block(np.asarray(a[start:stop], np.float64), b[start:stop].astype(np.float64))
    return solutions


def _solve_block(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factorise the batch with LAPACK, then substitute column by column for the whole batch at a time."""
    try:
        lower = np.linalg.cholesky(a)
    except np.linalg.LinAlgError:
        lower = np.full((1, 1, 1), np.nan)
    # LAPACK lets NaN through without an error; whatever a row has of it comes to the row's diagonal.
    if not (np.isfinite(np.diagonal(lower, axis1=1, axis2=2)).all() and np.isfinite(b).all()):
        raise ConfigError(
            "model.regularization: a system of the factorisation is not positive definite or not finite; raise the "
            "regularization, or project a noisy Gram matrix onto the positive semidefinite ones first"
        )
    x = b.copy()
    d = x.shape[1]
    for j in range(d):
        x[:, j] = (x[:, j] - np.einsum("kl,kl->k", lower[:, j, :j], x[:, :j])) / lower[:, j, j]
    for j in reversed(range(d)):
        x[:, j] = (x[:, j] - np.einsum("kl,kl->k", lower[:, j + 1 :, j], x[:, j + 1 :])) / lower[:, j, j]
    return x


def scaled_ridge(
    regularization: float, weight_sums: NDArray[np.integer] | NDArray[np.floating], exponent: float
) -> NDArray[np.float64]:
    """λ·sᵛ for every row: frequency-scaled regularisation (Rendle et al. 2021, "Revisiting iALS", eq. 5).

    Args:
        regularization: λ.
        weight_sums: ``[k]``; for a user |Ω_u| + α₀|C_p|, for an item n_i + α₀N_i, where n_i counts the users who have
            item i and N_i all users of the platforms that list it. In a federation both are sums over platforms.
        exponent: ν; 0 gives λ for every row, whatever its weight sum.

    Returns:
        float64 ``[k]``. A weight sum of 0 counts as 1, so that a row without entries keeps a positive ridge.
    """
    sums = np.asarray(weight_sums, dtype=np.float64)
    return regularization * np.power(np.where(sums > 0, sums, 1.0), exponent)


def initial_item_factors(m: int, d: int, rng: np.random.Generator, scale: float) -> NDArray[np.float32]:
    """Gaussian first item factors, float32 ``[m, d]``, with standard deviation scale/√d.

    Item i's factor depends on the generator's seed and on i only: a longer catalogue has the same first rows.
    """
    factors: NDArray[np.float32] = (rng.standard_normal((m, d)) * (scale / np.sqrt(d))).astype(np.float32)
    return factors
