from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from common.deploy.cli import run_app
from simulations.audit.bookkeeping import BookkeepingReport
from simulations.audit.command import AuditReport, write_report
from simulations.audit.statistics.checks import exact
from simulations.audit.statistics.separation import CanaryReport
from simulations.cli import main as cli
from tests.support.scenarios import scenario_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def scenario_file(tmp_path: Path) -> Path:
    content = scenario_of(tmp_path).model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command, as a shell would see them."""
    monkeypatch.setattr(sys, "argv", ["crossfed-simulate", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as done:
        cli.main()
    output = capsys.readouterr()
    return int(done.value.code or 0), output.out, output.err


def test_the_list_names_every_shipped_scenario_with_what_it_is() -> None:
    done = CliRunner().invoke(cli.app, ["list"])
    assert done.exit_code == 0
    for name in ("quickstart", "movies", "ml1m-silos", "ml100k-silos"):
        assert name in done.output


def test_a_run_prints_its_rounds_and_a_table_and_writes_the_result(
    scenario_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    arguments = ["run", str(scenario_file), "--output", str(folder), "--set", "plan.rounds=2", "--seed", "9"]
    status, output, _ = run(monkeypatch, capsys, *arguments)
    assert status == 0
    content = json.loads((folder / "result.json").read_text())
    assert (content["scenario"], content["seed"], len(content["rounds"])) == ("mine", 9, 2)
    for expected in ("big", "small", "result.json", "crossfed-client recommend"):
        assert expected in output


def test_a_run_that_is_resumed_trains_no_round_twice(
    scenario_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(scenario_file), "--output", str(tmp_path / "out")]
    run(monkeypatch, capsys, *arguments)
    first = json.loads((tmp_path / "out" / "result.json").read_text())
    run(monkeypatch, capsys, *arguments, "--resume")
    again = json.loads((tmp_path / "out" / "result.json").read_text())
    assert again["rounds"] == first["rounds"], "seconds and all: the rounds are those of the first run"
    run(monkeypatch, capsys, *arguments)
    anew = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [record["seconds"] for record in anew["rounds"]] != [record["seconds"] for record in first["rounds"]]


def test_cross_validation_runs_every_fold_and_prints_their_spread(
    scenario_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--set", "plan.rounds=1", "--set", "cross.ceiling=false", "--set", "cross.tune_beta=false"]
    arguments = ["cross-validate", str(scenario_file), "--folds", "3", "--output", str(tmp_path / "out"), *quick]
    arguments += ["--language", "zh"]
    status, output, _ = run(monkeypatch, capsys, *arguments)
    assert status == 0
    results = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("fold-*/result.json"))]
    assert [(one["split"]["protocol"], one["split"]["fold"]) for one in results] == [("k-fold", f) for f in range(3)]
    finals = [one["platforms"]["big"]["own"]["final"]["recall@20"] for one in results]
    assert f"{sum(finals) / 3:.3f} ± " in output
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{sum(finals) / 3:.3f} ± " in page
    assert "实际使用" in page
    for fold in range(3):
        assert f'href="fold-{fold}/report.html"' in page
        assert (tmp_path / "out" / f"fold-{fold}" / "report.html").exists()


def test_a_run_leaves_other_files_of_its_folder_alone(
    scenario_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(scenario_file), "--output", str(tmp_path / "out"), "--set", "plan.rounds=1"]
    run(monkeypatch, capsys, *arguments)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert run(monkeypatch, capsys, *arguments)[0] == 0
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def audit_report(path: Path, fault: str | None = None, flags: tuple[str, ...] = ()) -> Path:
    canary = CanaryReport(
        epsilon_claimed=1.0,
        delta=1e-3,
        runs=20_000,
        mu_hat=0.3,
        epsilon_hat=1.01,
        epsilon_lower=0.95,
        ks_pvalue=0.5,
        round_correlation=0.1,
        checks=tuple(exact("canary", flag) for flag in flags),
    )
    books = BookkeepingReport(
        received=3, charged=3, mu_received=1.0, mu_charged=1.0, flags=("a release was not charged",) if flags else ()
    )
    write_report(
        AuditReport(canary=canary, deep=None, path=None, books=books, membership=None, passport=None, fault=fault), path
    )  # type: ignore[arg-type]
    return path


def test_an_audit_by_folder_or_name_is_on_the_privacy_card(
    scenario_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["run", str(scenario_file), "--output", str(out), "--set", "plan.rounds=1"]
    out.mkdir()
    audit_report(out / "audit.json")
    assert run(monkeypatch, capsys, *arguments)[0] == 0
    assert "ε̂ = 1.01" in (out / "privacy.md").read_text()
    named = audit_report(tmp_path / "other.json", flags=("ε is at least 7",))
    assert run(monkeypatch, capsys, *arguments, "--audit", str(named))[0] == 0
    assert "does not hold: ε is at least 7; a release was not charged" in (out / "privacy.md").read_text()
    assert json.loads((out / "result.json").read_text())["privacy"]["audit"]["runs"] == 20_000


def test_an_audit_of_broken_code_or_none_is_refused_before_the_run(
    scenario_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(scenario_file), "--output", str(tmp_path / "out"), "--audit"]
    broken = audit_report(tmp_path / "broken.json", fault="no-clipping")
    assert "had the fault 'no-clipping' put in" in run(monkeypatch, capsys, *arguments, str(broken))[2]
    for path in (tmp_path / "missing.json", scenario_file):
        status, _, said = run(monkeypatch, capsys, *arguments, str(path))
        assert status != 0
        assert "is not what crossfed-simulate audit writes" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "no-such-scenario"], "no scenario 'no-such-scenario': shipped are"),
        (["run", "FILE", "--set", "plan.ruonds=3"], "unknown key; did you mean 'rounds'?"),
        (["run", "FILE", "--set", "plan.rounds"], "plan.rounds"),
        (["run", "FILE", "--set", "plan.rounds=0"], "plan.rounds"),
        (["run", "FILE", "--backend", "cloud"], "--backend cloud: there are inline and ray"),
        (["run", "FILE", "--data", "/no/such/folder"], "--data /no/such/folder: is not a folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_without_a_traceback(
    scenario_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    arguments = [str(scenario_file) if part == "FILE" else part for part in arguments]
    status, _, error = run(monkeypatch, capsys, *arguments)
    assert status == 1
    assert error.startswith("error: ")
    assert said in error
    assert "Traceback" not in error


def test_a_missing_data_file_is_named(
    scenario_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all.csv").unlink()
    status, _, error = run(monkeypatch, capsys, "run", str(scenario_file), "--output", str(tmp_path / "out"))
    assert status == 1
    assert "all.csv" in error


def test_an_interrupted_command_says_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as done:
        run_app(lambda: app([]))
    assert done.value.code == 130
    assert "what was complete is on disk" in capsys.readouterr().err


def test_help_teaches_the_first_command() -> None:
    done = CliRunner().invoke(cli.app, ["--help"])
    assert "crossfed-simulate run quickstart" in done.output
