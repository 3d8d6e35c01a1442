"""Item counts and the factorisation's statistics, as kinds of contributions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.contributions.kind import LARGEST_VALUE, ContributionKind, Owners
from common.contributions.run_plan import RunPlan
from common.errors import ContractError
from common.linalg import packed_size
from common.privacy.contribution import Release
from common.privacy.plan import GaussianNoise
from common.wire.contract import ArraySpec
from common.wire.exchange import AgentRequest, Arrays

if TYPE_CHECKING:
    from common.config.federation import FederationPlan

LARGEST_COUNT = 1e12
_LARGEST_PARAMETERS = 1e9
"""Bound on Σ‖v_i‖² in units of the users' λ under privacy: a user's system then has a condition number below about 1e12, at
which Cholesky factorisation in float64 cannot break down (Higham 2002, Theorem 10.7), whatever the user's history is."""
ITEM_COUNTS = ArraySpec("item_counts", "float64", ("vocabulary",), max_abs=LARGEST_COUNT)
"""Released counts, as the aggregator broadcasts them."""


PARAMETERS_WITHOUT = "item_parameters_without"
"""Of a platform's own shared items, in order of column: the parameters as the others' contributions alone make them."""


def parts_are_seen(plan: FederationPlan) -> bool:
    """Whether the aggregator sees each platform's contribution by itself, so that it can leave one out.

    Of a secure sum it sees no part, and no platform is told what could be told from its own.
    """
    return not plan.secure_sum and plan.model.feedback == "implicit"


def shared_parameters(plan: FederationPlan) -> tuple[ArraySpec, ...]:
    """The item parameters with their bounds of scale, and the released counts, as the aggregator broadcasts them."""
    return _parameters(plan, "item_parameters", "vocabulary"), ITEM_COUNTS


def _parameters(plan: FederationPlan, name: str, items: str, *, optional: bool = False) -> ArraySpec:
    ridge = min(plan.training.regularization, plan.serving.regularization)
    largest = math.sqrt(_LARGEST_PARAMETERS * ridge) if plan.private else None
    return ArraySpec(name, "float32", (items, "row"), max_abs=LARGEST_VALUE, max_norm=largest, optional=optional)


class CountsKind(ContributionKind):
    """How many users have each item, and how many users there are; once, before everything else."""

    name = "counts"
    title = "item counts"
    released = ("counts",)
    client_half = "client.contributions.factors:CountsContributor"
    server_half = "server.aggregation.factor_phases:CountsPhase"

    def rounds(self, plan: FederationPlan) -> range:
        return range(1)

    def exact(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec("item_counts", "float64", ("catalogue",)),
            ArraySpec("totals", "float64", (3,)),  # users, interactions, sum of the values
        )

    def noisy(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return (ArraySpec("counts", "int64", ("counts",)),)

    def noisy_releases(self, plan: FederationPlan, server_round: int) -> tuple[Release, ...]:
        return RunPlan.of(plan).release_plan().releases()[:1]

    def noises(self, plan: FederationPlan, server_round: int) -> tuple[GaussianNoise, ...]:
        return (RunPlan.of(plan).release_plan().counts,)

    def masked_length(self, plan: FederationPlan, n_items: int) -> int:
        return n_items + 1

    def split(self, plan: FederationPlan, total: NDArray[np.int64], n_items: int) -> Arrays:
        return {"counts": total}


class StatisticsKind(ContributionKind):
    """One server round's sums over users at the broadcast item parameters."""

    name = "statistics"
    title = "item vectors and Gram matrices"
    released = ("statistics", "item_vectors", "user_gram", "item_grams")
    client_half = "client.contributions.factors:StatisticsContributor"
    server_half = "server.aggregation.factor_phases:StatisticsPhase"

    def rounds(self, plan: FederationPlan) -> range:
        return range(1, plan.server_rounds + 1)

    def may_stop_early(self, plan: FederationPlan) -> bool:
        return plan.tolerance > 0 or plan.auto_model

    def request(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return shared_parameters(plan)

    def exact(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec("gram", "float32", ("catalogue", "packed")),
            ArraySpec("rhs", "float32", ("catalogue", "row")),
            ArraySpec("user_gram", "float64", ("row", "row")),
            ArraySpec("objective", "float64", (1,)),
            ArraySpec("evaluation", "float64", (2,)),  # sum of validation Recall@20 over users, and their number
        )

    def noisy(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        vectors = ArraySpec("item_vectors", "int64", ("catalogue", "row"))
        grams = ArraySpec("item_grams", "int64", ("catalogue", "packed"))
        return (vectors, *self.unmasked_specs(plan), *((grams,) if self._with_grams(plan) else ()))

    def unmasked_specs(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return (ArraySpec("user_gram", "int64", ("packed",)),)

    def final(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        if not parts_are_seen(plan):
            return shared_parameters(plan)
        return *shared_parameters(plan), _parameters(plan, PARAMETERS_WITHOUT, "catalogue", optional=True)

    def check_sums(
        self,
        plan: FederationPlan,
        arrays: Arrays,
        request: AgentRequest,
        owners: Owners,
        positions: NDArray[np.integer],
    ) -> None:
        check_sums_of_squares(arrays)

    def noisy_releases(self, plan: FederationPlan, server_round: int) -> tuple[Release, ...]:
        return RunPlan.of(plan).release_plan().rounds[server_round - 1].releases()

    def noises(self, plan: FederationPlan, server_round: int) -> tuple[GaussianNoise, ...]:
        noise = RunPlan.of(plan).release_plan().rounds[server_round - 1]
        return (noise.item_vectors,) if noise.item_grams is None else (noise.item_vectors, noise.item_grams)

    def label(self, plan: FederationPlan, server_round: int) -> str:
        return f"statistics {server_round}"

    def masked_length(self, plan: FederationPlan, n_items: int) -> int:
        return n_items * (plan.row + (packed_size(plan.row) if self._with_grams(plan) else 0))

    def split(self, plan: FederationPlan, total: NDArray[np.int64], n_items: int) -> Arrays:
        vectors = total[-n_items * plan.row :].reshape(n_items, plan.row)
        grams = total[: -n_items * plan.row]
        if len(grams) == 0:
            return {"item_vectors": vectors}
        return {"item_vectors": vectors, "item_grams": grams.reshape(n_items, -1)}

    def unaudited(self, plan: FederationPlan) -> tuple[str, ...]:
        return ("the items' own Gram matrices",) if self._with_grams(plan) else ()

    @staticmethod
    def _with_grams(plan: FederationPlan) -> bool:
        return plan.privacy.release == "item_gram"


def check_sums_of_squares(arrays: Arrays) -> None:
    """Refuse exact statistics that no users can have.

    Raises:
        ContractError: the users' Gram matrix is not positive semidefinite, or an item's has a negative diagonal.
    """
    users = arrays["user_gram"]
    rows = np.arange(len(users))
    diagonal = rows * len(users) - rows * (rows - 1) // 2  # places of the diagonal in a packed upper triangle
    if np.linalg.eigvalsh(users).min(initial=0.0) < -1e-6 * max(float(np.trace(users)), 1.0):
        raise ContractError("user_gram is not positive semidefinite, so it is no sum over users")
    if arrays["gram"][:, diagonal].min(initial=0.0) < 0:
        raise ContractError("gram has a negative diagonal, so it is no sum over users")
