"""Updates of the deep model's shared variables, as a kind of contribution: its rounds come after the factorisation's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.contributions.kind import LARGEST_VALUE, ContributionKind
from common.contributions.run_plan import RunPlan
from common.contributions.updates import UPDATE
from common.privacy.contribution import Release
from common.privacy.plan import GaussianNoise
from common.wire.contract import ArraySpec
from common.wire.exchange import Arrays

if TYPE_CHECKING:
    from common.config.federation import FederationPlan

EXAMPLES = "example_weight"
LOSS = "loss"
ROW_POSITIONS = "row_positions"
ROW_WEIGHTS = "row_weights"
_ROWS, _UPDATED = "rows", "updated"


class UpdateKind(ContributionKind):
    """Exact: one platform's trained variables. Under privacy: one noisy sum of users' clipped gradients."""

    name = UPDATE
    title = "deep model's updates"
    released = (UPDATE,)
    client_half = "client.contributions.towers:UpdateContributor"
    server_half = "server.aggregation.towers:UpdatePhase"
    own_sizes: ClassVar[Mapping[str, str]] = {ROW_POSITIONS: _ROWS, UPDATE: _UPDATED}
    card_key = "towers"

    def takes_part(self, plan: FederationPlan) -> bool:
        return plan.federated_towers is not None

    def rounds(self, plan: FederationPlan) -> range:
        first = plan.server_rounds + 1
        return range(first, first + (plan.federated_towers.training.rounds if plan.federated_towers else 0))

    def may_stop_early(self, plan: FederationPlan) -> bool:
        return plan.federated_towers is not None and plan.federated_towers.training.patience > 0

    def request(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return tuple(
            ArraySpec(
                variable.name,
                "float32",
                ("vocabulary", *variable.shape) if variable.rows else variable.shape,
                max_abs=LARGEST_VALUE,
            )
            for variable in RunPlan.of(plan).tower_variables
        )

    def exact(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        arrays = [ArraySpec(EXAMPLES, "float64", (1,)), ArraySpec(LOSS, "float64", (1,))]
        for variable in RunPlan.of(plan).tower_variables:
            if variable.rows:
                # Of item rows those that the platform trained, with the weight that each carries.
                arrays.append(ArraySpec(variable.name, "float32", (_ROWS, *variable.shape)))
                arrays.append(ArraySpec(ROW_POSITIONS, "int64", (_ROWS,)))
                arrays.append(ArraySpec(ROW_WEIGHTS, "float32", (_ROWS,)))
            else:
                arrays.append(ArraySpec(variable.name, "float32", variable.shape))
        return tuple(arrays)

    def noisy(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return (ArraySpec(UPDATE, "int64", (_UPDATED,)),)

    def final(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return self.request(plan)

    def noisy_releases(self, plan: FederationPlan, server_round: int) -> tuple[Release, ...]:
        return (RunPlan.of(plan).update_plan().release(),)

    def noises(self, plan: FederationPlan, server_round: int) -> tuple[GaussianNoise, ...]:
        return (RunPlan.of(plan).update_plan().noise,)

    def checked_noises(self, plan: FederationPlan) -> tuple[tuple[GaussianNoise, ...], ...]:
        # A plan may be read before `crossfed-simulate noise` has computed its noise multiplier.
        return ()

    def label(self, plan: FederationPlan, server_round: int) -> str:
        return f"update {server_round - plan.server_rounds}"

    def masked_length(self, plan: FederationPlan, n_items: int) -> int:
        return RunPlan.of(plan).update_layout(n_items).size

    def split(self, plan: FederationPlan, total: NDArray[np.int64], n_items: int) -> Arrays:
        return {UPDATE: total}

    def facts(self, plan: FederationPlan) -> dict[str, Any]:
        updates = RunPlan.of(plan).update_plan()
        return {
            "epsilon": updates.epsilon,
            "delta": updates.delta,
            "rounds": updates.rounds,
            "sampling_rate": updates.sampling_rate,
            "noise_multiplier": updates.noise.noise_multiplier,
            "clip_norm": updates.noise.sensitivity,
        }

    def paragraph(self, facts: Mapping[str, Any]) -> str:
        return (
            f"- *Deep model*: {facts['rounds']} rounds; in each, every user takes part with probability "
            f"{facts['sampling_rate']:g} and a gradient clipped to norm {facts['clip_norm']:g}, noise multiplier "
            f"{facts['noise_multiplier']:.4g}. Opacus' PRV accountant: ε = {facts['epsilon']:.4g} at δ = "
            f"{facts['delta']:.3g}, which is part of the ε and δ above (basic composition with the factorisation).\n"
        )
