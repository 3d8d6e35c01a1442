"""The race between settings of the factorisation, as a kind of contribution, and the settings that a request states.

``model: auto`` without privacy: the aggregator trains a few settings side by side, each with sums like those of ordinary
rounds, and platforms say how well their validation users are served. Sums are exact here, so the race tells nothing that
``mode: none`` keeps. Under privacy there is no such kind: what a race would tell is a release like any other, and settings
come from a public table (:func:`common.config.privacy.tuned_setting`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.config.model import FactorizationConfig
from common.contributions.factor_kinds import check_sums_of_squares, shared_parameters
from common.contributions.kind import ContributionKind, Owners
from common.errors import ContractError
from common.privacy.contribution import Release
from common.privacy.plan import GaussianNoise
from common.wire.contract import ArraySpec
from common.wire.exchange import AgentRequest, Arrays, Json

if TYPE_CHECKING:
    from common.config.federation import FederationPlan

RACE = "race"
_SETTINGS = "model"
_LARGEST_DIMENSION = 256


class RaceKind(ContributionKind):
    """One setting's sums over users at its item parameters, and what these are worth on validation users.

    Round 0 is asked again and again, each time at other parameters.
    """

    name = RACE
    title = "sums of settings in a race"
    released = (RACE,)
    client_half = "client.contributions.race:RaceContributor"
    server_half = "server.aggregation.race:RacePhase"

    def takes_part(self, plan: FederationPlan) -> bool:
        return plan.auto_model and not plan.private

    def rounds(self, plan: FederationPlan) -> range:
        return range(1)

    def request(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return shared_parameters(plan)[:1]

    def exact(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec("gram", "float32", ("catalogue", "packed")),
            ArraySpec("rhs", "float32", ("catalogue", "row")),
            ArraySpec("user_gram", "float64", ("row", "row")),
            ArraySpec(
                "evaluation", "float64", (3,)
            ),  # sums of validation Recall@20 and NDCG@20, and the number of users
        )

    def noisy(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return ()

    def check_sums(
        self,
        plan: FederationPlan,
        arrays: Arrays,
        request: AgentRequest,
        owners: Owners,
        positions: NDArray[np.integer],
    ) -> None:
        check_sums_of_squares(arrays)
        *totals, users = arrays["evaluation"].tolist()
        if not all(0 <= total <= users for total in totals):
            raise ContractError("evaluation has no sums of Recall and NDCG over users")

    def noisy_releases(self, plan: FederationPlan, server_round: int) -> tuple[Release, ...]:
        return ()

    def noises(self, plan: FederationPlan, server_round: int) -> tuple[GaussianNoise, ...]:
        return ()

    def masked_length(self, plan: FederationPlan, n_items: int) -> int:
        return 0

    def split(self, plan: FederationPlan, total: NDArray[np.int64], n_items: int) -> Arrays:
        return {}


def stated(model: FactorizationConfig) -> dict[str, Json]:
    """The settings of ``model`` that ``model: auto`` leaves open, as requests state them."""
    return {
        _SETTINGS: {
            "dimension": model.dimension,
            "regularization": model.regularization,
            "regularization_exponent": model.regularization_exponent,
            "unobserved_weight": model.unobserved_weight,
        }
    }


def plan_asked(plan: FederationPlan, request: AgentRequest) -> FederationPlan:
    """``plan`` with the settings that ``request`` states, where the plan leaves them open; otherwise the plan itself.

    Raises:
        ContractError: what is stated are no settings, or the factors would be too long.
    """
    settings = request.config.get(_SETTINGS)
    if not plan.auto_model or plan.private or settings is None:
        return plan
    names = stated(plan.model)[_SETTINGS]
    assert isinstance(names, dict)
    if not isinstance(settings, dict) or settings.keys() != names.keys():
        raise ContractError(f"model must state {', '.join(names)}")
    numbers = {name: value for name, value in settings.items() if isinstance(value, int | float)}
    if len(numbers) < len(names) or not all(math.isfinite(value) and value <= 1e6 for value in numbers.values()):
        raise ContractError("model must state finite numbers of at most 1e6")
    try:
        model = FactorizationConfig.model_validate(plan.model.model_dump() | numbers)
    except ValueError:
        raise ContractError("model states settings that no factorisation has") from None
    if model.dimension > _LARGEST_DIMENSION:
        raise ContractError(f"model.dimension: above {_LARGEST_DIMENSION} in a plan that leaves it open")
    return plan.with_model(model)
