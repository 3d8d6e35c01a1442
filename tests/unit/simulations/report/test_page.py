"""report.html: what it says, what it never says, and that it is one file."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.batch.coverage import before_and_after
from client.personalization.store import PlatformStore
from client.privacy.card import limits_of
from common.config.federation import FederationPlan
from common.config.serving import NeverListed, SteeringConfig
from common.errors import ConfigError, DataError
from common.files import archive, read_archive
from common.web.texts import LANGUAGES
from simulations.cli.main import app
from simulations.evaluation.paired import MEASURED
from simulations.report.compare import compare_runs
from simulations.report.page import write_report
from simulations.report.steered import read_steering
from simulations.run import simulate
from simulations.scenarios.scenario import load_scenario
from tests.support.scenarios import ratings_scenario, scenario_of

NASTY = '</title><script src="//evil.example/x.js">$x$'


class Reader(HTMLParser):
    """Every tag with its attributes, the texts, and what is left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    import numba

    numba.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    scenario = scenario_of(folder)
    items = folder / "items.csv"
    quoted = NASTY.replace('"', '""')
    table = items.read_text().replace("item_id,title", "item_id,title,genres")
    table = table.replace("3,T3\n", f'3,"{quoted}","[g]"\n').replace("\n4,T4", "\n4,数字四,[g]")
    items.write_text(table)
    found = []
    for name, rounds in (("one", 3), ("two", 2)):
        plan = scenario.plan.model_copy(update={"rounds": rounds})
        simulate(scenario.model_copy(update={"plan": plan}), folder / name)
        found.append(folder / name)
    return found


def page_of(run: Path, language: str = "en", *users: str) -> str:
    return write_report(run, language="zh" if language == "zh" else "en", users=users).read_text(encoding="utf-8")


