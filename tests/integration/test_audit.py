"""A short audit of the code that ships: sound code passes, and each fault that is put in is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.privacy.outbox import Outbox
from common.contributions import factors
from common.contributions.run_plan import RunPlan
from common.deploy.console import PlainConsole
from common.errors import ConfigError
from common.privacy.gdp import compose
from simulations.audit.audited import platforms
from simulations.audit.audited.faults import FAULTS, Fault, injected
from simulations.audit.audited.files import CANARIES, population
from simulations.audit.audited.plan import audit_plan
from simulations.audit.audited.platforms import audit_folder, make_identities
from simulations.audit.canary.releases import canary_test
from simulations.audit.canary.world import CanaryWorld
from simulations.audit.command import audit_bookkeeping, run_audit, write_report
from simulations.audit.path.neighbours import USERS, NoisePlacement, World, compare_neighbours
from simulations.audit.path.noise import noise_checks
from simulations.audit.path.oracles import oracle_checks
from simulations.audit.path.whole import PathReport, audit_path
from simulations.audit.statistics.checks import Check, flags_of
from simulations.audit.statistics.separation import CanaryReport
from simulations.audit.tables import report_tables
from simulations.cli.main import _fault, app

RUNS = 100
FAULTY_RUNS = 20
DELTA = 1e-3


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with platforms.one_thread():
        yield


@pytest.fixture(scope="module")
def sound() -> CanaryReport:
    return canary_test(1.0, runs=RUNS)


@pytest.fixture(scope="module")
def path() -> PathReport:
    """Some of the crafted parameters: tests of the agent ask every kind with all of them."""
    crafted = ("huge", "not-a-number", "one-item-times-900000")
    return audit_path(1.0, deep=False, crafted=crafted)


def compared(fault: Fault, *persons: str, placement: NoisePlacement = "per_platform") -> list[Check]:
    plan = audit_plan(1.0, DELTA, noise=placement)
    with audit_folder() as folder, injected(fault):
        return compare_neighbours(folder, plan, {person: CANARIES[person] for person in persons}).checks


def test_the_code_that_ships_keeps_its_claim(sound: CanaryReport) -> None:
    assert (sound.epsilon_claimed, sound.delta, sound.runs, sound.flags) == (1.0, DELTA, RUNS, ())
    # About four standard errors about the μ that ε = 1 stands for, 0.39.
    assert -0.15 < sound.mu_hat < 0.95


def test_all_that_leaves_is_the_same_with_and_without_a_person(path: PathReport) -> None:
    assert flags_of(path.checks) == ()
    assert path.persons == tuple(CANARIES)
    assert sum(check.p_value is None for check in path.checks) > 30


def test_one_person_takes_what_is_paid_for_and_no_more(path: PathReport) -> None:
    """The audited persons meet every bound, so that a bound that is too wide would show as well."""
    assert set(path.taken) == {"counts", "cooccurrence", "item_vectors", "user_gram"}
    assert all(0.995 < share <= 1 for share in path.taken.values())


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("halved-sensitivity", "the noise is not the declared one"),
        ("sigma-over-p", "the noise is not the declared one"),
        ("no-clipping", "ε is at least"),
        ("reused-noise", "the noise of successive rounds is correlated"),
        ("untouched-rows-without-noise", "the noise is not the declared one"),
    ],
)
def test_a_fault_of_the_mechanism_shows_in_its_releases(fault: Fault, found: str) -> None:
    flags = canary_test(1.0, runs=FAULTY_RUNS, fault=fault).flags
    assert any(found in flag for flag in flags), flags


@pytest.mark.parametrize(
    ("fault", "person", "found"),
    [
        ("no-clipping", "every item", "times the sensitivity that was paid for"),
        ("skip-ledger", "every item", "left and was not charged"),
        ("shared-split", "every item", "changed what is trained on or held back of"),
        ("wrong-weights", "rare items", "what one person changes depends on who else is there"),
        ("feedback-unclean", "recorded feedback alone", "times the sensitivity that was paid for"),
        ("feedback-unclean", "one id in many spellings", "times the sensitivity that was paid for"),
    ],
)
def test_a_fault_of_the_path_shows_in_what_one_person_changes(fault: Fault, person: str, found: str) -> None:
    flags = flags_of(compared(fault, person))
    assert any(found in flag for flag in flags), flags


@pytest.mark.parametrize("fault", ["no-clipping", "shared-split"])
def test_a_fault_of_the_path_shows_in_masked_sums(fault: Fault) -> None:
    flags = flags_of(compared(fault, "every item", placement="secure_sum"))
    assert any("times the sensitivity that was paid for" in flag for flag in flags), flags


@pytest.mark.parametrize("placement", ["per_platform", "secure_sum"])
def test_rows_that_nobody_touches_show_when_they_have_no_noise(placement: NoisePlacement) -> None:
    with audit_folder() as folder, injected("untouched-rows-without-noise"):
        plan = audit_plan(1.0, DELTA, noise=placement)
        world = World.of(folder, plan, population(1, USERS), make_identities(folder / "identities"))
        flags = flags_of(noise_checks(world))
    for name in ("counts", "cooccurrence", "item_vectors 1", "item_vectors 2"):
        assert any(flag.startswith(f"{placement}, {name}: ") for flag in flags), (name, flags)


def test_a_finish_that_nobody_paid_for_shows() -> None:
    with audit_folder() as folder, injected("unpaid-finish"):
        plan = audit_plan(1.0, DELTA, noise="per_platform")
        flags = flags_of(oracle_checks(folder, plan, CANARIES["every item"], crafted=()))
    assert any("were answered before the last paid round" in flag for flag in flags), flags


def test_every_fault_has_a_test_above_and_ends_with_its_context() -> None:
    before = factors.discrete_gaussian, Outbox.charge
    for fault in FAULTS:
        with injected(fault):
            pass
    assert before == (factors.discrete_gaussian, Outbox.charge)


def test_shipped_code_balances_and_a_bypassed_ledger_does_not() -> None:
    report = audit_bookkeeping(1.0)
    assert (report.flags, report.received, report.charged) == ((), 3, 3)
    with injected("skip-ledger"):
        faulty = audit_bookkeeping(1.0)
    assert faulty.charged == 0
    assert faulty.flags


def test_the_canary_saturates_what_the_plan_claims(tmp_path: Path) -> None:
    """The claim is tight in this world: μ of the canary's shifts is nearly that of the whole plan."""
    import numpy as np

    plan = audit_plan(1.0, DELTA)
    world = CanaryWorld(tmp_path, plan, 0)
    # E[ratio | in] − E[ratio | out] = μ², and each is half of it.
    ratios = [world.run(canary=True).ratio - world.run(canary=False).ratio for _ in range(40)]
    releases = [*RunPlan.of(plan).release_plan().releases()]
    claimed = compose([*(r.noise_multiplier for r in releases), RunPlan.of(plan).item_item_noise().noise_multiplier])
    assert claimed == pytest.approx(RunPlan.of(plan).gaussian_mu)
    assert abs(np.mean(ratios) - claimed**2) < 5 * claimed * np.sqrt(2 / 40)


