"""Preconditioned conjugate gradients against the exact solver and against plain steps."""

from __future__ import annotations

import numpy as np
import pytest

from client.training.kernels.numba_kernels import NumbaKernels
from client.training.kernels.preconditioning import solve_preconditioned
from client.training.kernels.systems import Entries, RowSystems, gram

KERNELS = NumbaKernels()


def popular_systems(*, anchored: bool = False) -> RowSystems:
    """Rows of very different lengths whose factors have a few heavy directions, as popular items make them."""
    rng = np.random.default_rng(3)
    lengths = np.array([0, 1, 4, 20, 60, 3])
    factors = (rng.normal(size=(80, 9)) * np.geomspace(30, 0.3, 9)).astype(np.float32)
    count = int(lengths.sum())
    entries = Entries(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        rng.integers(0, 80, count).astype(np.int32),
        rng.uniform(0.5, 2.0, count).astype(np.float32),
        None,
    )
    shape = rng.uniform(0.5, 5.0, 9) if anchored else np.ones(9)
    anchors = rng.normal(size=(6, 9)).astype(np.float32) if anchored else None
    return RowSystems(entries, factors, 0.3 * gram(factors), rng.uniform(1.0, 4.0, 6), shape, anchors)


def distance(solved: np.ndarray, systems: RowSystems) -> float:
    """Mean over rows of the error's size in the row's own matrix, which conjugate gradients make small."""
    exact, total = KERNELS.solve_cholesky(systems).astype(float), 0.0
    for row in range(systems.entries.n_rows):
        inside = slice(*systems.entries.indptr[row : row + 2])
        f = systems.factors[systems.entries.indices[inside]].astype(float)
        matrix = systems.base + np.diag(systems.ridge[row] * systems.shape)
        matrix = matrix + (f.T * systems.entries.weights[inside]) @ f
        error = solved[row] - exact[row]
        total += float(error @ matrix @ error)
    return total / systems.entries.n_rows


@pytest.mark.parametrize("anchored", [False, True])
def test_as_many_steps_as_dimensions_are_exact(anchored: bool) -> None:
    systems = popular_systems(anchored=anchored)
    start = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
    solved = solve_preconditioned(KERNELS, systems, start, 9, 2.0)
    np.testing.assert_allclose(solved, KERNELS.solve_cholesky(systems), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("anchored", [False, True])
def test_two_preconditioned_steps_come_nearer_than_four_plain(anchored: bool) -> None:
    systems = popular_systems(anchored=anchored)
    start = np.zeros((6, 9), dtype=np.float32)
    ours = distance(solve_preconditioned(KERNELS, systems, start, 2, 2.0), systems)
    assert ours < 0.5 * distance(KERNELS.solve_cg(systems, start, 4), systems)


def test_a_preconditioned_row_is_the_same_alone_to_the_bit() -> None:
    systems = popular_systems()
    start = np.random.default_rng(1).normal(size=(6, 9)).astype(np.float32)
    together = solve_preconditioned(KERNELS, systems, start, 2, 2.0)
    inside = slice(*systems.entries.indptr[4:6])
    entries = systems.entries
    alone = Entries(
        np.array([0, inside.stop - inside.start], np.int64), entries.indices[inside], entries.weights[inside], None
    )
    one = RowSystems(alone, systems.factors, systems.base, systems.ridge[4:5], systems.shape)
    assert solve_preconditioned(KERNELS, one, start[4:5], 2, 2.0).tobytes() == together[4:5].tobytes()
