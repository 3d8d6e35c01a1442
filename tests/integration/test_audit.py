"""A short audit of the code that ships: sound code passes, and each fault that is put in is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from client.privacy.outbox import Outbox
from common.contributions.factors import UserLevelMechanism
from common.contributions.run_plan import RunPlan
from common.errors import ConfigError
from common.privacy.gdp import compose
from simulations.audit.canary import CanaryReport, canary_test
from simulations.audit.command import audit_books, report_tables, run_audit, write_report
from simulations.audit.faults import FAULTS, MECHANISMS, Fault
from simulations.audit.world import CanaryWorld, audit_plan
from simulations.cli.main import _fault, app

RUNS = 240
FAULTY_RUNS = 80


@pytest.fixture(scope="module")
def sound() -> CanaryReport:
    """At 99 % confidence one sound audit in some fifty is flagged by chance, three in a row are not."""
    for _ in range(3):
        report = canary_test(1.0, runs=RUNS)
        if not report.flags:
            return report
    pytest.fail(f"flagged three times: {report.flags}")


def test_the_code_that_ships_keeps_its_claim(sound: CanaryReport) -> None:
    assert (sound.epsilon_claimed, sound.delta, sound.runs) == (1.0, 1e-3, RUNS)
    assert sound.epsilon_lower <= 1.0
    # About four standard errors about the μ that ε = 1 stands for, 0.35.
    assert -0.02 < sound.mu_hat < 0.75


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("halved-sensitivity", "the noise is not the declared one"),
        ("sigma-over-p", "the noise is not the declared one"),
        ("no-clipping", "ε is at least"),
        ("reused-noise", "the noise of successive rounds is correlated"),
    ],
)
def test_a_fault_of_the_mechanism_is_flagged(fault: Fault, found: str) -> None:
    report = canary_test(1.0, runs=FAULTY_RUNS, fault=fault)
    assert any(flag.startswith(found) for flag in report.flags), report.flags


def test_faults_are_subclasses_of_what_ships_and_each_is_another() -> None:
    assert set(MECHANISMS) == {None, *FAULTS}
    assert MECHANISMS[None] is UserLevelMechanism is MECHANISMS["skip-ledger"]
    others = {MECHANISMS[fault] for fault in FAULTS if fault != "skip-ledger"}
    assert len(others) == 4
    assert all(issubclass(other, UserLevelMechanism) and other is not UserLevelMechanism for other in others)


def test_books_of_shipped_code_balance_and_those_of_a_platform_past_its_ledger_do_not() -> None:
    report = audit_books(1.0)
    assert (report.flags, report.received, report.charged) == ((), 3, 3)
    faulty = audit_books(1.0, "skip-ledger")
    assert faulty.charged == 0
    assert faulty.flags
    assert Outbox.contribute.__qualname__ == "Outbox.contribute", "the fault stays where it was put"


def test_the_canary_saturates_what_the_plan_claims() -> None:
    """The claim is tight in this world: μ of the canary's shifts is nearly that of the whole plan."""
    import numpy as np

    plan = audit_plan(1.0, 1e-3)
    releases = RunPlan.of(plan).release_plan()
    quiet = UserLevelMechanism(releases)
    world = CanaryWorld(plan, quiet, quiet, np.random.default_rng(0))
    # E[ratio | in] − E[ratio | out] = μ², and each is half of it.
    ratios = [world.run(canary=True).ratio - world.run(canary=False).ratio for _ in range(40)]
    claimed = compose(release.noise_multiplier for release in releases.releases())
    assert claimed == pytest.approx(releases.mu)
    assert abs(np.mean(ratios) - claimed**2) < 5 * claimed * np.sqrt(2 / 40)


def test_a_report_holds_everything_and_names_nobody(tmp_path: Path) -> None:
    stages: list[str] = []
    report = run_audit(2.0, runs=60, fault="halved-sensitivity", membership=False, processes=1, on_stage=stages.append)
    assert report.flags == report.canary.flags + report.books.flags != ()
    write_report(report, tmp_path / "audit.json")
    content = json.loads((tmp_path / "audit.json").read_text())
    assert content["flags"] == list(report.flags)
    assert (content["fault"], content["membership"], content["canary"]["runs"]) == ("halved-sensitivity", None, 60)
    assert set(content) == {"canary", "books", "membership", "fault", "flags"}
    assert "user" not in json.dumps(content)
    console = Console(width=200)
    with console.capture() as capture:
        console.print(report_tables(report))
    assert "FLAG: " in capture.get()
    assert stages[0].startswith("books")


def test_processes_share_the_runs_and_lose_none() -> None:
    done: list[int] = []
    report = canary_test(1.0, runs=2, processes=2, on_chunk=done.append)
    assert (report.runs, done) == (2, [2])


def test_an_unknown_fault_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(ConfigError, match="there are halved-sensitivity, no-clipping"):
        _fault("typo")
    assert [_fault(name) for name in (*FAULTS, None)] == [*FAULTS, None]


@pytest.mark.parametrize(("inject", "status"), [(None, 0), ("skip-ledger", 1)])
def test_the_command_exits_with_one_when_anything_is_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sound: CanaryReport, inject: str | None, status: int
) -> None:
    from simulations.audit import command

    monkeypatch.setattr(command, "canary_test", lambda *arguments, **options: sound)
    arguments = ["audit", "--no-membership", "--output", str(tmp_path / "deep" / "out")]
    result = CliRunner().invoke(app, arguments + (["--inject", inject] if inject else []))
    assert result.exit_code == status, result.output
    assert json.loads((tmp_path / "deep" / "out" / "audit.json").read_text())["fault"] == inject