def test_a_report_holds_everything_and_names_nobody(tmp_path: Path, path: PathReport) -> None:
    stages: list[str] = []
    fault: Fault = "halved-sensitivity"
    report = run_audit(
        2.0, runs=30, fault=fault, path=False, deep=False, membership=False, processes=1, on_stage=stages.append
    )
    report = replace(report, path=path)
    assert report.flags
    write_report(report, tmp_path / "audit.json")
    content = json.loads((tmp_path / "audit.json").read_text())
    assert content["flags"] == list(report.flags)
    assert (content["fault"], content["membership"], content["canary"]["runs"]) == ("halved-sensitivity", None, 30)
    parts = {"canary", "deep", "path", "books", "membership", "passport"}
    assert set(content) == parts | {"fault", "kinds", "flags", "false_alarm"}
    assert "person-" not in json.dumps(content)
    console = PlainConsole(width=200)
    with console.capture() as capture:
        console.print(report_tables(report))
    shown = capture.get()
    assert "FLAG: " in shown
    assert "item vectors" in shown
    assert "all together flag sound code in 0.01% of audits at most" in shown
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
def test_the_command_exits_with_one_when_anything_is_flagged(tmp_path: Path, inject: str | None, status: int) -> None:
    arguments = ["audit", "--runs", "50", "--no-path", "--no-membership", "--no-deep"]
    arguments += ["--output", str(tmp_path / "deep" / "out")]
    result = CliRunner().invoke(app, arguments + (["--inject", inject] if inject else []))
    assert result.exit_code == status, result.output
    assert json.loads((tmp_path / "deep" / "out" / "audit.json").read_text())["fault"] == inject


def test_the_command_counts_false_alarms(tmp_path: Path) -> None:
    arguments = ["audit", "--repeats", "1", "--runs", "50", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "0 of 1 audits of sound code were flagged" in result.output
    assert json.loads((tmp_path / "out" / "false_alarms.json").read_text())["repeats"] == 1
