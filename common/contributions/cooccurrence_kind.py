"""Item-item statistics as a kind of contribution: gathered once, after the counts, where the plan has an item-item model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from common.config.ease import EaseConfig
from common.contributions.cooccurrence import COOCCURRENCE, USERS, check_bits, masked_size
from common.contributions.factor_kinds import ITEM_COUNTS
from common.contributions.kind import LARGEST_VALUE, ContributionKind, Owners
from common.contributions.run_plan import RunPlan
from common.errors import ContractError
from common.linalg import packed_size, unpack_symmetric
from common.privacy.contribution import Release
from common.privacy.plan import GaussianNoise
from common.wire.contract import ArraySpec
from common.wire.exchange import AgentRequest, Arrays

if TYPE_CHECKING:
    from common.config.federation import FederationPlan

EASE_INPUTS, EASE_TARGETS, EASE_WEIGHTS = "linear_inputs", "linear_targets", "linear_weights"
_PAIRS = "pairs"


def ease_config(plan: FederationPlan) -> EaseConfig:
    """The plan's item-item model. Raises: ContractError where it has none."""
    if plan.linear is None:
        raise ContractError("this federation has no item-item model")
    return plan.linear


class CooccurrenceKind(ContributionKind):
    """Σ_u x_u x_uᵀ over the kept items, which the released counts choose."""

    name = COOCCURRENCE
    title = "item-item statistics"
    released = (COOCCURRENCE,)
    client_half = "client.contributions.cooccurrence:CooccurrenceContributor"
    server_half = "server.aggregation.cooccurrence:CooccurrencePhase"
    own_sizes: ClassVar[Mapping[str, str]] = {EASE_INPUTS: EASE_INPUTS, EASE_TARGETS: EASE_TARGETS}
    card_key = "linear"

    def takes_part(self, plan: FederationPlan) -> bool:
        return plan.linear is not None

    def rounds(self, plan: FederationPlan) -> range:
        return range(1)

    def request(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return (ITEM_COUNTS,)

    def exact(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return (ArraySpec(COOCCURRENCE, "float64", (_PAIRS,)),)

    def noisy(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return (ArraySpec(COOCCURRENCE, "int64", (_PAIRS,)),)

    def final(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec(EASE_INPUTS, "int64", (EASE_INPUTS,)),  # positions in the vocabulary, as the next
            ArraySpec(EASE_TARGETS, "int64", (EASE_TARGETS,)),
            ArraySpec(EASE_WEIGHTS, "float32", (EASE_INPUTS, EASE_TARGETS), max_abs=LARGEST_VALUE),
        )

    def sizes(
        self, plan: FederationPlan, request: AgentRequest, owners: Owners, positions: NDArray[np.integer]
    ) -> dict[str, int]:
        return {_PAIRS: packed_size(_own_items(plan, request, owners(), positions))}

    def check_sums(
        self,
        plan: FederationPlan,
        arrays: Arrays,
        request: AgentRequest,
        owners: Owners,
        positions: NDArray[np.integer],
    ) -> None:
        # Half of the regression's own ridge: sums of such statistics are then positive definite with it.
        ownership = owners()
        ridge = ease_config(plan).regularization / (2 * ownership.shape[1])
        check_sums_of_products(arrays[COOCCURRENCE], _own_items(plan, request, ownership, positions), ridge)

    def noisy_releases(self, plan: FederationPlan, server_round: int) -> tuple[Release, ...]:
        multiplier = RunPlan.of(plan).item_item_noise().noise_multiplier
        return (Release(kind=COOCCURRENCE, mechanism="gaussian", noise_multiplier=multiplier),)

    def share(self, plan: FederationPlan) -> float:
        return ease_config(plan).privacy.share

    def check_plan(self, plan: FederationPlan) -> None:
        check_bits(RunPlan.of(plan).item_item_noise(), plan.privacy.user_bound)

    def noises(self, plan: FederationPlan, server_round: int) -> tuple[GaussianNoise, ...]:
        return (RunPlan.of(plan).item_item_noise(),)

    def masked_length(self, plan: FederationPlan, n_items: int) -> int:
        return masked_size(ease_config(plan).private_items(n_items), plan.platforms or 0)

    def split(self, plan: FederationPlan, total: NDArray[np.int64], n_items: int) -> Arrays:
        pairs = len(total) - (plan.platforms or 0)
        return {COOCCURRENCE: total[:pairs], USERS: total[pairs:]}

    def facts(self, plan: FederationPlan) -> dict[str, Any]:
        noise, config = RunPlan.of(plan).item_item_noise(), ease_config(plan)
        return {
            "share": config.privacy.share,
            "kept_items": config.privacy.kept_items,
            "history_norm": config.privacy.history_norm,
            "noise_multiplier": noise.noise_multiplier,
            "mu": 1 / noise.noise_multiplier,
            "mu_left": RunPlan.of(plan).release_plan().mu,
            "masked": noise.masked,
        }

    def paragraph(self, facts: Mapping[str, Any]) -> str:
        users = " With it the aggregator learns how many users each platform has, noise on that too."
        return (
            f"- *Item-item statistics*: one release of which of at most {facts['kept_items']:,} items go together; a user's "
            f"weighted history has norm at most {facts['history_norm']:g}. Noise multiplier {facts['noise_multiplier']:.4g}, "
            f"which is {facts['share']:.0%} of the budget (of μ²): μ = {facts['mu']:.4f}. All other releases of the "
            f"factorisation are made with what that leaves, μ = {facts['mu_left']:.4f}.{users if facts['masked'] else ''}\n"
        )


def _own_items(
    plan: FederationPlan, request: AgentRequest, owners: NDArray[np.bool_], positions: NDArray[np.integer]
) -> int:
    """K: of how many items a platform was asked which go together."""
    kept = ease_config(plan).columns(request.arrays["item_counts"], owners, private=plan.private)
    return int(np.isin(kept, positions).sum())


def check_sums_of_products(packed: NDArray[np.float64], n_items: int, ridge: float) -> None:
    """Refuse exact statistics that no users can have.

    Args:
        packed: float64 ``[k(k + 1)/2]``.
        n_items: k.
        ridge: how far below zero the spectrum may reach; rounding is far less.

    Raises:
        ContractError: they are not positive semidefinite.
    """
    system = unpack_symmetric(packed, n_items)
    system[np.diag_indices(n_items)] += ridge
    try:
        scipy.linalg.cholesky(system, lower=True, overwrite_a=True, check_finite=False)
    except scipy.linalg.LinAlgError:
        raise ContractError("cooccurrence is not positive semidefinite, so it is no sum over users") from None