def test_it_is_one_file_that_runs_nothing_and_asks_nobody(runs: list[Path]) -> None:
    page = page_of(runs[0])
    read = Reader(page)
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "form"})
    for tag, attributes in read.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("href", "src", "xlink:href", "data"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert "@import" not in page
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", page))
    assert len(page) < 500_000


def test_nobody_is_shown_unless_asked_for(runs: list[Path]) -> None:
    plain = page_of(runs[0])
    assert not re.search(r"\bu\d+\b", " ".join(Reader(plain).texts)), "users are called u0 … u39"
    assert "A real user" not in plain
    asked = page_of(runs[0], "en", f"big:{_user_of(runs[0], 'big')}")
    assert asked.count("A real user, asked for") == 1
    assert _user_of(runs[0], "big") not in Reader(asked).texts
    with pytest.raises(DataError, match="does not know that user"):
        write_report(runs[0], users=["big:nobody"])
    with pytest.raises(ConfigError, match="has the platforms big, small"):
        write_report(runs[0], users=["nowhere:u1"])


def _user_of(run: Path, platform: str) -> str:
    from client.personalization.store import PlatformStore

    return PlatformStore(run / "platforms" / platform / "store").load().user_ids[0]


def test_figures_stand_in_tables_with_their_intervals(runs: list[Path]) -> None:
    content = json.loads((runs[0] / "result.json").read_text())
    texts = Reader(page_of(runs[0])).texts
    for name, part in content["platforms"].items():
        assert name in texts
        for block in (part["own"]["final"], part["cross"]["final"], part["own"]["groups"]["cold"]["final"]):
            low, high = block["ci95"]["recall@20"]
            assert f"{block['recall@20']:.3f}" in texts
            assert f"{low:.3f}–{high:.3f}" in texts
        assert f"{part['own']['final']['coverage@20']:.0%}" in texts


def test_ids_are_unique_and_links_lead_somewhere(runs: list[Path]) -> None:
    for language in ("en", "zh"):
        read = Reader(page_of(runs[0], language))
        ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        targets = [attributes["href"] or "" for tag, attributes in read.tags if tag == "a"]
        assert {target.removeprefix("#") for target in targets} <= set(ids)
        assert ("html", {"lang": language}) in read.tags


def test_titles_are_text_in_tables_and_figures(runs: list[Path]) -> None:
    texts = " ".join(Reader(page_of(runs[0])).texts)
    assert NASTY in texts
    assert "数字四" in texts


def test_no_folder_of_the_machine_is_named(runs: list[Path]) -> None:
    assert str(runs[0].parent) not in page_of(runs[0])
    assert str(runs[0].parent) not in json.dumps(json.loads((runs[0] / "result.json").read_text())["configuration"])


def test_results_of_earlier_releases_are_shown(runs: list[Path], tmp_path: Path) -> None:
    content = json.loads((runs[0] / "result.json").read_text())
    del content["configuration"]
    for part in content["platforms"].values():
        for scope in ("own", "cross"):
            del part[scope]["groups"]
    (tmp_path / "result.json").write_text(json.dumps(content))
    texts = Reader(page_of(tmp_path)).texts
    assert "This run is of an earlier release, which did not write it down." in texts
    assert "Too few shared items to draw, or the run's stores are gone." in texts


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no result of a finished run"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="give two runs or more"):
        compare_runs([tmp_path])


def test_runs_stand_side_by_side(runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "deep" / "compare.html"
    arguments = ["compare", *map(str, runs), "--output", str(page), "--language", "zh"]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    contents = [json.loads((run / "result.json").read_text()) for run in runs]
    texts = Reader(page.read_text(encoding="utf-8")).texts
    for content in contents:
        block = content["platforms"]["small"]["cross"]["final"]
        low, high = block["ci95"]["recall@20"]
        cell = f"{block['recall@20']:.3f} {low:.3f}–{high:.3f}"
        assert cell in texts
        assert cell in done.output
    differ = compare_runs(runs).differences
    assert differ is not None
    assert differ["plan.rounds"] == ("3", "2")
    assert len(differ) == 1
    assert "配置的不同之处" in texts


def test_lists_are_shown_before_and_after_steering(runs: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "steering.yaml"
    assert "--steering FILE" in write_report(runs[0]).read_text(encoding="utf-8")
    store = runs[0] / "platforms" / "small" / "store"
    key = PlatformStore(store).load().own.keys[0]
    path.write_text(f"steering: {{never: {{key_prefixes: ['{key}']}}}}\n")
    done = CliRunner().invoke(app, ["report", str(runs[0]), "--steering", str(path)])
    assert done.exit_code == 0, done.output
    page = Reader((runs[0] / "report.html").read_text(encoding="utf-8"))
    never = SteeringConfig(never=NeverListed(key_prefixes=(key,)))
    before, after = before_and_after(store, never, 20, "all", users=500)
    assert before.coverage > after.coverage
    for spread in (before, after):
        for value in (spread.coverage, spread.gini, spread.foreign_share):
            assert f"{value:.3f}" in page.texts
    # A run shows by itself what its scenario says.
    said = tmp_path / "said"
    shutil.copytree(runs[0], said)
    content = json.loads((said / "result.json").read_text(encoding="utf-8"))
    content["configuration"]["steering"] = never.model_dump(mode="json")
    (said / "result.json").write_text(json.dumps(content), encoding="utf-8")
    assert f"{after.gini:.3f}" in Reader(write_report(said).read_text(encoding="utf-8")).texts
    path.write_text("steering: {no_such: 1}\n")
    with pytest.raises(ConfigError, match="no_such"):
        read_steering(path)


def test_what_the_promise_does_not_hide_is_said_in_both_languages(runs: list[Path]) -> None:
    card = " ".join((runs[0] / "privacy.md").read_text(encoding="utf-8").split())
    configuration = json.loads((runs[0] / "result.json").read_text())["configuration"]
    plan = FederationPlan.model_validate(configuration["plan"])
    for language in LANGUAGES:
        texts = Reader(write_report(runs[0], language=language).read_text(encoding="utf-8")).texts
        for limit in limits_of(plan, language):
            assert limit in texts
    assert all(limit in card for limit in limits_of(plan, "en")), "the card and the page say the same"


def test_runs_are_compared_user_by_user(runs: list[Path]) -> None:
    found = compare_runs(runs).paired
    assert {(one.platform, one.what) for one in found} >= {("small", "own_served"), ("small", "others_served")}
    contents = [json.loads((run / "result.json").read_text()) for run in runs]
    for one in found:
        scope = "own" if one.what == "own_served" else "cross"
        merits = [content["platforms"][one.platform][scope]["final"]["recall@20"] for content in contents]
        assert one.mean == pytest.approx(merits[1] - merits[0], abs=1e-6)
        assert one.low <= one.mean <= one.high
        assert one.run == "two"


def test_runs_of_other_test_users_are_not_paired(runs: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "two"
    shutil.copytree(runs[1], other, ignore=shutil.ignore_patterns("platforms", "aggregator"))
    content = json.loads((other / "result.json").read_text())
    (other / "result.json").write_text(json.dumps(content | {"seed": content["seed"] + 1}))
    assert compare_runs([runs[0], other]).paired == ()
    (other / "result.json").write_text(json.dumps(content))
    assert compare_runs([runs[0], other]).paired
    # As of an earlier release, and as of other users.
    kept = read_archive(other / MEASURED)
    (other / MEASURED).unlink()
    assert compare_runs([runs[0], other]).paired == ()
    (other / MEASURED).write_bytes(archive({name: array[1:] for name, array in kept.items()}))
    assert compare_runs([runs[0], other]).paired == ()


def test_a_private_run_says_its_promise_and_no_objective(tmp_path: Path) -> None:
    privacy = {"mode": "user", "epsilon": 3, "user_bound": 5000, "noise": "per_platform", "minimum_users": 5}
    plan = {"rounds": 2, "model": {"dimension": 4}, "privacy": privacy}
    scenario = scenario_of(tmp_path, plan=plan, cross={"ceiling": False, "tune_beta": False})
    simulate(scenario, tmp_path / "out")
    page = page_of(tmp_path / "out")
    assert "with ε = 3 and δ =" in page
    assert "Not private." not in page
    assert "The objective is not known" in page


def test_ratings_have_their_errors_and_nothing_hidden_is_said(tmp_path: Path) -> None:
    content = simulate(ratings_scenario(tmp_path), tmp_path / "out").content
    texts = Reader(page_of(tmp_path / "out", "zh")).texts
    for part in content["platforms"].values():
        assert f"{part['own']['final']['rmse']:.3f}" in texts
        assert f"MAE {part['own']['final']['mae']:.3f}" in texts


def test_the_command_says_where_the_report_is(tmp_path: Path, runs: list[Path]) -> None:
    done = CliRunner().invoke(app, ["report", str(runs[1]), "--language", "zh"])
    assert done.exit_code == 0, done.output
    assert f"written: {runs[1] / 'report.html'}" in done.output
    assert "运行报告" in (runs[1] / "report.html").read_text(encoding="utf-8")


def test_the_quickstart_says_all_that_decided_it() -> None:
    from simulations.run import configuration_of

    said = configuration_of(load_scenario("quickstart"))
    assert said["plan"]["rounds"] >= 1
    assert said["partition"]["data"]["interactions"]["path"] == "ratings.csv.gz"
