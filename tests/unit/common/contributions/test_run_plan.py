"""A plan that no run could keep is refused wherever a plan is read, in the words of the key that is at fault."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from client.agent import _plan_in
from common.config.federation import FederationPlan
from common.config.loader import parse_model
from common.contributions.run_plan import RunPlan, read_plan
from common.deploy.provisioning import Invitation
from common.deploy.roles import AggregatorConfig, PlatformConfig
from common.errors import ConfigError, ContractError, PrivacyError
from common.wire.exchange import AgentRequest
from server.cli import plan_from
from simulations.scenarios.scenario import Scenario

NOBODY = {"platforms": 3, "privacy": {"colluders": 2, "dropouts": 1}}
WORDS = "privacy: 3 platforms with colluders = 2 and dropouts = 1 leave nobody whose noise protects the sum"
DATA = {"interactions": {"path": "views.csv"}}
FILES: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (AggregatorConfig, {"address": "localhost:1"}),
    (PlatformConfig, {"name": "a", "aggregator": "localhost:1", "data": DATA}),
    (Scenario, {"platforms": [{"name": "a", "data": DATA}]}),
]


@pytest.mark.parametrize(("model", "rest"), FILES)
def test_files_with_such_a_plan_are_refused(model: type[BaseModel], rest: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^here: plan: {WORDS}"):
        parse_model({"plan": NOBODY} | rest, model, "here")


def test_an_invitation_with_such_a_plan_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"here: plan: {WORDS}"):
        parse_model({"plan": NOBODY}, Invitation, "here")


def test_init_refuses_such_a_plan() -> None:
    with pytest.raises(ConfigError, match=f"^init: {WORDS}"):
        plan_from("f", 3, ["plan.privacy.colluders=2", "plan.privacy.dropouts=1"])


def test_an_agent_does_not_read_such_a_plan() -> None:
    with pytest.raises(ContractError, match="the aggregator's plan is none"):
        _plan_in(AgentRequest(kind="join", run_id="r", server_round=0, config={"plan": NOBODY}, arrays={}))


def test_a_plan_itself_is_data_and_its_run_is_refused() -> None:
    plan = FederationPlan.model_validate(NOBODY)
    with pytest.raises(PrivacyError, match=WORDS):
        RunPlan.of(plan).check()


def test_without_privacy_or_platforms_there_is_nothing_to_check() -> None:
    for content in ({"privacy": {"mode": "none", "colluders": 5}, "platforms": 3}, {"privacy": {"colluders": 5}}):
        RunPlan.of(read_plan(content)).check()
