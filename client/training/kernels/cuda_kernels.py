"""The CUDA backend: an NVIDIA GPU without TensorFlow, and the only GPU that users are solved on under privacy."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import cuda
from numba.core.errors import NumbaPerformanceWarning

from client.training.kernels.cuda_rows import (
    PANEL_ROWS,
    cg_rows,
    cholesky_rows,
    squared_error_rows,
    statistics_rows,
)
from client.training.kernels.systems import warn_of_failures, zero_unsound_rows
from common.errors import ConfigError
from common.linalg import packed_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.training.kernels.systems import Entries, RowSystems

_THREADS = 128
_SHARED_BYTES = 48 * 1024
"""What every device gives a block without being asked for more."""
_SCRATCH_BYTES = 2**28
_MAX_BLOCKS = 4096
_CHUNK_BYTES = 2**30
"""Results of the sums that lie on the device at a time."""


def cuda_usable() -> bool:
    """Whether an NVIDIA driver and the compiler's libraries are there; costs the driver's start where they are."""
    try:
        return bool(cuda.is_available())
    except Exception:  # drivers and libraries fail in ways of their own; the CPU can do all of it
        return False


class CudaKernels:
    """:class:`client.training.kernels.systems.Kernels` on one NVIDIA GPU.

    Guarantees: a row's result is the same to the bit whichever other rows there are.

    Args:
        device: as ``model.device``; ``auto`` and ``gpu`` take the first.
        threads: of a block; a power of two.

    Raises:
        ConfigError: there is no such GPU, or its driver or compiler cannot be used.
    """

    name = "cuda"

    def __init__(self, device: str = "auto", threads: int = _THREADS) -> None:
        if device == "cpu" or not cuda_usable():
            raise ConfigError(
                "model.backend is cuda, but there is no NVIDIA GPU that it can use; check the driver, install "
                "crossfed[cuda], or set backend to auto"
            )
        number = int(device.partition(":")[2] or 0)
        if number >= len(cuda.gpus):
            raise ConfigError(f"model.device is {device!r}, but there are {len(cuda.gpus)} GPU(s); set it to auto")
        self._number = number
        self._threads = threads
        self.device = f"gpu:{number}"

    def solve_cholesky(self, systems: RowSystems) -> NDArray[np.float32]:
        entries, p = systems.entries, systems.factors.shape[1]
        out = np.empty((entries.n_rows, p), dtype=np.float32)
        unsound = np.zeros(entries.n_rows, dtype=np.uint8)
        if not entries.n_rows:
            return out
        tiles, pitch, shared = _panel_layout(p)
        blocks = _blocks(entries.n_rows, 8 * pitch * pitch)
        with cuda.gpus[self._number], warnings.catch_warnings():
            warnings.simplefilter("ignore", NumbaPerformanceWarning)
            on_device, failed = cuda.device_array_like(out), cuda.to_device(unsound)
            cholesky_rows[blocks, self._threads, 0, shared](
                *_entries_on_device(entries),
                cuda.to_device(np.ascontiguousarray(systems.factors)),
                cuda.to_device(systems.base),
                cuda.to_device(systems.ridge),
                cuda.to_device(systems.shape),
                cuda.to_device(_anchors(systems)),
                cuda.to_device(tiles),
                cuda.device_array((blocks, pitch, pitch), np.float64),
                on_device,
                failed,
            )
            on_device.copy_to_host(out)
            failed.copy_to_host(unsound)
        warn_of_failures(int(unsound.sum()), entries.n_rows)
        return out

    def solve_cg(self, systems: RowSystems, warm_start: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
        entries, p = systems.entries, systems.factors.shape[1]
        out = np.array(warm_start, dtype=np.float32, order="C")
        if not entries.n_rows:
            return out
        shared = 4 * (5 * p + self._threads)
        if shared > _SHARED_BYTES:
            raise ConfigError(f"model.dimension: factors of width {p} do not fit a block of the GPU; lower it")
        with cuda.gpus[self._number], warnings.catch_warnings():
            warnings.simplefilter("ignore", NumbaPerformanceWarning)
            on_device = cuda.to_device(out)
            cg_rows[_blocks(entries.n_rows, 1), self._threads, 0, shared](
                *_entries_on_device(entries),
                cuda.to_device(np.ascontiguousarray(systems.factors)),
                cuda.to_device(systems.base.astype(np.float32)),
                cuda.to_device(systems.ridge.astype(np.float32)),
                cuda.to_device(systems.shape.astype(np.float32)),
                cuda.to_device(_anchors(systems)),
                steps,
                on_device,
            )
            on_device.copy_to_host(out)
        zero_unsound_rows(out)
        return out

    def statistics(
        self, entries: Entries, factors: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        p = factors.shape[1]
        packed = np.empty((entries.n_rows, packed_size(p)), dtype=np.float32)
        rhs = np.empty((entries.n_rows, p), dtype=np.float32)
        tiles, pitch, shared = _panel_layout(p)
        with cuda.gpus[self._number], warnings.catch_warnings():
            warnings.simplefilter("ignore", NumbaPerformanceWarning)
            if entries.n_rows:
                indptr, *values = _entries_on_device(entries)
                of_factors, of_tiles = cuda.to_device(np.ascontiguousarray(factors)), cuda.to_device(tiles)
            rows = max(1, _CHUNK_BYTES // (4 * packed.shape[1]))
            for start in range(0, entries.n_rows, rows):
                stop = min(start + rows, entries.n_rows)
                blocks = _blocks(stop - start, 8 * pitch * pitch)
                sums = cuda.device_array((stop - start, packed.shape[1]), np.float32)
                sides = cuda.device_array((stop - start, p), np.float32)
                statistics_rows[blocks, self._threads, 0, shared](
                    indptr[start : stop + 1],
                    *values,
                    of_factors,
                    of_tiles,
                    cuda.device_array((blocks, pitch, pitch), np.float64),
                    sums,
                    sides,
                )
                sums.copy_to_host(packed[start:stop])
                sides.copy_to_host(rhs[start:stop])
        return packed, rhs

    def squared_error(self, entries: Entries, row_factors: NDArray[np.float32], factors: NDArray[np.float32]) -> float:
        errors = np.zeros(entries.n_rows)
        if not entries.n_rows:
            return 0.0
        with cuda.gpus[self._number], warnings.catch_warnings():
            warnings.simplefilter("ignore", NumbaPerformanceWarning)
            on_device = cuda.to_device(errors)
            squared_error_rows[math.ceil(entries.n_rows / self._threads), self._threads](
                *_entries_on_device(entries),
                cuda.to_device(np.ascontiguousarray(row_factors)),
                cuda.to_device(np.ascontiguousarray(factors)),
                on_device,
            )
            on_device.copy_to_host(errors)
        return float(errors.sum())


def _panel_layout(p: int) -> tuple[NDArray[np.int32], int, int]:
    """The corners of the tiles on and above the diagonal, int32 ``[t, 2]``; the pitch; bytes of shared memory."""
    pitch = 4 * math.ceil(p / 4)
    rows, columns = np.triu_indices(pitch // 4)
    shared = 8 * (PANEL_ROWS * pitch + PANEL_ROWS + pitch)
    if shared > _SHARED_BYTES:
        raise ConfigError(f"model.dimension: factors of width {p} do not fit a block of the GPU; lower it")
    return 4 * np.column_stack([rows, columns]).astype(np.int32), pitch, shared


def _blocks(rows: int, scratch_bytes: int) -> int:
    """Blocks of the grid: one a row, as many as their scratch memory allows."""
    return max(1, min(rows, _MAX_BLOCKS, _SCRATCH_BYTES // scratch_bytes))


def _entries_on_device(entries: Entries) -> tuple[Any, Any, Any, Any]:
    indptr = cuda.to_device(np.ascontiguousarray(entries.indptr))
    indices = cuda.to_device(np.ascontiguousarray(entries.indices))
    weights = cuda.to_device(np.ascontiguousarray(entries.weights))
    return indptr, indices, weights, cuda.to_device(np.ascontiguousarray(entries.targets))


def _anchors(systems: RowSystems) -> NDArray[np.float32]:
    if systems.anchors is None:
        return np.empty((0, systems.factors.shape[1]), dtype=np.float32)
    return np.ascontiguousarray(systems.anchors, dtype=np.float32)
