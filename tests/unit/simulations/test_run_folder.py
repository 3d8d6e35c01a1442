"""The folder of a run: whose it is, who works in it, and what a resumed run must have been started with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, CrossfedError, FederationError, InUseError, StoreError
from server.federation.checkpoint import CheckpointStore
from simulations import output
from simulations.output import LOCK, default_folder, own_folder
from simulations.run import SilentRunObserver, simulate
from simulations.scenarios.scenario import Scenario
from tests.support.scenarios import scenario_of

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK: dict[str, Any] = {"cross": {"ceiling": False, "tune_beta": False}}


def quick(folder: Path, **changes: Any) -> Scenario:
    return scenario_of(folder, **(QUICK | changes))


def files_in(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


class Stopped(BaseException):
    """A kill, seen from inside."""


class StoppedInRound3(SilentRunObserver):
    def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
        if server_round == 3:
            raise Stopped


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a run that was killed after round 2 of 3."""
    with pytest.raises(Stopped):
        simulate(quick(tmp_path), tmp_path / "out", observer=StoppedInRound3())
    return tmp_path / "out"


@pytest.mark.parametrize("theirs", ["platforms/orders.py", "aggregator/notes.txt", "thesis.txt"])
def test_a_folder_that_no_run_made_is_refused_untouched(tmp_path: Path, theirs: str) -> None:
    project = tmp_path / "project"
    (project / theirs).parent.mkdir(parents=True)
    (project / theirs).write_text("years of work")
    before = sorted(project.rglob("*"))
    with pytest.raises(ConfigError, match="is not empty and no run has made it"):
        simulate(quick(tmp_path), project)
    assert sorted(project.rglob("*")) == before
    assert (project / theirs).read_text() == "years of work"


def test_a_folder_of_another_command_is_not_a_runs_own(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with output.locked_folder(folder):
        (folder / "platforms").mkdir()
    with pytest.raises(ConfigError, match="no run has made it"), own_folder(folder):
        pass


def test_a_run_that_cannot_read_its_data_leaves_the_earlier_one(tmp_path: Path) -> None:
    simulate(quick(tmp_path), tmp_path / "out")
    before = files_in(tmp_path / "out")
    broken = quick(tmp_path)
    (tmp_path / "all.csv").unlink()
    with pytest.raises(CrossfedError):
        simulate(broken, tmp_path / "out")
    assert files_in(tmp_path / "out") == before
    assert "result.json" in before


def test_a_run_replaces_the_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    simulate(quick(tmp_path), tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    leftover = tmp_path / "out" / "platforms" / "old" / "store"
    leftover.mkdir(parents=True)
    simulate(quick(tmp_path, seed=4), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "result.json").read_text())["seed"] == 4
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert not leftover.exists()


def test_a_first_run_that_failed_does_not_bar_the_second(tmp_path: Path) -> None:
    broken = quick(tmp_path)
    (tmp_path / "all.csv").rename(tmp_path / "away.csv")
    with pytest.raises(CrossfedError):
        simulate(broken, tmp_path / "out")
    (tmp_path / "away.csv").rename(tmp_path / "all.csv")
    simulate(broken, tmp_path / "out")
    assert (tmp_path / "out" / "result.json").exists()


def test_what_cannot_be_removed_ends_the_new_run(tmp_path: Path) -> None:
    simulate(quick(tmp_path), tmp_path / "out")
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "out" / "platforms").rename(elsewhere)
    (tmp_path / "out" / "platforms").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="is a link"):
        simulate(quick(tmp_path), tmp_path / "out")
    assert list(elsewhere.iterdir())


def test_a_second_run_in_the_same_folder_is_refused_by_name(tmp_path: Path) -> None:
    scenario, folder = quick(tmp_path), tmp_path / "out"
    with own_folder(folder):
        before = files_in(folder)
        with pytest.raises(InUseError, match=rf"out: in use by .*process {os.getpid()} on .*, since 20"):
            simulate(scenario, folder)
        assert files_in(folder) == before
    simulate(scenario, folder)


