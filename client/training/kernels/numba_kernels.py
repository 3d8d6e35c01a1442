"""The CPU backend: compiled loops over rows, on all cores."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numba
import numpy as np

from client.training.kernels.numba_cg import cg_blocks, multiply_blocks, squared_error_blocks
from client.training.kernels.numba_exact import MAX_WIDTH, cholesky_blocks, statistics_blocks
from client.training.kernels.systems import gram, warn_of_failures, zero_unsound_rows
from common.errors import ConfigError
from common.linalg import packed_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.training.kernels.systems import Coordinates, Entries, Kernels, RowSystems

_LAUNCH = threading.Lock()
"""Numba's fallback threading layer crashes when two threads launch kernels; one kernel uses all cores anyway."""


def _equal_work_bounds(indptr: NDArray[np.int64], row_cost: int) -> NDArray[np.int64]:
    """Row bounds of blocks whose entries plus ``row_cost`` a row are about equal; several blocks for each thread."""
    n = len(indptr) - 1
    work = indptr + row_cost * np.arange(n + 1)
    blocks = max(1, min(n, 32 * numba.get_num_threads()))
    inner = np.searchsorted(work, np.linspace(0, work[-1], blocks + 1)[1:-1])
    return np.concatenate([[0], inner, [n]]).astype(np.int64)


def multiply_rows(rows: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """rows·matrix, each row by itself: a library's matrix product may round a row by how many there are."""
    out = np.empty((len(rows), matrix.shape[1]), dtype=np.float32)
    bounds = np.linspace(0, len(rows), 1 + min(len(rows), 8 * numba.get_num_threads())).astype(np.int64)
    with _LAUNCH:
        multiply_blocks(bounds, np.ascontiguousarray(rows, dtype=np.float32), np.ascontiguousarray(matrix), out)
    return out


def solve_carried(
    kernels: Kernels, systems: RowSystems, warm_start: NDArray[np.float32], steps: int, coordinates: Coordinates
) -> NDArray[np.float32]:
    """``solve_cg`` in ``coordinates``, by a backend that carries nothing itself: the CPU's cores carry rows there and back."""
    inside = replace(
        systems,
        factors=multiply_rows(systems.factors, coordinates.into),
        anchors=None if systems.anchors is None else multiply_rows(systems.anchors, coordinates.out_of),
    )
    solved = kernels.solve_cg(inside, multiply_rows(warm_start, coordinates.out_of), steps)
    return multiply_rows(solved, coordinates.into.T)


class NumbaKernels:
    """:class:`client.training.kernels.systems.Kernels` on the CPU's cores (``NUMBA_NUM_THREADS`` bounds how many)."""

    name = "numba"

    def gram(self, factors: NDArray[np.float32]) -> NDArray[np.float64]:
        return gram(factors)

    def solve_cholesky(self, systems: RowSystems) -> NDArray[np.float32]:
        entries, p = systems.entries, _checked_width(systems.factors)
        out = np.empty((entries.n_rows, p), dtype=np.float32)
        anchors = systems.anchors if systems.anchors is not None else np.empty((0, p), dtype=np.float32)
        with _LAUNCH:
            failures = cholesky_blocks(
                _equal_work_bounds(entries.indptr, 1 + p // 3),
                *_arrays(entries),
                np.ascontiguousarray(systems.factors),
                systems.base,
                systems.ridge,
                systems.shape,
                anchors,
                out,
            )
        warn_of_failures(int(failures), entries.n_rows)
        return out

    def solve_cg(
        self,
        systems: RowSystems,
        warm_start: NDArray[np.float32],
        steps: int,
        coordinates: Coordinates | None = None,
    ) -> NDArray[np.float32]:
        if coordinates is not None:
            return solve_carried(self, systems, warm_start, steps, coordinates)
        entries, p = systems.entries, systems.factors.shape[1]
        out = np.array(warm_start, dtype=np.float32, order="C")
        anchors = systems.anchors if systems.anchors is not None else np.empty((0, p), dtype=np.float32)
        with _LAUNCH, np.errstate(over="ignore"):
            base = systems.base.astype(np.float32)
            diagonal = base.diagonal().copy()
            cg_blocks(
                _equal_work_bounds(entries.indptr, p // 2),
                *_arrays(entries),
                np.ascontiguousarray(systems.factors),
                base if np.count_nonzero(base) > np.count_nonzero(diagonal) else base[:0],
                diagonal,
                systems.ridge.astype(np.float32),
                systems.shape.astype(np.float32),
                anchors,
                steps,
                out,
            )
        zero_unsound_rows(out)
        return out

    def statistics(
        self, entries: Entries, factors: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        p = _checked_width(factors)
        packed = np.empty((entries.n_rows, packed_size(p)), dtype=np.float32)
        rhs = np.empty((entries.n_rows, p), dtype=np.float32)
        with _LAUNCH:
            statistics_blocks(
                _equal_work_bounds(entries.indptr, 2), *_arrays(entries), np.ascontiguousarray(factors), packed, rhs
            )
        return packed, rhs

    def squared_error(self, entries: Entries, row_factors: NDArray[np.float32], factors: NDArray[np.float32]) -> float:
        with _LAUNCH:
            errors = squared_error_blocks(
                _equal_work_bounds(entries.indptr, 1),
                *_arrays(entries),
                np.ascontiguousarray(row_factors),
                np.ascontiguousarray(factors),
            )
        return float(errors.sum())


def _arrays(
    entries: Entries,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    return entries.indptr, entries.indices, entries.weights, entries.targets_or_ones()


def _checked_width(factors: NDArray[np.float32]) -> int:
    """p, unless the compiled loops' scratch memory is too short for it."""
    width = int(factors.shape[1])
    if width > MAX_WIDTH:
        raise ConfigError(f"model.dimension: factors of width {width} exceed {MAX_WIDTH}; lower it")
    return width
