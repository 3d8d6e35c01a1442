"""The closing tables: what a person reads at the end of a run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from simulations.report.terminal import fold_table, result_tables
from simulations.run import SilentRunObserver, simulate
from simulations.scenarios.scenario import Scenario
from tests.support.scenarios import ratings_scenario, scenario_of

pytestmark = pytest.mark.usefixtures("one_thread")


class Stages(SilentRunObserver):
    def __init__(self) -> None:
        self.told: list[str] = []

    def on_stage(self, text: str) -> None:
        self.told.append(text)


def text_of(table: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_ratings_end_in_a_table_of_their_errors_with_intervals(tmp_path: Path) -> None:
    scenario = ratings_scenario(tmp_path)
    content = simulate(scenario, tmp_path / "out").content
    shown = text_of(result_tables(content))
    assert "Own items, test ratings: RMSE (MAE)" in shown
    for name, part in content["platforms"].items():
        for block in (part["own"]["local"], part["own"]["final"], part["own"]["shared"], content["pooled"][name]):
            lower, upper = block["ci95"]["rmse"]
            assert lower < block["rmse"] < upper
            assert block["mae"] <= block["rmse"]
            assert f"{block['rmse']:.3f} ({block['mae']:.3f})" in shown
        assert part["own"]["shared"]["rmse"] < 0.8, "the ratings themselves have a standard deviation of 0.96"
    folds = text_of(fold_table([content, content]))
    assert "RMSE" in folds
    assert f"{content['platforms']['big']['own']['final']['rmse']:.3f} ± 0.000" in folds


def test_events_end_in_no_table_of_ratings_and_sampling_is_named(tmp_path: Path) -> None:
    split = {"protocol": "leave-last-out"}
    quick = {"split": split, "cross": {"ceiling": False, "tune_beta": False}}
    observer = Stages()
    content = simulate(scenario_of(tmp_path, **quick), tmp_path / "out", observer=observer).content
    assert "own models and what ranks others' items: 2 of 2 platforms" in observer.told
    shown = text_of(result_tables(content))
    assert content["protocol"] == "full"
    assert "test interactions: Recall@20 " in shown
    assert "RMSE" not in shown
    assert "NOT PRIVATE" in shown
    assert "NOT PRIVATE" not in text_of(result_tables(content | {"privacy": {"mode": "user"}}))
    assert "among 99 sampled others" in text_of(result_tables(content | {"protocol": "sampled-99"}))


def test_what_was_chosen_is_read_whole_on_a_narrow_terminal(tmp_path: Path) -> None:
    content = simulate(scenario_of(tmp_path, cross={"ceiling": False, "tune_beta": False}), tmp_path / "out").content
    numbers = {"recall@20": 0.5, "users": 12345}
    chosen = {"name": "popularity", "interval": [-0.1, 0.1]}
    block = dict.fromkeys(("popularity", "shared", "final", "ceiling"), numbers)
    for part in content["platforms"].values():
        part["cross"] = {**block, "gap_closed": 1.22, "chosen": chosen}
    renamed = {f"languages-{name}": part for name, part in content["platforms"].items()}
    assert text_of(result_tables(content | {"platforms": renamed})).count(" popularity ") == 2


def test_a_platform_whose_users_have_nothing_to_test_ends_with_nulls(tmp_path: Path) -> None:
    scenario = scenario_of(tmp_path)
    single = tmp_path / "single.csv"
    single.write_text("user_id,item_id\n" + "".join(f"v{user},7\n" for user in range(9)))
    data = scenario.partition.data.model_dump(mode="json", exclude_unset=True) if scenario.partition else {}
    other = {**data, "interactions": {"path": str(single)}}
    content = scenario.model_dump(mode="json", exclude_unset=True)
    del content["partition"]
    content["platforms"] = [{"name": "big", "data": data}, {"name": "single", "data": other}]
    result = simulate(Scenario.model_validate(content), tmp_path / "out").content
    own = result["platforms"]["single"]["own"]
    assert own["final"]["users"] == 0
    assert own["final"]["recall@20"] is None
    assert set(own["final_minus_local"].values()) == {None}
    assert "single" in text_of(result_tables(result))
