"""Configures what a run promises about its users, and the parameters of the mechanism that keeps the promise."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

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
    round_growth: Positive
    """How much more of the budget (of μ²) each server round gets than the one before."""


class TunedSetting(FrozenModel):
    """One row of the ε-dependent defaults: the mechanism's parameters and the training settings found with them.

    Ridges are in units of the mean eigenvalue of the Gram matrix that they are added to: user factors are known up to
    their clipped scale, and item factors are brought to one (:func:`common.privacy.postprocess.normalised_factors`).
    """

    epsilon: Positive
    mechanism: MechanismParameters
    dimension: Annotated[int, Field(ge=1)]
    """d."""
    rounds: Annotated[int, Field(ge=1)]
    """T: server rounds; fixed in advance under privacy."""
    regularization: Positive
    """λ of users while training."""
    fold_in_regularization: Positive
    """λ of users when the finished factors are used."""
    item_regularization: Positive
    """λ of items."""
    unobserved_weight: Annotated[float, Field(ge=0)]
    """α₀."""
    feature_variance: Positive
    """ρ: how much of an item's taste its features may explain, relative to what is its own."""


_FEATURE_VARIANCE = 8.0
"""ρ at every ε. Likelihood alone would have less (.15 to .7, by expectation maximisation), which ranks worse."""


def _tuned(epsilon: float, mechanism: dict[str, float], **training: float) -> TunedSetting:
    # A clip norm far below any user's: each counts by the direction of its factor, and none is nearer to the noise.
    common = {"clip_norm": 0.1, "weight_total": 100.0}
    return TunedSetting.model_validate(
        {"epsilon": epsilon, "mechanism": common | mechanism, "feature_variance": _FEATURE_VARIANCE, **training}
    )


TUNED_SETTINGS: tuple[TunedSetting, ...] = (
    _tuned(
        0.5, dimension=14, rounds=2, regularization=0.24, fold_in_regularization=0.02,
        item_regularization=4.1, unobserved_weight=1.5,
        mechanism={
            "popularity_exponent": 0.41, "max_count_contribution": 34.0, "kept_items": 450,
            "counts_share": 0.12, "gram_share": 0.017, "round_growth": 1.8,
        },
    ),
    _tuned(
        1.0, dimension=21, rounds=2, regularization=0.09, fold_in_regularization=0.02,
        item_regularization=2.0, unobserved_weight=0.87,
        mechanism={
            "popularity_exponent": 0.36, "max_count_contribution": 23.0, "kept_items": 710,
            "counts_share": 0.063, "gram_share": 0.015, "round_growth": 2.3,
        },
    ),
    _tuned(
        3.0, dimension=28, rounds=2, regularization=0.03, fold_in_regularization=0.1,
        item_regularization=2.3, unobserved_weight=0.6,
        mechanism={
            "popularity_exponent": 0.37, "max_count_contribution": 50.0, "kept_items": 1000,
            "counts_share": 0.03, "gram_share": 0.015, "round_growth": 3.2,
        },
    ),
    _tuned(
        10.0, dimension=44, rounds=3, regularization=0.03, fold_in_regularization=0.2,
        item_regularization=2.0, unobserved_weight=0.8,
        mechanism={
            "popularity_exponent": 0.33, "max_count_contribution": 150.0, "kept_items": 1400,
            "counts_share": 0.015, "gram_share": 0.015, "round_growth": 2.5,
        },
    ),
)  # fmt: skip


class ExpectedFigures(FrozenModel):
    """Public figures of a federation as its operators declare them, rounded; never counted from anybody's data."""

    users: Annotated[int, Field(ge=1)]
    """Over all platforms."""
    items: Annotated[int, Field(ge=1)]
    """Over all catalogues, common ones once."""
    history: Positive
    """Items that a user has on average."""


