from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
import yaml

from common.config.federation import FederationPlan
from common.errors import ConfigError, ContractError, PrivacyError
from simulations.cli import main as cli
from simulations.engine.datasets import SimulatedPlatform, make_platforms
from simulations.scenarios.scenario import Scenario, SearchParameter
from simulations.studies import tune
from simulations.studies.tune import Tried, Tuning, as_overrides, best_of, cost_of, search_space, validation_metric
from tests.private_support import private_plan
from tests.support.scenarios import scenario_of

pytestmark = pytest.mark.usefixtures("one_thread")

SEARCH = {
    "plan.model.dimension": {"choices": [2, 4]},
    "plan.model.regularization": {"low": 0.5, "high": 50.0, "log": True},
}


def parabola(scenario: Scenario, platforms: Any) -> dict[str, float]:
    """Stands for a federation: best at λ = 5 and d = 4."""
    model = scenario.plan.model
    return {"a": 1.0 - abs(model.regularization - 5.0) / 100.0, "b": 0.5 if model.dimension == 4 else 0.1}


def names_of(folder: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads((folder / "tried.json").read_text()))


def search(folder: Path, trials: int, scenario: Scenario, **more: Any) -> Tuning:
    return tune.tune(scenario, trials=trials, folder=folder, **({"measure": parabola} | more))


def test_no_trial_looks_at_test_interactions_or_hidden_items(tmp_path: Path) -> None:
    """Whoever reads test or hidden interactions meets None."""
    scenario = scenario_of(tmp_path, search=SEARCH)

    def blind(scenario: Scenario) -> list[SimulatedPlatform]:
        return [replace(one, test=cast("Any", None), hidden=None) for one in make_platforms(scenario)]

    seen = search(tmp_path / "seeing", 2, scenario, measure=validation_metric)
    unseen = search(tmp_path / "blind", 2, scenario, measure=validation_metric, cut=blind)
    assert seen.best is not None
    assert unseen.best is not None
    assert (seen.best.value, seen.best.settings) == (unseen.best.value, unseen.best.settings)


def test_the_metric_is_that_of_validation_users(tmp_path: Path) -> None:
    scenario = scenario_of(tmp_path)
    platforms = make_platforms(scenario)
    found = validation_metric(scenario, platforms)
    # With the truth of validation swapped for items that the model cannot know of, nothing is found any more.
    spoilt = [
        replace(
            one,
            training=replace(
                one.training,
                validation=replace(
                    one.training.validation,
                    truth=one.training.validation.truth.select_entries(one.training.validation.truth.indices == 0),
                ),
            ),
        )
        for one in platforms
    ]
    assert set(found) == {"big", "small"}
    assert all(0 < value <= 1 for value in found.values())
    assert validation_metric(scenario, spoilt) != found


def test_a_search_that_was_killed_ends_like_one_that_was_not(tmp_path: Path) -> None:
    scenario = scenario_of(tmp_path, search=SEARCH)
    whole = search(tmp_path / "whole", 14, scenario)

    calls = []

    def dies(scenario: Scenario, platforms: Any) -> dict[str, float]:
        calls.append(scenario)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return parabola(scenario, platforms)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "killed", 14, scenario, measure=dies)
    told: list[Tried] = []
    resumed = search(tmp_path / "killed", 14, scenario, on_trial=told.append)
    assert [one.number for one in told] == [-1, *range(4, 14)]
    study = optuna.load_study(study_name="crossfed", storage=f"sqlite:///{tmp_path / 'killed' / 'tune.db'}")
    assert [trial.state.name for trial in study.trials].count("FAIL") == 1
    assert [trial.state.name for trial in study.trials].count("RUNNING") == 0
    tried = [[one["settings"] for one in names_of(tmp_path / name)["tried"]] for name in ("whole", "killed")]
    assert tried[0] == tried[1]
    assert len({json.dumps(one) for one in tried[0]}) == 14
    assert whole.best is not None
    assert resumed.best is not None
    assert whole.best.settings == resumed.best.settings


def test_the_search_finds_the_better_half_and_says_how_to_set_it(tmp_path: Path) -> None:
    scenario = scenario_of(tmp_path, search=SEARCH)
    tuning = search(tmp_path / "out", 20, scenario)
    content = names_of(tmp_path / "out")
    assert tuning.best is not None
    assert tuning.best.settings["plan.model.dimension"] == 4
    assert content["best"]["value"] == max(one["value"] for one in content["tried"])
    assert content["best"]["overrides"] == as_overrides(tuning.best.settings)
    assert content["measured_on"] == "validation users"
    assert content["cost"] is None
    assert tuning.table.row_count == 21


def test_the_folder_of_another_search_is_refused(tmp_path: Path) -> None:
    search(tmp_path / "out", 1, scenario_of(tmp_path, search=SEARCH))
    for other in (
        scenario_of(tmp_path, search=SEARCH, seed=9),
        scenario_of(tmp_path, search={"plan.rounds": {"low": 1, "high": 3}}),
    ):
        with pytest.raises(ConfigError, match="give another --output"):
            search(tmp_path / "out", 2, other)


def test_an_untrainable_setting_counts_as_failed_and_search_goes_on(tmp_path: Path) -> None:
    def diverges(scenario: Scenario, platforms: Any) -> dict[str, float]:
        if scenario.plan.model.dimension == 2:
            raise ContractError("a score is NaN")
        return parabola(scenario, platforms)

    tuning = search(tmp_path / "out", 8, scenario_of(tmp_path, search=SEARCH), measure=diverges)
    tried = names_of(tmp_path / "out")["tried"]
    assert {one["error"] for one in tried if one["settings"]["plan.model.dimension"] == 2} == {"a score is NaN"}
    assert len(tried) == 8
    assert tuning.best is not None
    assert tuning.best.settings["plan.model.dimension"] == 4


