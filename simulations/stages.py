"""Checks of a scenario's later stages before its first: what would end a run after hours ends it when it is read."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from client.contributions.factors import make_contributor
from client.privacy.declared_users import check_declared_users
from client.training.engine import LocalEngine
from common.config.federation import FederationPlan
from common.contributions.run_plan import RunPlan, read_plan
from common.errors import ConfigError, PrivacyError, SecureSumError
from common.privacy.secure_sum.roster import check_terms
from simulations.engine.datasets import SimulatedPlatform
from simulations.evaluation.privacy_cost import private_plan
from simulations.scenarios.scenario import Scenario


def check_stages(scenario: Scenario) -> None:
    """Refuse what could not be trained, before any data are read.

    Raises:
        ConfigError: names the scenario's key: the plan, or the ε of the price.
    """
    number = scenario.number_of_platforms
    plan = scenario.plan.model_copy(update={"platforms": number})
    _check_plan(plan, "plan")
    for epsilon in _epsilons(scenario):
        _check_plan(_plan_at(plan, epsilon), _key_of(epsilon))


def check_platforms(scenario: Scenario, platforms: Sequence[SimulatedPlatform]) -> None:
    """Refuse platforms that could not take part, in the federation or in the runs of its price.

    Args:
        scenario: with the number of its platforms.
        platforms: their data.

    Raises:
        ConfigError: names the stage and the platform.
    """
    stages = [(scenario.plan, "plan"), *((_plan_at(scenario.plan, e), _key_of(e)) for e in _epsilons(scenario))]
    for plan, at in stages:
        for platform in platforms if plan.private else ():
            try:
                if platform.training.shared.any():
                    check_declared_users(platform.training.train.n_users, plan)
                make_contributor(plan, LocalEngine(platform.training))
            except PrivacyError as error:
                raise ConfigError(f"{at}: platform {platform.name}: {_own_keys(error)}") from error


def _epsilons(scenario: Scenario) -> tuple[float, ...]:
    return () if scenario.plan.private else scenario.price_at


def _key_of(epsilon: float) -> str:
    return f"price_at: at ε = {epsilon:g}"


def _plan_at(plan: FederationPlan, epsilon: float) -> FederationPlan:
    try:
        return private_plan(plan, epsilon)
    except (PrivacyError, ValidationError) as error:
        raise ConfigError(f"{_key_of(epsilon)}: {_own_keys(error)}; leave price_at out, or mend it") from error


def _check_plan(plan: FederationPlan, at: str) -> None:
    """The rules of a plan once more, now that its number of platforms is known, and those that a run would meet later."""
    try:
        read_plan(plan.model_dump())
        if not plan.private:
            return
        RunPlan.of(plan).release_plan()
        if plan.secure_sum:
            check_terms(plan.platforms or 0, colluders=plan.privacy.colluders, dropouts=plan.privacy.dropouts)
    except (PrivacyError, SecureSumError, ValidationError) as error:
        mend = "" if at == "plan" else "; leave price_at out, or change the plan"
        raise ConfigError(f"{at}: {_own_keys(error)}{mend}") from error


def _own_keys(error: Exception) -> str:
    """The message with the keys as a scenario has them."""
    if isinstance(error, ValidationError):
        text = "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors(include_url=False))
    else:
        text = str(error)
    for key in ("privacy.", "privacy:"):
        text = text.replace(f"plan.{key}", key).replace(key, f"plan.{key}")
    return text