# Made by ``simulations.bench.settings.table`` on public data sets cut to some sizes; its output is beside it, with all
# that was measured. The first row is of the data on which the defaults were found.
SETTINGS_TABLE: tuple[tuple[int, int, float, float, float, float, float], ...] = (
    (4832, 3706, 165.6, 3, 1, 1, 1),
    # ml100k
    (279, 1564, 104.6, 1, 0.25, 1, 1),
    (279, 1564, 104.6, 3, 0.1, 1, 1),
    (279, 1564, 104.6, 10, 0.25, 0.5, 1),
    # ml100k
    (659, 1682, 106.7, 1, 0.5, 1, 1),
    (659, 1682, 106.7, 3, 0.1, 1, 1),
    (659, 1682, 106.7, 10, 0.25, 1, 1),
    # movietweetings
    (699, 2108, 23.2, 1, 0.5, 1, 1),
    (699, 2108, 23.2, 3, 1, 1, 1),
    (699, 2108, 23.2, 10, 2, 1, 1),
    # movietweetings
    (1602, 2146, 23.2, 1, 0.1, 2, 1),
    (1602, 2146, 23.2, 3, 1, 1, 1),
    (1602, 2146, 23.2, 10, 2, 1, 1),
    # courses
    (1049, 237, 8.5, 1, 0.5, 0.5, 1),
    (1049, 237, 8.5, 3, 0.1, 0.5, 1),
    (1049, 237, 8.5, 10, 0.1, 1, 1),
    # courses
    (4199, 238, 8.4, 1, 0.1, 1, 1),
    (4199, 238, 8.4, 3, 0.25, 1, 1),
    (4199, 238, 8.4, 10, 1, 1, 1),
    # records
    (1049, 4000, 86.9, 1, 0.1, 1, 1),
    (1049, 4000, 86.9, 3, 0.1, 1, 0.3),
    (1049, 4000, 86.9, 10, 0.25, 1, 1),
    # records
    (3496, 4000, 88.6, 1, 0.25, 1, 1),
    (3496, 4000, 88.6, 3, 0.25, 1, 1),
    (3496, 4000, 88.6, 10, 1, 1, 1),
    # books
    (1048, 4000, 58.5, 1, 0.5, 1, 1),
    (1048, 4000, 58.5, 3, 0.1, 1, 1),
    (1048, 4000, 58.5, 10, 0.25, 1, 1),
    # books
    (3497, 4000, 60.9, 1, 0.5, 1, 1),
    (3497, 4000, 60.9, 3, 0.5, 1, 1),
    (3497, 4000, 60.9, 10, 2, 1, 1),
)  # fmt: skip
"""Users, items and items a user; ε; and what serves there: the defaults of how many times that ε, with how many times their
kept items and their bound on a user's counts. A platform of few users needs the settings of a smaller ε: noise hides more."""


def tuned_setting(epsilon: float, expect: ExpectedFigures | None = None) -> TunedSetting:
    """The defaults for ``epsilon``, and for a federation of the expected size where it is known.

    Args:
        epsilon: of the run.
        expect: chooses the nearest row of :data:`SETTINGS_TABLE`; None: the row of :data:`TUNED_SETTINGS` whose ε is nearest.
    """
    if expect is None:
        return min(TUNED_SETTINGS, key=lambda row: abs(math.log(row.epsilon / epsilon)))

    def distance(row: tuple[float, ...]) -> tuple[float, float]:
        users, items, history, of_epsilon = (abs(math.log(number)) for number in _ratios(row, expect, epsilon))
        # Sizes first, then ε among the rows of one size; how many items there are matters least.
        return users + history + 0.5 * items, of_epsilon

    *_, reach, kept_items, bound = min(SETTINGS_TABLE, key=distance)
    found = reaching(reach * epsilon)
    update = {
        "kept_items": max(1, round(found.mechanism.kept_items * kept_items)),
        "max_count_contribution": found.mechanism.max_count_contribution * bound,
    }
    return found.model_copy(update={"epsilon": epsilon, "mechanism": found.mechanism.model_copy(update=update)})


def _ratios(row: tuple[float, ...], expect: ExpectedFigures, epsilon: float) -> tuple[float, float, float, float]:
    return row[0] / expect.users, row[1] / expect.items, row[2] / expect.history, row[3] / epsilon


def reaching(epsilon: float) -> TunedSetting:
    """The defaults between those of the ε beside ``epsilon``, in logarithms; beyond the ends those of the end."""
    rows = TUNED_SETTINGS
    at = min(max(epsilon, rows[0].epsilon), rows[-1].epsilon)
    above = next(k for k in range(1, len(rows)) if at <= rows[k].epsilon)
    low, high = rows[above - 1], rows[above]
    share = math.log(at / low.epsilon) / math.log(high.epsilon / low.epsilon)
    return TunedSetting.model_validate(_between(low.model_dump(), high.model_dump(), share))


def _between(low: dict[str, Any], high: dict[str, Any], share: float) -> dict[str, Any]:
    if share in (0, 1):
        return high if share else low
    found: dict[str, Any] = {}
    for name, start in low.items():
        end = high[name]
        if isinstance(start, dict):
            found[name] = _between(start, end, share)
        else:
            value = math.exp((1 - share) * math.log(start) + share * math.log(end))
            found[name] = round(value) if isinstance(start, int) else value
    return found