def private(tmp_path: Path, **changes: Any) -> Scenario:
    plan: FederationPlan = private_plan()
    return scenario_of(tmp_path, plan=plan.model_dump(mode="json") | {"platforms": 2}, **changes)


def test_under_privacy_the_cost_is_stated_and_must_be_accepted(tmp_path: Path) -> None:
    scenario = private(tmp_path, search=SEARCH)
    with pytest.raises(PrivacyError, match=r"5 × 3 = 15 .*--accept-cost"):
        search(tmp_path / "out", 4, scenario)
    assert not (tmp_path / "out").exists()
    search(tmp_path / "out", 4, scenario, accept_cost=True)
    assert names_of(tmp_path / "out")["cost"] == cost_of(scenario, 4)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"plan.model.dimensions": {"choices": [2]}}, "plan.model.dimensions: unknown key; did you mean 'dimension'"),
        ({"plan.model.dimension": {"low": 0, "high": 4}}, "plan.model.dimension: .*greater than or equal to 1"),
        (
            {"plan.towers.dimension": {"low": 8, "high": 16}},
            "plan.towers.dimension: trials are judged by the shared factors",
        ),
        ({"plan.linear.regularization": {"choices": [3.0]}}, "plan.linear.regularization: trials are judged"),
        ({"plan.model.solver": {"choices": ["cg", "magic"]}}, "plan.model.solver: .*magic"),
    ],
)
def test_a_space_that_does_not_fit_the_plan_is_refused_at_once(
    tmp_path: Path, space: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        search(tmp_path / "out", 1, scenario_of(tmp_path, search=space))
    assert not (tmp_path / "out").exists()


def test_a_private_space_whose_settings_would_be_ignored_is_refused(tmp_path: Path) -> None:
    scenario = private(tmp_path, search=SEARCH)
    privacy = scenario.plan.privacy.model_copy(update={"tuned_training": True})
    scenario = scenario.model_copy(update={"plan": scenario.plan.model_copy(update={"privacy": privacy})})
    with pytest.raises(ConfigError, match="tuned_training"):
        search(tmp_path / "out", 1, scenario, accept_cost=True)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"plan.privacy.epsilon": {"low": 1.0, "high": 9.0}}, "decided, not searched"),
        ({"split.test_share": {"low": 0.1, "high": 0.2}}, "pattern"),
        ({"plan.rounds": {"low": 3}}, "give a range or choices"),
        ({"plan.rounds": {"low": 3, "high": 2}}, "above high"),
        ({"plan.rounds": {"low": 0, "high": 2, "log": True}}, "begins above 0"),
        ({"plan.rounds": {"choices": []}}, "at least one"),
    ],
)
def test_a_search_section_that_makes_no_sense_is_refused(tmp_path: Path, section: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenario_of(tmp_path, search=section)


def test_every_shipped_space_fits_its_kind_of_plan(tmp_path: Path) -> None:
    explicit = scenario_of(tmp_path).model_dump(mode="json", exclude_unset=True)
    explicit["plan"]["model"]["feedback"] = explicit["partition"]["data"]["feedback"] = "explicit"
    for scenario in (scenario_of(tmp_path), private(tmp_path), Scenario.model_validate(explicit)):
        space = search_space(scenario)
        assert space
        tune._check_space(scenario, space)
    assert "plan.model.unobserved_weight" not in search_space(Scenario.model_validate(explicit))
    assert search_space(scenario_of(tmp_path, search=SEARCH)).keys() == SEARCH.keys()


def test_whole_numbers_stay_whole_and_the_first_of_equals_is_best() -> None:
    assert SearchParameter(low=1, high=3).values() == (1, 3)
    ones = [Tried(number=n, settings={}, value=v, platforms={}, seconds=0) for n, v in ((0, None), (1, 0.5), (2, 0.5))]
    assert best_of(ones) is ones[1]
    assert best_of(ones[:1]) is None
    assert as_overrides({"a.b": False, "c": "cg", "d": 3}) == ["a.b=false", 'c="cg"', "d=3"]


def test_the_command_prints_what_was_tried_and_how_to_run_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    content = scenario_of(tmp_path, search=SEARCH).model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["tune", str(path), "--trials", "2", "--output", str(tmp_path / "out"), "--set", "plan.rounds=1"]
    monkeypatch.setattr(sys, "argv", ["crossfed-simulate", *arguments])
    with pytest.raises(SystemExit) as done:
        cli.main()
    output = capsys.readouterr().out
    assert not done.value.code
    best = names_of(tmp_path / "out")["best"]
    assert all(f"--set {override}" in output.replace("'", "") for override in best["overrides"])
    assert "as it stands" in output
    assert "trial 1" in output
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f"--set {override}" in page.replace("&#34;", '"') for override in best["overrides"])
    assert page.count("<tr>") == 4, "a head, the scenario as it stands, two trials"


def test_later_trials_are_better_than_those_drawn_at_random(tmp_path: Path) -> None:
    search(tmp_path / "out", 30, scenario_of(tmp_path, search=SEARCH))
    values = [one["value"] for one in names_of(tmp_path / "out")["tried"]]
    assert sum(values[10:]) / 20 > sum(values[:10]) / 10