def test_a_second_run_that_waits_is_told_for_whom(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    scenario, first, heard = quick(tmp_path), own_folder(folder), list[str]()
    first.__enter__()

    def waiting(text: str) -> None:
        heard.append(text)
        first.__exit__(None, None, None)

    simulate(scenario, folder, wait=waiting)
    assert "in use by" in heard[0]
    assert "waiting for its end" in heard[0]
    assert (folder / "result.json").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 2}, r"other seed \(0, now 2\)"),
        ({"split": {"test_share": 0.3}}, r"split\.test_share \(0\.2, now 0\.3\)"),
        ({"personalization": {"tuning_candidates": 1, "anchored": False}}, r"personalization\.blend_weights"),
    ],
)
def test_a_resumed_run_of_other_settings_is_refused(
    tmp_path: Path, stopped: Path, changes: dict[str, Any], said: str
) -> None:
    before = files_in(stopped)
    with pytest.raises(ConfigError, match=said):
        simulate(quick(tmp_path, **changes), stopped, resume=True)
    assert files_in(stopped) == before


def test_a_resumed_run_of_other_platforms_is_refused(tmp_path: Path, stopped: Path) -> None:
    content = quick(tmp_path).model_dump(mode="json", exclude={"platforms"})
    for platforms in ({"big": 3, "tiny": 1}, {"big": 2, "small": 1}):
        content["partition"]["platforms"] = platforms
        content["partition"]["equal_platforms"] = None
        with pytest.raises(ConfigError, match=r"partition\.platforms\.|platforms \(big, small; now big, tiny\)"):
            simulate(Scenario.model_validate(content), stopped, resume=True)


@pytest.mark.parametrize("file", ["all.csv", "items.csv"])
def test_a_resumed_run_of_other_data_is_refused(tmp_path: Path, stopped: Path, file: str) -> None:
    scenario = quick(tmp_path)
    lines = (tmp_path / file).read_text().splitlines()
    (tmp_path / file).write_text(
        "\n".join([*lines[:-1], lines[-1].replace("T29", "Other").replace("u39", "u38")]) + "\n"
    )
    with pytest.raises(ConfigError, match=r"other data of (big|small)"):
        simulate(scenario, stopped, resume=True)


def test_a_resumed_run_of_another_plan_is_refused_at_once(tmp_path: Path, stopped: Path) -> None:
    before = files_in(stopped)
    changed = quick(tmp_path, plan={"rounds": 9, "model": {"dimension": 4}, "privacy": {"mode": "none"}})
    with pytest.raises(FederationError, match=r"another plan \(differs in .*rounds"):
        simulate(changed, stopped, resume=True)
    assert files_in(stopped) == before


def test_data_that_have_only_moved_are_the_same_data(tmp_path: Path, stopped: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    content = simulate(quick(elsewhere, name="renamed"), stopped, resume=True).content
    assert [record["round"] for record in content["rounds"]] == [1, 2, 3]


def test_a_checkpoint_without_an_origin_is_not_resumed(tmp_path: Path, stopped: Path) -> None:
    scenario = quick(tmp_path)
    plan = scenario.with_platforms(2).plan
    folder = stopped / "aggregator" / "checkpoints"
    state = CheckpointStore(folder).latest(plan)
    assert state is not None
    CheckpointStore(folder).save(state, plan)
    with pytest.raises(ConfigError, match="an older crossfed"):
        simulate(scenario, stopped, resume=True)


def test_a_run_to_resume_that_had_not_begun_begins(tmp_path: Path) -> None:
    simulate(quick(tmp_path), tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "result.json").exists()


@pytest.mark.parametrize("place", ["afile", "afile/below"])
def test_a_file_in_the_folders_place_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "afile").write_text("")
    with pytest.raises(StoreError, match=r"afile: is a file where a folder is needed; choose another folder"):
        simulate(quick(tmp_path), tmp_path / place)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^/proc/x: cannot be made"):
        simulate(quick(tmp_path), Path("/proc/x"))


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/cron", "..", "a/b", "x" * 300, "\U0001f4da" * 300, "tab\tnew\nline"]
)
def test_a_scenarios_name_leads_nowhere_else(name: str) -> None:
    folder = default_folder(name, "-sweep")
    assert folder.parent == Path("out")
    assert folder.name not in (".", "..")
    assert len(os.fsencode(folder.name)) < 256
