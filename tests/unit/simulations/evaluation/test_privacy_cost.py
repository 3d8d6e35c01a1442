from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.config.privacy import tuned_setting
from common.contributions.run_plan import RunPlan, read_plan
from common.errors import PrivacyError
from common.privacy.lifetime import budget_policy
from simulations.audit.audited.platforms import without_noise
from simulations.engine.datasets import HiddenItems, SimulatedPlatform, make_platforms
from simulations.engine.federate import simulation_secret
from simulations.evaluation.measure import CrossPlatformTask, Evaluator, measure_cross, shared_model
from simulations.evaluation.other_catalogues import other_catalogues_of
from simulations.evaluation.pooled import PlatformMatrix, train_pooled, without_privacy
from simulations.evaluation.privacy_cost import cross_choice, measure_point, privacy_cost_at, private_plan, train_shared
from simulations.run import SilentRunObserver, simulate
from simulations.scenarios.scenario import Scenario, load_scenario, shipped_scenarios
from tests.private_support import private_plan as tiny_plan
from tests.private_support import private_scenario


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scenario, list[SimulatedPlatform]]:
    plan = tiny_plan().model_dump(mode="json")
    plan["privacy"] |= {"mode": "none"}
    scenario = private_scenario(tmp_path_factory.mktemp("price"), plan=plan)
    return scenario, make_platforms(scenario)


def test_the_private_plan_changes_mode_epsilon_and_budget_alone() -> None:
    plan = read_plan(
        {"privacy": {"mode": "none", "noise": "per_platform", "budget": 1.0, "clip_norm": 0.7}, "rounds": 4}
    )
    private = private_plan(plan, 10.0)
    assert plan.differences(private) == ["privacy.budget", "privacy.epsilon", "privacy.mode"]
    assert (private.privacy.epsilon, private.privacy.mode, private.privacy.budget) == (10.0, "user", None)
    tuned = tuned_setting(10.0).mechanism.model_copy(update={"clip_norm": 0.7})
    assert private.privacy.resolved() == tuned, "what is not set is the default tuned for this ε"


def test_a_lifetime_budget_below_an_epsilon_does_not_stop_its_pricing() -> None:
    plan = tiny_plan(mode="none", budget=1.0)
    private = private_plan(plan, 10.0)
    assert budget_policy(private).epsilon == 10.0


def test_a_deep_models_noise_is_that_of_the_epsilon_that_is_priced() -> None:
    deep = {"training": {"rounds": 2}, "privacy": {"noise_multiplier": 0.5}}
    plan = read_plan({"privacy": {"mode": "none"}, "platforms": 3, "towers": deep})
    multipliers = [
        RunPlan.of(private_plan(plan, epsilon)).update_plan().noise.noise_multiplier for epsilon in (1.0, 10.0)
    ]
    assert multipliers[0] > multipliers[1]
    assert 0.5 not in multipliers


def test_what_is_finished_is_on_disk_before_its_price(
    task: tuple[Scenario, list[SimulatedPlatform]], tmp_path: Path
) -> None:
    class EndsThere(SilentRunObserver):
        def on_stage(self, text: str) -> None:
            if text.startswith("privacy cost"):
                raise PrivacyError("no price")

    scenario = task[0].model_copy(update={"price_at": (3.0,)})
    with pytest.raises(PrivacyError, match="no price"):
        simulate(scenario, tmp_path, observer=EndsThere())
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["price"] == []
    assert set(content["platforms"]) == {platform.name for platform in task[1]}


def test_pricing_trains_the_whole_private_federation(task: tuple[Scenario, list[SimulatedPlatform]]) -> None:
    scenario, platforms = task
    state = train_shared(scenario.model_copy(update={"plan": private_plan(scenario.plan, 3.0)}), platforms)
    assert (state.server_round, state.user_counts.keys()) == (2, {"all platforms"})
    point = privacy_cost_at(scenario, platforms, simulation_secret(scenario.seed), 3.0)
    assert point.epsilon == 3.0
    assert set(point.own) == {platform.name for platform in platforms} == set(point.cross)
    assert all(set(blocks) == {"popularity", "shared", "final"} for blocks in point.cross.values())
    assert 0 <= point.own["platform-1"]["recall@20"] <= 1


