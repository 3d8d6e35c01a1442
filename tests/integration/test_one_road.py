"""A simulation measures what a platform would serve: its choice of scorers is that of the platform's agent after a finish."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from common.config.privacy import PrivacyConfig
from simulations.engine.datasets import make_platforms
from simulations.engine.federate import make_agents, run_federation, simulation_secret
from simulations.evaluation.measure import shared_model
from simulations.evaluation.other_catalogues import other_catalogues_of
from simulations.evaluation.privacy_cost import cross_choice, held_model, private_plan
from simulations.scenarios.scenario import load_scenario

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("noise", [None, "per_platform", "secure_sum"])
def test_the_price_takes_the_road_of_the_agents_finish(
    tmp_path: Path, noise: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    overrides = ["plan.rounds=3", "personalization.tuning_candidates=1", "personalization.anchored=false"]
    scenario = load_scenario("commerce", overrides)
    platforms = make_platforms(scenario)
    scenario = scenario.with_platforms(len(platforms))
    if noise is not None:
        privacy = PrivacyConfig.model_validate(scenario.plan.privacy.model_dump() | {"noise": noise})
        plan = private_plan(scenario.plan.model_copy(update={"privacy": privacy}), 3.0)
        scenario = scenario.model_copy(update={"plan": plan})
    agents = make_agents(platforms, scenario, tmp_path / "platforms", {})
    outcome = run_federation(agents, scenario.plan, tmp_path / "aggregator")
    secret, chosen = simulation_secret(scenario.seed), []
    for platform, agent in zip(platforms, agents, strict=True):
        model = agent.store.load()
        view = other_catalogues_of(platform, platforms, outcome.state, secret, plan=scenario.plan)
        held = held_model(scenario, platform, view, shared_model(outcome.state, scenario.plan))
        blend = cross_choice(scenario, outcome.state, platform, view, held)
        assert dict(blend.weights) == pytest.approx(dict(model.cross.weights), rel=1e-3, abs=1e-4)
        assert model.cross.beta == blend.beta
        assert [part.name for part in blend.parts] == [part.name for part in model.cross.parts]
        for mine, theirs in zip(blend.parts, model.cross.parts, strict=True):
            for name, array in mine.arrays().items():
                np.testing.assert_allclose(array, theirs.arrays()[name], rtol=1e-5, atol=1e-7)
        told = agent.store.told(agent.store.versions()[-1])["cross"]
        assert told == (None if model.cross_verdict is None else json.loads(json.dumps(asdict(model.cross_verdict))))
        said = "configured weights" if told is None else f"ranked by {told['name']}: on own items"
        assert sum(said in line for line in caplog.messages) > 0
        chosen.append(model.cross_verdict is not None)
    assert any(chosen), "weights are learned in a deployment, too"
