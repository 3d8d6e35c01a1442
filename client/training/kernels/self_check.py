"""A backend on trial, before it touches data: systems of which the solutions are known from NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from client.training.kernels.preconditioning import solve_preconditioned
from client.training.kernels.systems import Entries, RowSystems
from common.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.training.kernels.systems import Kernels

_WIDTH = 6
_LENGTHS = (0, 1, 7, 40, 3000)
"""The last is long enough to be cut into pieces."""


def check_kernels(kernels: Kernels) -> None:
    """Compare a backend's solutions with NumPy's on a few rows, and a row's with the same row's alone, to the bit.

    Raises:
        ConfigError: they differ, or there are none, so the device or its compiler does something else than it should.
    """
    try:
        _check(kernels)
    except ConfigError:
        raise
    except Exception as error:  # drivers and compilers fail in ways of their own
        raise ConfigError(
            f"model.backend: {kernels.name} fails its trial on this device ({type(error).__name__}); set backend to numba "
            "and report it"
        ) from error


def _check(kernels: Kernels) -> None:
    """Exact solutions, and steps in coordinates as they are taken."""
    rng = np.random.default_rng(0)
    systems = _systems(rng, _LENGTHS)
    solved = kernels.solve_cholesky(systems)
    expected = np.stack([_solved_by_numpy(systems, row) for row in range(len(_LENGTHS))])
    if not np.allclose(solved, expected, rtol=1e-5, atol=1e-6):
        raise ConfigError(
            f"model.backend: {kernels.name} computes wrong numbers on this device; set backend to numba and report it"
        )
    start, one = rng.normal(size=solved.shape).astype(np.float32), _row_alone(systems, len(_LENGTHS) - 1)
    for _ in range(2):  # a backend may keep memory between calls
        by_steps = _by_steps(kernels, systems, start)
        if not np.allclose(by_steps, expected, rtol=1e-3, atol=1e-4):
            raise ConfigError(
                f"model.backend: {kernels.name} takes wrong steps on this device; set backend to numba and report it"
            )
        alone = kernels.solve_cholesky(one).tobytes(), _by_steps(kernels, one, start[-1:]).tobytes()
        if alone != (solved[-1:].tobytes(), by_steps[-1:].tobytes()):
            raise ConfigError(
                f"model.backend: with {kernels.name} a row's solution depends on other rows on this device; set backend to "
                "numba and report it"
            )


def _by_steps(kernels: Kernels, systems: RowSystems, start: NDArray[np.float32]) -> NDArray[np.float32]:
    """As many steps as there are dimensions, which lead to the solution, in coordinates as they are used."""
    return solve_preconditioned(kernels, systems, start, _WIDTH, 1.0)


def _systems(rng: np.random.Generator, lengths: tuple[int, ...]) -> RowSystems:
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    count, n = int(indptr[-1]), len(lengths)
    factors = rng.normal(size=(9, _WIDTH)).astype(np.float32)
    entries = Entries(
        indptr,
        rng.integers(0, len(factors), count).astype(np.int32),
        rng.uniform(0.5, 2.0, count).astype(np.float32),
        rng.normal(size=count).astype(np.float32),
    )
    gram = factors.T.astype(np.float64) @ factors
    return RowSystems(entries, factors, 0.3 * gram, rng.uniform(0.5, 2.0, n), np.ones(_WIDTH))


def _row_alone(systems: RowSystems, row: int) -> RowSystems:
    entries = systems.entries
    inside = slice(int(entries.indptr[row]), int(entries.indptr[row + 1]))
    indptr = np.array([0, inside.stop - inside.start], dtype=np.int64)
    alone = Entries(indptr, entries.indices[inside], entries.weights[inside], entries.targets_or_ones()[inside])
    return RowSystems(alone, systems.factors, systems.base, systems.ridge[row : row + 1], systems.shape)


def _solved_by_numpy(systems: RowSystems, row: int) -> NDArray[np.floating]:
    entries = systems.entries
    inside = slice(int(entries.indptr[row]), int(entries.indptr[row + 1]))
    f = systems.factors[entries.indices[inside]].astype(np.float64)
    weighted = f * entries.weights[inside, None]
    left = systems.base + np.diag(systems.ridge[row] * systems.shape) + weighted.T @ f
    return np.linalg.solve(left, weighted.T @ entries.targets_or_ones()[inside])
