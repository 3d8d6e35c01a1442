"""What a run promises about its users, and the parameters of the mechanism that keeps the promise."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.config.base import FrozenModel

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


class MechanismParameters(FrozenModel):
    """Public parameters of the user-level mechanism (``docs/mechanism.md``); none depends on private data."""

    clip_norm: Positive
    """Γ: largest L2 norm of a user factor in a released sum."""
    weight_total: Positive
    """B = Σ_i w_ui²: squared L2 norm of a user's item weights; the sensitivity of the item vectors is √B·Γ."""
    popularity_exponent: Annotated[float, Field(ge=0, le=2)]
    """q: an item's weight falls as its released count to the power −q."""
    max_count_contribution: Positive
    """K: a user with more than K items counts √(K/n_u) for each."""
    kept_items: Annotated[int, Field(ge=1)]
    """m′: only that many items, the first by released count, are trained."""
    counts_share: Share
    """Share of the budget (of μ²) that the counts take, once."""
    gram_share: Share
    """Share of the budget that the users' Gram matrices take, over all rounds."""


class TunedSetting(FrozenModel):
    """One row of the ε-dependent defaults: the mechanism's parameters and the training settings found with them."""

    epsilon: Positive
    mechanism: MechanismParameters
    dimension: Annotated[int, Field(ge=1)]
    """d."""
    rounds: Annotated[int, Field(ge=1)]
    """T: server rounds; fixed in advance under privacy."""
    regularization: Positive
    """λ of users."""
    item_regularization: Positive
    """λ of items."""
    unobserved_weight: Annotated[float, Field(ge=0)]
    """α₀."""
    shrink_singular_values: bool
    """Whether the summed item vectors are denoised by singular-value shrinkage."""


def _tuned(
    epsilon: float, *, dimension: int, rounds: int, item_regularization: float, shrink: bool, **mechanism: float
) -> TunedSetting:
    return TunedSetting(
        epsilon=epsilon,
        mechanism=MechanismParameters.model_validate(mechanism),
        dimension=dimension,
        rounds=rounds,
        regularization=30.0,
        item_regularization=item_regularization,
        unobserved_weight=1.0,
        shrink_singular_values=shrink,
    )


TUNED_SETTINGS: tuple[TunedSetting, ...] = (
    _tuned(
        0.5, dimension=8, rounds=2, item_regularization=0.1, shrink=True, clip_norm=0.05, weight_total=50,
        popularity_exponent=0.0, max_count_contribution=50, kept_items=600, counts_share=0.1, gram_share=0.03,
    ),
    _tuned(
        1.0, dimension=8, rounds=2, item_regularization=0.1, shrink=True, clip_norm=0.05, weight_total=50,
        popularity_exponent=0.0, max_count_contribution=50, kept_items=800, counts_share=0.06, gram_share=0.03,
    ),
    _tuned(
        3.0, dimension=32, rounds=2, item_regularization=0.1, shrink=False, clip_norm=0.05, weight_total=50,
        popularity_exponent=0.1, max_count_contribution=50, kept_items=1500, counts_share=0.03, gram_share=0.03,
    ),
    _tuned(
        10.0, dimension=32, rounds=3, item_regularization=0.1, shrink=False, clip_norm=0.05, weight_total=50,
        popularity_exponent=0.2, max_count_contribution=50, kept_items=2500, counts_share=0.02, gram_share=0.03,
    ),
)  # fmt: skip


def tuned_setting(epsilon: float) -> TunedSetting:
    """The row of the defaults that is nearest to ``epsilon`` on a logarithmic scale."""
    return min(TUNED_SETTINGS, key=lambda row: abs(math.log(row.epsilon / epsilon)))


class PrivacyConfig(FrozenModel):
    """User-level differential privacy: the unit is one user's whole history on one platform, added or removed."""

    mode: Literal["none", "user"] = "user"
    """none: contributions leave exact. Nothing is promised, and the data counts as spent without bound."""
    epsilon: Positive = 3.0
    """Target ε of one run: counts, statistics and Gram matrices of all rounds together."""
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """δ of the run; 1/(10·user_bound) unless given, refused above 1/user_bound."""
    budget: Positive | None = None
    """The platform's own lifetime limit in ε at this δ, across runs and federations; the run's ε unless given."""
    noise: Literal["secure_sum", "per_platform"] = "secure_sum"
    """secure_sum: the sum over platforms carries one noise, each adds a share. per_platform: each adds all of it."""
    colluders: Annotated[int, Field(ge=0)] = 1
    """c: platforms that may tell the aggregator their share of the noise. Each knows its own, so at least 1."""
    dropouts: Annotated[int, Field(ge=0)] = 0
    """r: platforms that may be lost after masking without a round being lost."""
    user_bound: Annotated[int, Field(ge=2)] = 100_000
    """Public upper bound on the users of any one platform."""
    minimum_users: Annotated[int, Field(ge=1)] = 50
    """A platform with fewer users contributes nothing: its noise would drown its users' say."""
    release: Literal["shared_gram", "item_gram"] = "shared_gram"
    """item_gram: also release each item's own Gram matrix A_i; pays from about 100,000 users on."""
    tuned_training: bool = True
    """Take dimension, rounds, λ and α₀ from the defaults found for this ε; false: from the plan, as without privacy."""
    round_schedule: tuple[Positive, ...] | None = None
    """Relative budgets (of μ²) of the server rounds, one each; equal unless given."""
    clip_norm: Positive | None = None
    weight_total: Positive | None = None
    popularity_exponent: Annotated[float, Field(ge=0, le=2)] | None = None
    max_count_contribution: Positive | None = None
    kept_items: Annotated[int, Field(ge=1)] | None = None
    counts_share: Share | None = None
    gram_share: Share | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.noise == "secure_sum" and self.colluders < 1:
            raise ValueError("colluders: must be at least 1 under secure_sum, since every platform knows its own noise")
        if self.delta is not None and self.delta > 1 / self.user_bound:
            raise ValueError(f"delta: {self.delta:g} is above 1/user_bound = {1 / self.user_bound:g}; lower it")
        if (self.counts_share or 0.0) + (self.gram_share or 0.0) >= 1:
            raise ValueError("counts_share + gram_share: must leave something below 1 for the item vectors")
        return self

    def resolved(self, epsilon: float | None = None) -> MechanismParameters:
        """The mechanism's parameters; those left unset are the tuned defaults for ``epsilon``, by default this ε."""
        tuned = tuned_setting(self.epsilon if epsilon is None else epsilon).mechanism
        names = MechanismParameters.model_fields
        chosen = {name: value for name in names if (value := getattr(self, name)) is not None}
        return tuned.model_copy(update=chosen)