def test_but_for_the_noise_a_price_repeats(task: tuple[Scenario, list[SimulatedPlatform]]) -> None:
    scenario, platforms = task
    secret = simulation_secret(scenario.seed)
    with without_noise():
        one, two = (privacy_cost_at(scenario, platforms, secret, 3.0).as_dict() for _ in range(2))
    assert one == two


def test_the_price_is_measured_as_the_run_is_measured(task: tuple[Scenario, list[SimulatedPlatform]]) -> None:
    scenario, platforms = task
    # Foreign items of which the truth is not known are not ranked.
    platforms = [replace(platform, hidden=half_of(platform.hidden)) for platform in platforms]
    secret, plan = simulation_secret(scenario.seed), without_privacy(scenario.plan)
    state = train_pooled({p.name: PlatformMatrix.of(p.training) for p in platforms}, plan, secret)
    point = measure_point(scenario, platforms, secret, state, plan)
    assert point.epsilon is None
    for platform in platforms:
        assert platform.hidden is not None
        ground_of = CrossPlatformTask.of(platform, platform.hidden, state, secret)
        evaluator = Evaluator(scenario)
        view = other_catalogues_of(platform, platforms, state, secret, plan=plan)
        model = shared_model(state, plan)
        blend = cross_choice(scenario, state, platform, view, model)
        final = ground_of.blended(model, blend, view.demand(platform.training))
        run = measure_cross(evaluator, ground_of, model, final, None, None)
        for name in ("popularity", "shared", "final"):
            measured = point.cross[platform.name][name]
            assert measured == {metric: run[name][metric] for metric in measured}


def half_of(hidden: HiddenItems | None) -> HiddenItems:
    assert hidden is not None
    half = np.arange(len(hidden.keys) // 2)
    return HiddenItems(tuple(hidden.keys[item] for item in half), hidden.interactions.select_items(half))


@pytest.mark.parametrize("beta", [0.0, 2.5])
def test_a_beta_that_is_set_is_used_even_if_it_is_zero(
    task: tuple[Scenario, list[SimulatedPlatform]], beta: float
) -> None:
    scenario, platforms = task
    personalization = scenario.personalization.model_copy(update={"beta": beta})
    scenario = scenario.model_copy(update={"personalization": personalization})
    plan, secret = without_privacy(scenario.plan), simulation_secret(scenario.seed)
    state = train_pooled({p.name: PlatformMatrix.of(p.training) for p in platforms}, plan, secret)
    model = shared_model(state, plan)
    for platform in platforms:
        view = other_catalogues_of(platform, platforms, state, secret, plan=plan)
        assert cross_choice(scenario, state, platform, view, model).beta == beta


def test_pricing_leaves_no_trace_on_disk(
    task: tuple[Scenario, list[SimulatedPlatform]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, platforms = task
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    train_shared(scenario.model_copy(update={"plan": private_plan(scenario.plan, 3.0)}), platforms)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", shipped_scenarios())
def test_every_shipped_scenario_can_be_trained_privately(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secure sum needs three platforms; with two each would learn the other's part."""
    from common.contributions.masked_rounds import secure_rounds
    from common.privacy.secure_sum import Roster

    monkeypatch.setenv("CROSSFED_DATA", "/nowhere")
    scenario = load_scenario(name)
    number = len(scenario.partition.sizes) if scenario.partition else len(scenario.platforms)
    scenario = scenario.with_platforms(number)
    for epsilon in scenario.price_at or (3.0,):
        plan = private_plan(scenario.plan, epsilon)
        RunPlan.of(plan).release_plan()
        if plan.privacy.noise == "secure_sum":
            Roster.agree(
                run_id="run",
                identities={str(index): bytes([index]) * 32 for index in range(number)},
                colluders=plan.privacy.colluders,
                dropouts=plan.privacy.dropouts,
                rounds=secure_rounds(plan, platforms=number, n_items=5000),
            )