class PrivacyConfig(FrozenModel):
    """User-level differential privacy: the unit is one user's whole history on one platform, added or removed."""

    mode: Literal["none", "user"] = "user"
    """none: contributions leave exact. Nothing is promised, and the data counts as spent without bound."""
    epsilon: Positive = 3.0
    """Target ε of one run: counts, statistics and Gram matrices of all rounds together."""
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """δ of the run; 1/(10·user_bound) unless given, refused above 1/user_bound."""
    budget: Positive | None = None
    """The platform's own lifetime limit in ε, across all runs of one state folder; the run's ε unless given, which pays for one
    run. Runs of the factorisation add up their μ², so that 10 of ε = 3 need 11.32, not 30."""
    budget_delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """δ of the lifetime budget, 1/user_bound at most; the run's δ unless given. Runs of a deep model add up their δ: without
    more than the run's, one of them is all that fits."""
    noise: Literal["secure_sum", "per_platform"] = "secure_sum"
    """secure_sum: the sum over platforms carries one noise, each adds a share. per_platform: each adds all of it."""
    colluders: Annotated[int, Field(ge=0)] = 1
    """c: platforms that may tell the aggregator their share of the noise. Each knows its own, so at least 1."""
    dropouts: Annotated[int, Field(ge=0)] = 0
    """r: platforms that may be lost after masking without a round being lost."""
    user_bound: Annotated[int, Field(ge=2)] = 100_000
    """Public upper bound on the users of any one platform."""
    minimum_users: Annotated[int, Field(ge=1)] = 50
    """A platform that declares fewer users (``declared_users``) contributes nothing: its noise would drown its users' say."""
    release: Literal["shared_gram", "item_gram"] = "shared_gram"
    """item_gram: also release each item's own Gram matrix A_i; pays from about 100,000 users on."""
    item_features: bool = True
    """Whether platforms send keyed digests of their shared items' genres and years (``common.privacy.attributes``), by which
    the aggregator denoises. It learns which pseudonymous items have one in common; nothing of users."""
    tuned_training: bool = True
    """Take dimension, rounds, λ and α₀ from the defaults found for this ε; false: from the plan, as without privacy."""
    expect: ExpectedFigures | None = None
    """How large the federation is expected to be: with ε it chooses the row of the table of tuned settings; null: the row of
    ε alone, found on 6,040 users."""
    round_schedule: tuple[Positive, ...] | None = None
    """Relative budgets (of μ²) of the server rounds, one each; a geometric series by ``round_growth`` unless given."""
    clip_norm: Positive | None = None
    """Γ: largest L2 norm of a user factor in a released sum; null: tuned for ε, as all that follow."""
    weight_total: Positive | None = None
    """B: squared L2 norm of a user's item weights; the sensitivity of the item vectors is √B·Γ."""
    popularity_exponent: Annotated[float, Field(ge=0, le=2)] | None = None
    """q: an item's weight falls as its released count to the power −q."""
    max_count_contribution: Positive | None = None
    """K: a user with more than K items counts √(K/n) for each of n."""
    kept_items: Annotated[int, Field(ge=1)] | None = None
    """Only that many items, the first by released count, are trained."""
    counts_share: Share | None = None
    """Share of the budget (of μ²) that the counts take, once."""
    gram_share: Share | None = None
    """Share of the budget (of μ²) that the users' Gram matrices take, over all rounds."""
    round_growth: Positive | None = None
    """How much more of the budget (of μ²) each server round gets than the one before."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.noise == "secure_sum" and self.colluders < 1:
            raise ValueError("colluders: must be at least 1 under secure_sum, since every platform knows its own noise")
        if self.delta is not None and self.delta > 1 / self.user_bound:
            raise ValueError(f"delta: {self.delta:g} is above 1/user_bound = {1 / self.user_bound:g}; lower it")
        run_delta = 1 / (10 * self.user_bound) if self.delta is None else self.delta
        if self.budget_delta is not None and not run_delta <= self.budget_delta <= 1 / self.user_bound:
            raise ValueError(
                f"budget_delta: {self.budget_delta:g} must lie between the run's delta = {run_delta:g} and "
                f"1/user_bound = {1 / self.user_bound:g}"
            )
        if self.mode == "user" and self.budget is not None and self.budget < self.epsilon:
            raise ValueError(
                f"budget: {self.budget:g} pays for no run of epsilon {self.epsilon:g}; raise it, or lower epsilon"
            )
        if (self.counts_share or 0.0) + (self.gram_share or 0.0) >= 1:
            raise ValueError("counts_share + gram_share: must leave something below 1 for the item vectors")
        return self

    def resolved(self, epsilon: float | None = None) -> MechanismParameters:
        """The mechanism's parameters; those left unset are the tuned defaults for ``epsilon``, by default this ε."""
        tuned = tuned_setting(self.epsilon if epsilon is None else epsilon, self.expect).mechanism
        names = MechanismParameters.model_fields
        chosen = {name: value for name in names if (value := getattr(self, name)) is not None}
        return tuned.model_copy(update=chosen)
