from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean

import pytest
from rich.console import Console

from simulations.evaluation.privacy_cost import PrivacyCost
from simulations.report.studies import write_sweep_report
from simulations.studies import sweep
from simulations.studies.sweep import run_sweep
from tests.private_support import private_plan, private_scenario

EPSILONS = (10.0, 1.0)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    folder = tmp_path_factory.mktemp("sweep")
    scenario = private_scenario(folder / "data")
    stages: list[str] = []
    table = run_sweep(scenario, EPSILONS, draws=2, folder=folder / "out", on_stage=stages.append)
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return folder / "out", stages, capture.get()


def test_every_epsilon_is_drawn_as_asked_and_no_noise_once(swept: tuple[Path, list[str], str]) -> None:
    folder, stages, _ = swept
    content = json.loads((folder / "sweep.json").read_text())
    assert [point["epsilon"] for point in content["points"]] == [1.0, 1.0, 10.0, 10.0]
    assert (content["scenario"], content["seed"], content["draws"], content["metric"]) == ("tiny", 3, 2, "recall@20")
    assert content["without_noise"]["epsilon"] is None
    assert stages == [
        "reading and splitting the data",
        "training without noise",
        *[f"ε = {epsilon}, noise draw {draw} of 2" for epsilon in (1, 10) for draw in (1, 2)],
    ]


def test_draws_differ_in_their_noise(swept: tuple[Path, list[str], str]) -> None:
    content = json.loads((swept[0] / "sweep.json").read_text())
    one, two = content["points"][:2]
    assert one["own"] != two["own"]


def test_the_picture_is_one(swept: tuple[Path, list[str], str]) -> None:
    assert (swept[0] / "sweep.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_the_table_shows_the_means_over_draws(swept: tuple[Path, list[str], str]) -> None:
    folder, _, table = swept
    content = json.loads((folder / "sweep.json").read_text())
    for name in ("platform-1", "platform-2", "platform-3"):
        (line,) = [line for line in table.splitlines() if name in line]
        for epsilon in (1.0, 10.0):
            points = [point for point in content["points"] if point["epsilon"] == epsilon]
            own = fmean(point["own"][name]["recall@20"] for point in points)
            cross = fmean(point["cross"][name]["final"]["recall@20"] for point in points)
            assert f"{own:.3f} | {cross:.3f}" in line
        assert f"{content['without_noise']['own'][name]['recall@20']:.3f}" in line


def test_no_user_is_named(swept: tuple[Path, list[str], str]) -> None:
    assert "visitor" not in (swept[0] / "sweep.json").read_text()


def test_a_platform_with_nothing_hidden_has_no_cross_figures() -> None:
    block = {"recall@20": 0.5}
    point = PrivacyCost(
        epsilon=1.0,
        noise="per_platform",
        own={"a": block, "b": block},
        cross={"a": {"final": block, "popularity": block}},
    )
    series = {name: sweep._series(name, {1.0: [point]}) for name in ("a", "b")}
    assert series["a"] == [{"epsilon": 1.0, "own": [0.5], "cross": [0.5], "popularity": [0.5]}]
    assert series["b"] == [{"epsilon": 1.0, "own": [0.5], "cross": [], "popularity": []}]
    assert sweep._cell(series["b"][0]) == "0.500"


def test_a_picture_of_own_items_alone_can_be_drawn(tmp_path: Path) -> None:
    scenario = private_scenario(tmp_path / "data", plan=private_plan().model_dump(mode="json"))
    assert scenario.partition is not None
    partition = scenario.partition.model_copy(update={"common_items": 1.0})
    scenario = scenario.model_copy(update={"partition": partition})
    run_sweep(scenario, [3.0], draws=1, folder=tmp_path / "out", on_stage=lambda text: None)
    content = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert content["without_noise"]["cross"] == {}
    assert (tmp_path / "out" / "sweep.png").exists()


def test_the_page_has_the_table_and_one_figure_a_scope(swept: tuple[Path, list[str], str]) -> None:
    folder, _, _ = swept
    content = json.loads((folder / "sweep.json").read_text())
    page = write_sweep_report(content, folder).read_text()
    for name, block in content["without_noise"]["own"].items():
        drawn = [point["own"][name]["recall@20"] for point in content["points"] if point["epsilon"] == 1.0]
        assert f"{fmean(drawn):.3f} ({min(drawn):.3f}–{max(drawn):.3f})" in page
        assert f"{block['recall@20']:.3f}" in page
    assert page.count("<figure") == 2
    assert "default-src 'none'" in page
    assert "://" not in re.sub(r"http://www\.w3\.org/[\w/.#-]*", "", page)
    assert "质量与 ε" in write_sweep_report(content, folder, language="zh").read_text()
