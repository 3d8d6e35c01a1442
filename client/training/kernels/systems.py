"""The least-squares systems that every factorisation here comes down to, and what a backend must do with them.

Implicit users and items, explicit users and items with their biases, and anchored items are all rows of one form, so
each backend has one solver instead of five.
"""

from __future__ import annotations

from dataclasses import dataclass
from logging import getLogger
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Entries:
    """Weighted targets in compressed rows.

    Attributes:
        indptr: int64 ``[n + 1]``.
        indices: int32 ``[nnz]``; the row of ``factors`` that each entry meets.
        weights: float32 ``[nnz]``; w_e ≥ 0.
        targets: float32 ``[nnz]``; y_e. None: all are 1.

    Arrays are not written to once they are here: a backend may keep its own copy as long as the entries live.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    weights: NDArray[np.float32]
    targets: NDArray[np.float32] | None

    @property
    def n_rows(self) -> int:
        return len(self.indptr) - 1

    def targets_or_ones(self) -> NDArray[np.float32]:
        """float32 ``[nnz]``: the targets, made where they are 1."""
        return np.ones_like(self.weights) if self.targets is None else self.targets


@dataclass(frozen=True, eq=False)
class RowSystems:
    """n independent systems; row r minimises Σ_e w_e (y_e − xᵀf_e)² + xᵀBx + ρ_r Σ_k s_k (x_k − a_rk)².

    Attributes:
        entries: the data term, n rows.
        factors: float32 ``[m, p]``; f.
        base: float64 ``[p, p]``; B, the same for all rows (α₀ times a Gram matrix, or zero).
        ridge: float64 ``[n]``; ρ.
        shape: float64 ``[p]``; s, how the ridge is spread over the dimensions (ones unless anchored).
        anchors: float32 ``[n, p]`` or None; a, zero if None.
    """

    entries: Entries
    factors: NDArray[np.float32]
    base: NDArray[np.float64]
    ridge: NDArray[np.float64]
    shape: NDArray[np.float64]
    anchors: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Coordinates y = xᵀC in which a row's steps are taken; x = C⁻ᵀy is carried back.

    Attributes:
        into: float32 ``[p, p]``; C⁻ᵀ: a factor f is fᵀC⁻ᵀ there.
        out_of: float32 ``[p, p]``; C: a row x is xᵀC there.
    """

    into: NDArray[np.float32]
    out_of: NDArray[np.float32]


class Kernels(Protocol):
    """A backend: the inner loops, on one device. All backends agree to float32 rounding.

    A row that breaks down (not positive definite, not finite) is zero: whether one user's system does must show in no error,
    no other row and no number of rows.
    """

    name: str

    def gram(self, factors: NDArray[np.float32]) -> NDArray[np.float64]:
        """FᵀF of float32 ``[n, p]`` in float64 ``[p, p]``, for the systems that are solved next with these factors."""
        ...

    def solve_cholesky(self, systems: RowSystems) -> NDArray[np.float32]:
        """The exact minimisers, float32 ``[n, p]``, accumulated and factorised in float64."""
        ...

    def solve_cg(
        self,
        systems: RowSystems,
        warm_start: NDArray[np.float32],
        steps: int,
        coordinates: Coordinates | None = None,
    ) -> NDArray[np.float32]:
        """``steps`` conjugate gradient steps from ``warm_start`` (float32 ``[n, p]``), in float32.

        Rows without entries and without an anchor are zero, as their exact solution is.

        Args:
            systems: with ``coordinates`` its base and shape are those there; factors and anchors are as ever.
            warm_start: as ever.
            steps: how many.
            coordinates: in which steps are taken; each row is carried there and back by itself.
        """
        ...

    def statistics(
        self, entries: Entries, factors: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Per row the packed Σ w f fᵀ and Σ w y f: float32 ``[n, p(p+1)/2]`` and ``[n, p]``, summed in float64."""
        ...

    def squared_error(self, entries: Entries, row_factors: NDArray[np.float32], factors: NDArray[np.float32]) -> float:
        """Σ_e w_e (y_e − x_rᵀf_e)² over all rows, summed in float64."""
        ...


def gram(factors: NDArray[np.float32]) -> NDArray[np.float64]:
    """FᵀF of float32 ``[n, p]`` in float64 ``[p, p]``, a block of rows at a time."""
    total = np.zeros((factors.shape[1], factors.shape[1]))
    for start in range(0, len(factors), 65_536):
        block = factors[start : start + 65_536].astype(np.float64)
        total += block.T @ block
    return total


def zero_unsound_rows(solved: NDArray[np.float32]) -> None:
    """Set rows of ``solved`` (float32 ``[n, p]``) that are not finite to zero, in place."""
    unsound = ~np.isfinite(solved).all(axis=1)
    solved[unsound] = 0.0
    warn_of_failures(int(unsound.sum()), len(solved))


def warn_of_failures(failures: int, rows: int) -> None:
    """Tell the operator, and nobody else, that some of ``rows`` systems broke down."""
    if failures:
        _log.warning(
            "%d of %d systems are not positive definite or not finite and count as zero; raise model.regularization",
            failures,
            rows,
        )
