"""Defines the factorisation's hyperparameters, under their standard names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.config.base import FrozenModel

Positive = Annotated[float, Field(gt=0)]


class FactorizationConfig(FrozenModel):
    """Matrix factorisation by alternating least squares (mechanism in ``docs/mechanism.md``).

    Implicit feedback minimises Σ_u [Σ_{i∈Ω_u} w_ui (1 − uᵀv_i)² + α₀ Σ_{i∈C_p} (uᵀv_i)² + λ_u‖u‖²] + Σ_i λ_i‖v_i‖²
    (Rendle et al. 2021); explicit feedback Σ_ui (r_ui − μ − b_u − b_i − uᵀv_i)² + λ(‖u‖² + b_u² + ‖v_i‖² + b_i²).
    """

    feedback: Literal["implicit", "explicit"] = "implicit"
    """What values mean: implicit, weights of events; explicit, ratings. ``data.feedback`` of every platform says the same."""
    dimension: Annotated[int, Field(ge=1, le=1024)] = 32
    """d: length of a user or item factor."""
    regularization: Positive = 30.0
    """λ of users and items."""
    item_regularization: Positive | None = None
    """λ of items where it differs from that of users."""
    regularization_exponent: Annotated[float, Field(ge=0, le=2)] = 0.0
    """ν: scales λ_u by (|Ω_u| + α₀|C_p|)^ν and λ_i by (n_i + α₀ N_i)^ν; 0 leaves λ (Rendle et al. 2021, eq. 5)."""
    unobserved_weight: Annotated[float, Field(ge=0)] = 1.0
    """α₀: weight of a pair that was not observed."""
    recency_boost: Annotated[float, Field(ge=0)] = 0.0
    """β: a user's a-th last interaction weighs w_ui·(1 + β·exp(−a/τ)); 0 weighs all alike. Implicit feedback only."""
    recency_span: Positive = 10.0
    """τ: how many interactions the boost of recent ones reaches back."""
    iterations: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Sweeps of local or pooled training; the number of server rounds of a federation is set there."""
    solver: Literal["cholesky", "cg"] = "cholesky"
    """How a user's or an item's system is solved: cholesky, exactly; cg, by ``cg_steps`` steps of conjugate gradients."""
    cg_steps: Annotated[int, Field(ge=1, le=100)] = 4
    """Steps a solve. Those of implicit feedback are preconditioned: 2 come within 0.4 % of the exact solver's objective after
    each sweep, warm-started or, as in a federation, from zero (MovieLens-1M, d = 64). Explicit feedback asks for 4 or more."""
    init_scale: Positive = 0.1
    """Standard deviation of an initial item factor, times 1/√d."""
    backend: Literal["auto", "tensorflow", "numba", "cuda"] = "auto"
    """auto: TensorFlow where it finds a GPU, the numba kernel on a CPU; cuda: an NVIDIA GPU without TensorFlow. Same numbers to
    float error. Under privacy each user is solved alone: by cuda where there is a GPU that it works on, else by numba."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|gpu(:[0-9]+)?)$")] = "auto"
    """Where TensorFlow and cuda run: auto (a GPU where there is one), cpu, gpu or gpu:1."""


class AnchoredConfig(FactorizationConfig):
    """A local model that leans on the shared item factors: each item has d anchored dimensions and a few free ones.

    Replaces λ_i‖v_i‖² by λ_a‖v_i[:d] − v_shared,i‖² + λ_i‖v_i[d:]‖²; ``dimension`` is that of the shared factors.
    """

    anchor_regularization: Positive = 30.0
    """λ_a: how firmly an item is held to its shared factor; scaled by ν as λ_i is."""
    free_dimensions: Annotated[int, Field(ge=0, le=1024)] = 8
    """Dimensions that only this platform has."""
