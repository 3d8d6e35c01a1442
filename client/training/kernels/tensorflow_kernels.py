"""The TensorFlow backend: the reference, and the way to a GPU.

Rows are sorted by length into buckets, padded to the bucket's length and solved a batch at a time. Padding has weight 0
and so adds nothing. Batches hold a bounded number of padded entries, so device memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from client.training.kernels.devices import choose_device, visible_gpus
from client.training.kernels.systems import Entries, RowSystems, gram, zero_unsound_rows
from common.linalg import packed_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.training.kernels.systems import Coordinates

_BATCH_VALUES = 2**23
"""Padded entries × p that one batch gathers: 64 MiB in float64."""
_GROWTH = 1.25
"""Ratio of neighbouring bucket lengths: at most a fifth of a batch is padding."""


def bucket_lengths(longest: int) -> NDArray[np.int64]:
    """Increasing padded lengths, from 8 until they reach ``longest``; neighbours differ by a quarter.

    >>> bucket_lengths(20).tolist()
    [8, 10, 13, 17, 22]
    """
    lengths = [8]
    while lengths[-1] < longest:
        lengths.append(int(np.ceil(lengths[-1] * _GROWTH)))
    return np.array(lengths)


def _batches(entries: Entries, p: int) -> Iterator[tuple[NDArray[np.intp], tuple[NDArray[Any], ...]]]:
    """Yield row numbers ``[b]`` with their padded (indices, weights, targets), each ``[b, length]``."""
    lengths = np.diff(entries.indptr)
    buckets = bucket_lengths(int(lengths.max(initial=1)))
    bucket_of = np.searchsorted(buckets, lengths)
    for bucket in np.unique(bucket_of):
        length = int(buckets[bucket])
        rows = np.flatnonzero(bucket_of == bucket)
        for some in np.array_split(rows, max(1, -(-len(rows) * (length + p) * p // _BATCH_VALUES))):
            if len(some):
                yield some, _padded(entries, some, length)


def _padded(entries: Entries, rows: NDArray[np.intp], length: int) -> tuple[NDArray[Any], ...]:
    places = entries.indptr[rows, None] + np.arange(length)
    inside = places < entries.indptr[rows + 1, None]
    places = np.where(inside, places, 0)
    return (
        np.where(inside, entries.indices[places], 0).astype(np.int32),
        np.where(inside, entries.weights[places], 0.0).astype(np.float32),
        np.where(inside, 1.0 if entries.targets is None else entries.targets[places], 0.0).astype(np.float32),
    )


def _normal_equations(factors: Any, indices: Any, weights: Any, targets: Any) -> tuple[Any, Any]:
    f = tf.gather(factors, indices)
    weighted = f * weights[:, :, None]
    return tf.matmul(weighted, f, transpose_a=True), tf.linalg.matvec(weighted, targets, transpose_a=True)


def _cholesky_step(factors: Any, indices: Any, weights: Any, targets: Any, base: Any, ridge: Any, prior: Any) -> Any:
    gram, rhs = _normal_equations(factors, indices, weights, targets)
    lower = tf.linalg.cholesky(tf.linalg.set_diag(gram + base, tf.linalg.diag_part(gram + base) + ridge))
    return tf.linalg.cholesky_solve(lower, (rhs + prior)[:, :, None])[:, :, 0]


def _cg_step(
    factors: Any, indices: Any, weights: Any, targets: Any, base: Any, ridge: Any, prior: Any, x: Any, steps: Any
) -> Any:
    f = tf.gather(factors, indices)

    def image(direction: Any) -> Any:
        scores = weights * tf.linalg.matvec(f, direction)
        return tf.matmul(direction, base) + ridge * direction + tf.linalg.matvec(f, scores, transpose_a=True)

    residual = tf.linalg.matvec(f, weights * targets, transpose_a=True) + prior - image(x)
    direction = residual
    energy = tf.reduce_sum(residual * residual, axis=1, keepdims=True)
    for _ in tf.range(steps):
        moved = image(direction)
        going = energy >= 1e-20
        curvature = tf.reduce_sum(direction * moved, axis=1, keepdims=True)
        going = tf.logical_and(going, curvature > 0.0)
        length = tf.where(going, energy / curvature, 0.0)
        x += length * direction
        residual -= length * moved
        next_energy = tf.reduce_sum(residual * residual, axis=1, keepdims=True)
        direction = residual + tf.where(going, next_energy / energy, 0.0) * direction
        energy = next_energy
    return x


def _statistics_step(factors: Any, indices: Any, weights: Any, targets: Any) -> tuple[Any, Any]:
    return _normal_equations(factors, indices, weights, targets)


def _squared_error_step(factors: Any, indices: Any, weights: Any, targets: Any, x: Any) -> Any:
    difference = targets - tf.linalg.matvec(tf.gather(factors, indices), x)
    return tf.reduce_sum(weights * difference * difference)


def _traced(function: Callable[..., Any], dtype: Any, *more: Any) -> Callable[..., Any]:
    """One graph for every batch shape: all axes are left open."""
    common = [
        tf.TensorSpec([None, None], dtype),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([None, None], dtype),
        tf.TensorSpec([None, None], dtype),
    ]
    traced: Callable[..., Any] = tf.function(function, input_signature=[*common, *more])
    return traced


class TensorFlowKernels:
    """:class:`client.training.kernels.systems.Kernels` on one TensorFlow device.

    Exact solves and sums run in float64, conjugate gradients in float32 without TensorFloat-32, whose 10-bit mantissa
    would show in the factors.

    Args:
        device: as ``model.device``.
        gpus: names of the GPUs there are; None asks TensorFlow.
    """

    name = "tensorflow"

    def __init__(self, device: str = "auto", gpus: Sequence[str] | None = None) -> None:
        self.device = choose_device(device, visible_gpus() if gpus is None else gpus)
        tf.config.experimental.enable_tensor_float_32_execution(False)
        matrix64, matrix32 = tf.TensorSpec([None, None], tf.float64), tf.TensorSpec([None, None], tf.float32)
        self._cholesky = _traced(_cholesky_step, tf.float64, matrix64, matrix64, matrix64)
        self._cg = _traced(_cg_step, tf.float32, matrix32, matrix32, matrix32, matrix32, tf.TensorSpec([], tf.int32))
        self._statistics = _traced(_statistics_step, tf.float64)
        self._squared_error = _traced(_squared_error_step, tf.float64, matrix64)

    def gram(self, factors: NDArray[np.float32]) -> NDArray[np.float64]:
        return gram(factors)

    def solve_cholesky(self, systems: RowSystems) -> NDArray[np.float32]:
        out = np.zeros((systems.entries.n_rows, systems.factors.shape[1]), dtype=np.float32)
        with tf.device(self.device):
            factors, base = tf.constant(systems.factors, tf.float64), tf.constant(systems.base, tf.float64)
            for rows, padded in _batches(systems.entries, systems.factors.shape[1]):
                out[rows] = self._solve_batch(factors, base, padded, *_ridge_and_prior(systems, rows))
        # On a GPU, and for NaN, the factorisation fails without an error.
        zero_unsound_rows(out)
        return out

    def _solve_batch(
        self,
        factors: Any,
        base: Any,
        padded: tuple[NDArray[Any], ...],
        ridge: NDArray[np.float64],
        prior: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """The rows' solutions, float64 ``[b, p]``; NaN where a row's system cannot be factorised."""
        try:
            solved: NDArray[np.float64] = self._cholesky(
                factors, *_tensors(padded, tf.float64), base, tf.constant(ridge), tf.constant(prior)
            ).numpy()
        except tf.errors.InvalidArgumentError:
            if len(ridge) == 1:
                return np.full_like(ridge, np.nan)
            # The operation gives a whole batch up for one row: each by itself, with the same operations.
            rows = range(len(ridge))
            parts = [
                self._solve_batch(
                    factors,
                    base,
                    tuple(array[row : row + 1] for array in padded),
                    ridge[row : row + 1],
                    prior[row : row + 1],
                )
                for row in rows
            ]
            return np.concatenate(parts)
        return solved

    def solve_cg(
        self,
        systems: RowSystems,
        warm_start: NDArray[np.float32],
        steps: int,
        coordinates: Coordinates | None = None,
    ) -> NDArray[np.float32]:
        if coordinates is not None:
            # It brings numba, which the exact solver does not need.
            from client.training.kernels.numba_kernels import solve_carried

            return solve_carried(self, systems, warm_start, steps, coordinates)
        out = np.array(warm_start, dtype=np.float32)
        if systems.anchors is None:
            out[np.diff(systems.entries.indptr) == 0] = 0
        with tf.device(self.device), np.errstate(over="ignore"):
            factors, base = tf.constant(systems.factors), tf.constant(systems.base, tf.float32)
            for rows, padded in _batches(systems.entries, systems.factors.shape[1]):
                ridge, prior = (tf.constant(part, tf.float32) for part in _ridge_and_prior(systems, rows))
                tensors = _tensors(padded, tf.float32)
                out[rows] = self._cg(factors, *tensors, base, ridge, prior, tf.constant(out[rows]), steps).numpy()
        zero_unsound_rows(out)
        return out

    def statistics(
        self, entries: Entries, factors: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        p = factors.shape[1]
        upper = np.triu_indices(p)
        packed = np.empty((entries.n_rows, packed_size(p)), dtype=np.float32)
        rhs = np.empty((entries.n_rows, p), dtype=np.float32)
        with tf.device(self.device):
            everyone = tf.constant(factors, tf.float64)
            for rows, padded in _batches(entries, p):
                gram, right = self._statistics(everyone, *_tensors(padded, tf.float64))
                packed[rows] = gram.numpy()[:, upper[0], upper[1]]
                rhs[rows] = right.numpy()
        return packed, rhs

    def squared_error(self, entries: Entries, row_factors: NDArray[np.float32], factors: NDArray[np.float32]) -> float:
        total = 0.0
        with tf.device(self.device):
            everyone = tf.constant(factors, tf.float64)
            for rows, padded in _batches(entries, factors.shape[1]):
                x = tf.constant(row_factors[rows], tf.float64)
                total += float(self._squared_error(everyone, *_tensors(padded, tf.float64), x).numpy())
        return total


def _tensors(padded: tuple[NDArray[Any], ...], dtype: Any) -> tuple[Any, Any, Any]:
    indices, weights, targets = padded
    return tf.constant(indices), tf.constant(weights, dtype), tf.constant(targets, dtype)


def _ridge_and_prior(systems: RowSystems, rows: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The diagonal ρ_r s (float64 ``[b, p]``) and what the anchors add to the right-hand side, ρ_r s a."""
    ridge = systems.ridge[rows, None] * systems.shape
    prior = np.zeros_like(ridge) if systems.anchors is None else ridge * systems.anchors[rows]
    return ridge, prior
