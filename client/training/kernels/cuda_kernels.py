"""The CUDA backend: an NVIDIA GPU without TensorFlow, and the only GPU that users are solved on under privacy."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import cuda
from numba.core.errors import NumbaPerformanceWarning

from client.training.kernels.cuda_cg import THREADS, cg_kernel, multiply_rows, squared_error_rows
from client.training.kernels.cuda_compile import SHARED_BYTES
from client.training.kernels.cuda_exact import CHUNK, exact_kernels
from client.training.kernels.cuda_placing import PlacedEntries, RowBatch, Workspace
from client.training.kernels.systems import warn_of_failures
from common.errors import ConfigError
from common.linalg import packed_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.training.kernels.systems import Coordinates, Entries, RowSystems

_MOST_BLOCKS = 2**16
_SCRATCH_BYTES = 2**28
_CHUNK_BYTES = 2**30
"""Results of the sums, and sums of pieces, that lie on the device at a time."""
_KEPT_BYTES = 2**33
"""Entries that stay on the device between calls."""


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
        threads: of a block, a power of two; None takes as many as the width asks for.
        chunk: entries of a row that one block takes at most.

    Raises:
        ConfigError: there is no such GPU, or its driver or compiler cannot be used.
    """

    name = "cuda"

    def __init__(self, device: str = "auto", threads: int | None = None, chunk: int = CHUNK) -> None:
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
        self._chunk = chunk
        self._placed: weakref.WeakKeyDictionary[Entries, PlacedEntries] = weakref.WeakKeyDictionary()
        self._held: weakref.ref[NDArray[np.float32]] | None = None
        self._space = Workspace()
        self._one_at_a_time = threading.RLock()
        self.device = f"gpu:{number}"

    def gram(self, factors: NDArray[np.float32]) -> NDArray[np.float64]:
        """FᵀF, summed on the device in pieces and these in order; the factors stay there for the solver that follows."""
        n, p = factors.shape
        loops = exact_kernels(p, self._threads)
        _check_fits(loops.shared, p)
        starts = np.arange(0, n, self._chunk)
        with self._on_device() as space:
            on_device = space.holding("factors", factors)
            self._held = weakref.ref(factors)
            pieces = space.empty("gram", (len(starts), loops.sum_size), np.float64)
            if n:
                order, ones = space.each_once(n)
                self._launch(
                    loops.sum_pieces, min(len(starts), _MOST_BLOCKS), loops.threads, loops.shared,
                    space.holding("starts", starts), space.holding("stops", np.minimum(starts + self._chunk, n)),
                    order, ones, ones, on_device, pieces,
                )  # fmt: skip
            total = pieces.copy_to_host().sum(axis=0)
        upper = np.zeros((p, p + 1))
        upper[np.triu_indices(p, m=p + 1)] = total
        whole: NDArray[np.float64] = upper[:, :p] + np.triu(upper[:, :p], 1).T
        return whole

    def solve_cholesky(self, systems: RowSystems) -> NDArray[np.float32]:
        entries, p = systems.entries, systems.factors.shape[1]
        out = np.empty((entries.n_rows, p), dtype=np.float32)
        if not entries.n_rows:
            return out
        loops = exact_kernels(p, self._threads)
        _check_fits(loops.shared, p)
        with self._on_device() as space:
            placed = self._place(entries)
            factors = self._factors_on_device(systems.factors)
            given = [space.holding(name, getattr(systems, name)) for name in ("base", "ridge", "shape")]
            anchors, failed = space.holding("anchors", _anchors(systems)), space.zeros("failed", entries.n_rows)
            on_device = space.empty("out", out.shape, np.float32)
            for batch in placed.batches(_CHUNK_BYTES // (8 * loops.sum_size)):
                pieces = self._sum_pieces(placed, batch, factors)
                blocks = self._blocks(len(batch.rows), loops)
                self._launch(
                    loops.solve_rows, blocks, loops.threads, loops.shared, batch.rows, batch.of_pieces, pieces,
                    *placed.arrays, factors, *given, anchors, self._scratch(blocks, loops), on_device, failed,
                )  # fmt: skip
            on_device.copy_to_host(out)
            warn_of_failures(int(failed.copy_to_host().sum()), entries.n_rows)
        return out

    def solve_cg(
        self,
        systems: RowSystems,
        warm_start: NDArray[np.float32],
        steps: int,
        coordinates: Coordinates | None = None,
    ) -> NDArray[np.float32]:
        entries, p = systems.entries, systems.factors.shape[1]
        out = np.empty((entries.n_rows, p), dtype=np.float32)
        if not entries.n_rows:
            return out
        exact, loop = exact_kernels(p, self._threads), cg_kernel(p, self._threads)
        if loop is None:
            raise _too_wide(p)
        _check_fits(exact.shared, p)
        with self._on_device() as space:
            placed = self._place(entries)
            factors = self._factors_on_device(systems.factors)
            rows = space.holding("out", warm_start.astype(np.float32, copy=False))
            anchors, failed = space.holding("anchors", _anchors(systems)), space.zeros("failed", entries.n_rows)
            if coordinates is not None:
                factors = self._carried("factors there", factors, coordinates.into)
                rows = self._carried("rows there", rows, coordinates.out_of)
                anchors = self._carried("anchors there", anchors, coordinates.out_of)
            base = space.holding("base", systems.base)
            whole, own = self._bases(systems.base)
            ridge, shape = (
                space.holding(f"{name} 32", getattr(systems, name).astype(np.float32)) for name in ("ridge", "shape")
            )
            none = space.empty("no sides", (0, p), np.float32)
            for batch in placed.batches(_CHUNK_BYTES // (8 * exact.sum_size)):
                data = (whole, own, none)
                if batch.n_pieces:
                    pieces = self._sum_pieces(placed, batch, factors)
                    dense = space.empty("systems", (len(batch.rows), p, p), np.float32)
                    sides = space.empty("sides", (len(batch.rows), p), np.float32)
                    blocks = self._blocks(len(batch.rows), exact)
                    self._launch(exact.write_systems, blocks, THREADS, 0, batch.of_pieces, pieces, base, dense, sides)
                    data = (dense, own, sides)
                self._launch(
                    loop.solve_rows, min(len(batch.rows), _MOST_BLOCKS), loop.threads, loop.shared, batch.rows,
                    *placed.arrays, factors, *data, ridge, shape, anchors, steps, rows, failed,
                )  # fmt: skip
            if coordinates is not None:
                rows = self._carried("out", rows, coordinates.into.T)
            rows.copy_to_host(out)
            warn_of_failures(int(failed.copy_to_host().sum()), entries.n_rows)
        return out

    def statistics(
        self, entries: Entries, factors: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        p = factors.shape[1]
        packed = np.empty((entries.n_rows, packed_size(p)), dtype=np.float32)
        rhs = np.empty((entries.n_rows, p), dtype=np.float32)
        loops = exact_kernels(p, self._threads)
        _check_fits(loops.shared, p)
        rows = max(1, _CHUNK_BYTES // (4 * packed.shape[1]))
        with self._on_device() as space:
            placed = self._place(entries) if entries.n_rows else None
            of_factors = self._factors_on_device(factors)
            for start in range(0, entries.n_rows, rows):
                stop = min(start + rows, entries.n_rows)
                sums = space.empty("sums", (stop - start, packed.shape[1]), np.float32)
                sides = space.empty("sides", (stop - start, p), np.float32)
                assert placed is not None
                for batch in placed.batches(_CHUNK_BYTES // (8 * loops.sum_size), start, stop):
                    pieces = self._sum_pieces(placed, batch, of_factors)
                    blocks = self._blocks(len(batch.rows), loops)
                    self._launch(
                        loops.write_statistics, blocks, loops.threads, loops.shared, batch.rows, batch.of_pieces,
                        pieces, *placed.arrays, of_factors, start, self._scratch(blocks, loops), sums, sides,
                    )  # fmt: skip
                sums.copy_to_host(packed[start:stop])
                sides.copy_to_host(rhs[start:stop])
        return packed, rhs

    def squared_error(self, entries: Entries, row_factors: NDArray[np.float32], factors: NDArray[np.float32]) -> float:
        if not entries.n_rows:
            return 0.0
        threads = self._threads or THREADS
        with self._on_device() as space:
            errors = space.empty("errors", (entries.n_rows,), np.float64)
            self._launch(
                squared_error_rows,
                min(entries.n_rows, _MOST_BLOCKS),
                threads,
                8 * threads,
                *self._place(entries).arrays,
                space.holding("out", row_factors),
                self._factors_on_device(factors),
                errors,
            )
            return float(errors.copy_to_host().sum())

    def _launch(self, kernel: Any, blocks: int, threads: int, shared: int, *arguments: Any) -> None:
        """Start one kernel; all of them go through here."""
        kernel[blocks, threads, 0, shared](*arguments)

    def _sum_pieces(self, placed: PlacedEntries, batch: RowBatch, factors: Any) -> Any:
        """The sums of a batch's pieces on the device, float64 ``[pieces, sum]``."""
        loops = exact_kernels(factors.shape[1], self._threads)
        pieces = self._space.empty("pieces", (batch.n_pieces, loops.sum_size), np.float64)
        if batch.n_pieces:
            self._launch(
                loops.sum_pieces, min(batch.n_pieces, _MOST_BLOCKS), loops.threads, loops.shared,
                batch.starts, batch.stops, *placed.arrays[1:], factors, pieces,
            )  # fmt: skip
        return pieces

    def _place(self, entries: Entries) -> PlacedEntries:
        """The entries on the device, where they stay as long as ``entries`` does, up to a limit."""
        placed = self._placed.get(entries)
        if placed is None:
            placed = PlacedEntries(entries, self._chunk)
            if placed.n_bytes + sum(other.n_bytes for other in self._placed.values()) <= _KEPT_BYTES:
                self._placed[entries] = placed
        return placed

    def _factors_on_device(self, factors: NDArray[np.float32]) -> Any:
        """The factors there: those of the Gram matrix just before, once, since the caller may write to them later."""
        held, self._held = self._held, None
        if held is not None and held() is factors:
            return self._space.empty("factors", factors.shape, np.float32)
        return self._space.holding("factors", factors)

    def _bases(self, base: NDArray[np.float64]) -> tuple[Any, Any]:
        """B, float32 ``[1, p, p]``, beside zeros; or nothing, ``[1, 0, p]``, beside its diagonal, where that is all of it."""
        dense, diagonal = base.astype(np.float32)[None], base.diagonal().astype(np.float32)
        if np.count_nonzero(dense) > np.count_nonzero(diagonal):
            diagonal = np.zeros_like(diagonal)
        else:
            dense = dense[:, :0]
        return self._space.holding("base 32", dense), self._space.holding("diagonal", diagonal)

    def _carried(self, name: str, rows: Any, matrix: NDArray[np.float32]) -> Any:
        """rows·matrix on the device."""
        out = self._space.empty(name, rows.shape, np.float32)
        if len(rows):
            blocks = min(-(-rows.size // THREADS), _MOST_BLOCKS)
            threads = self._threads or THREADS
            self._launch(multiply_rows, blocks, threads, 0, rows, self._space.holding("coordinates", matrix), out)
        return out

    def _scratch(self, blocks: int, loops: Any) -> Any:
        return self._space.empty("scratch", (blocks if loops.scratch else 1, loops.sum_size), np.float64)

    def _blocks(self, rows: int, loops: Any) -> int:
        """Blocks of the grid: one a row, as many as their scratch memory allows."""
        most = _SCRATCH_BYTES // (8 * loops.sum_size) if loops.scratch else _MOST_BLOCKS
        return max(1, min(rows, most))

    @contextmanager
    def _on_device(self) -> Iterator[Workspace]:
        with self._one_at_a_time, cuda.gpus[self._number], warnings.catch_warnings():
            warnings.simplefilter("ignore", NumbaPerformanceWarning)
            warnings.filterwarnings("ignore", message=".*Grid size .* under-utilization")  # numba-cuda's own class
            yield self._space


def _check_fits(shared: int, p: int) -> None:
    if shared > SHARED_BYTES:
        raise _too_wide(p)


def _too_wide(p: int) -> ConfigError:
    return ConfigError(f"model.dimension: factors of width {p} do not fit a block of the GPU; lower it")


def _anchors(systems: RowSystems) -> NDArray[np.float32]:
    if systems.anchors is None:
        return np.empty((0, systems.factors.shape[1]), dtype=np.float32)
    return np.ascontiguousarray(systems.anchors, dtype=np.float32)
