"""Conjugate gradients in coordinates in which a row without entries needs one step (Hestenes & Stiefel 1952, on C⁻¹AC⁻ᵀ).

A row's matrix is B + ρ S + Σ w f fᵀ with a diagonal S, and B, the catalogue's, makes it ill-conditioned: directions of popular
items weigh hundreds of times as much as others. With S^-½ B S^-½ = Q Λ Qᵀ and C = S^½ Q (Λ + ρ₀)^½, where ρ₀ is the ridge of a
row without entries, two steps come nearer to the exact solution than four without. The kernels solve C⁻¹AC⁻ᵀ y = C⁻¹b, a system
of their own form with a diagonal base, and x = C⁻ᵀy.

Guarantees: C depends on the other side's factors and on no row, so a row's solution depends on itself alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from client.training.kernels.systems import Coordinates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.training.kernels.systems import Kernels, RowSystems


def solve_preconditioned(
    kernels: Kernels, systems: RowSystems, warm_start: NDArray[np.float32], steps: int, empty_ridge: float
) -> NDArray[np.float32]:
    """``steps`` preconditioned steps from ``warm_start``, float32 ``[n, p]``.

    Args:
        kernels: take the steps.
        systems: of implicit feedback; such as cannot be diagonalised are solved as they are.
        warm_start: float32 ``[n, p]``.
        steps: of conjugate gradients.
        empty_ridge: ρ₀.
    """
    if not (systems.base.any() and np.isfinite(systems.base).all() and (systems.shape > 0).all()):
        return kernels.solve_cg(systems, warm_start, steps)
    root = np.sqrt(systems.shape)
    values, vectors = np.linalg.eigh(systems.base / np.outer(root, root))
    values = values.clip(min=0.0)
    scale = np.sqrt(values + empty_ridge)
    into = (vectors / scale / root[:, None]).astype(np.float32)
    out_of = (vectors * scale * root[:, None]).astype(np.float32)
    inside = replace(systems, base=np.diag(values / scale**2), shape=1.0 / scale**2)
    return kernels.solve_cg(inside, warm_start, steps, Coordinates(into, out_of))
