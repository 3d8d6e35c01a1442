from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from client.cli.main import app
from client.privacy.egress import EgressContract, EgressGuard
from client.privacy.journal import EgressJournal
from client.privacy.ledger import BudgetLedger
from client.privacy.outbox import witnesses
from client.privacy.report import (
    close_run,
    egress_dicts,
    egress_entry,
    egress_entry_table,
    egress_table,
    platform_card,
    privacy_dict,
    privacy_report,
    restore_logs,
    verify_logs,
)
from common.contributions.run_plan import read_plan
from common.deploy.roles import PlatformConfig
from common.errors import DataError, EgressRefusedError, LedgerError, PrivacyError
from common.privacy.accounting import gaussian_epsilon
from common.privacy.contribution import Release
from common.privacy.lifetime import BudgetPolicy
from common.privacy.minting import mint
from common.sealed.admin import AdminLog
from common.sealed.witness import FileWitness
from common.wire.contract import ArraySpec, MessageSpec

POLICY = BudgetPolicy(epsilon=3.0, delta=1e-5)
CONTRACT = EgressContract((MessageSpec("statistics", (ArraySpec("item_vectors", "int64", (2, 3)),)),), ())


def text_of(renderable: RenderableType, width: int = 200) -> str:
    console = Console(width=width, record=True, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def books(directory: Path, *, private: bool = True) -> BudgetLedger:
    policy = POLICY if private else BudgetPolicy(epsilon=None, delta=1e-5)
    release = Release(
        kind="item_vectors", mechanism="gaussian" if private else "none", noise_multiplier=12.5 if private else 0.0
    )
    ledger = BudgetLedger.open(directory, policy)
    guard = EgressGuard(CONTRACT, EgressJournal(directory, ledger), ledger)
    ledger.reserve("spring", [release] * 2, epsilon=3.0 if private else None, delta=1e-5)
    receipt = ledger.charge("spring", 1, [release], f"{1:064x}")
    contribution = mint(
        kind="statistics",
        server_round=1,
        private=private,
        arrays={"item_vectors": np.ones((2, 3), np.int64)},
        grid_steps={},
        masked=frozenset(),
        releases=(release,),
    )
    guard.send(contribution, kind="statistics", sizes={}, receipt=receipt)
    guard.refusal("statistics", DataError("private"))
    return ledger


def test_the_report_shows_budget_spend_and_what_is_left(tmp_path: Path) -> None:
    books(tmp_path)
    shown = text_of(privacy_report(tmp_path))
    for part in ("ε = 3 at δ = 1e-05", "spring", "open", "12.5", "item_vectors", "gaussian", "for one more run"):
        assert part in shown
    report = privacy_dict(tmp_path)
    assert report["mu"] == pytest.approx(0.08)
    assert report["mu_committed"] == pytest.approx(0.08 * math.sqrt(2))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert f"ε = {report['epsilon']:.4g} at" in shown


def test_the_report_says_how_many_runs_are_left_and_why(tmp_path: Path) -> None:
    ledger = books(tmp_path)
    release = Release(kind="item_vectors", mechanism="gaussian", noise_multiplier=12.5)
    fitting = math.floor((POLICY.mu**2 - 2 * 0.08**2) / 0.08**2)
    shown = text_of(privacy_report(tmp_path))
    assert f"Runs left         {(fitting) // 2}" in shown
    assert "Run spring holds a reservation" in shown
    assert "crossfed-client privacy close spring" in shown
    ledger.reserve("summer", [release], epsilon=3.0, delta=1e-5)
    shown = text_of(privacy_report(tmp_path))
    assert f"Runs left         {fitting}" in shown, "as large as the newest, which has released nothing"
    assert "Run summer has joined and released nothing" in shown
    ledger.reserve("autumn", [release], epsilon=3.0, delta=1e-5)
    assert "given back" in text_of(privacy_report(tmp_path))
    plan = read_plan({"platforms": 3, "privacy": {"epsilon": 3.0, "user_bound": 10_000}})
    assert privacy_dict(tmp_path, plan)["left"]["runs"] == 0, "a run of the plan takes all of the budget"
    smaller = read_plan({"platforms": 3, "privacy": {"epsilon": 1.0, "user_bound": 10_000}})
    assert privacy_dict(tmp_path, smaller)["left"]["runs"] >= 1


@pytest.mark.parametrize("command", [["privacy", "verify"], ["egress", "verify"], ["privacy", "--verify"]])
def test_verify_prints_a_table(tmp_path: Path, command: list[str]) -> None:
    books(tmp_path)
    result = CliRunner().invoke(app, [*command, "--home", str(tmp_path)], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    rows = [[part.strip() for part in line.split("  ") if part.strip()] for line in result.output.splitlines()]
    mac = verify_logs(tmp_path)["head"]["mac"]
    assert ["ledger (ledger.db)", "3", "3"] in [row[:3] for row in rows]
    assert ["egress journal (egress.db)", "3"] in rows
    assert mac in "".join(part for row in rows for part in row)
    assert "{" not in result.output


def test_data_released_without_noise_is_said_loudly(tmp_path: Path) -> None:
    books(tmp_path, private=False)
    shown = text_of(privacy_report(tmp_path))
    assert "no privacy guarantee" in shown
    assert "no limit" in shown
    assert "Left" not in shown
    assert privacy_dict(tmp_path)["epsilon"] is None
    assert egress_entry(tmp_path, 2)["norm"] == pytest.approx(math.sqrt(6))


def test_the_egress_log_lists_what_left(tmp_path: Path) -> None:
    books(tmp_path)
    shown = text_of(egress_table(tmp_path))
    for part in ("spring", "statistics", "item_vectors int64[2, 3]", "48", "12.5", "statistics (data)"):
        assert part in shown
    assert [entry["event"] for entry in egress_dicts(tmp_path)] == ["opened", "sent", "replied"]
    entry = egress_entry(tmp_path, 2)
    assert entry["receipt"]["sequence"] == 3
    assert entry["digest"] in text_of(egress_entry_table(tmp_path, 2))
    with pytest.raises(EgressRefusedError, match="no entry 9"):
        egress_entry(tmp_path, 9)


def test_verify_counts_entries_and_names_the_bad_one(tmp_path: Path) -> None:
    books(tmp_path)
    result = verify_logs(tmp_path)
    assert (result["ledger_entries"], result["journal_entries"], result["head"]["sequence"]) == (3, 3, 3)
    file = tmp_path / "ledger.db"
    file.write_bytes(file.read_bytes().replace(b"12.5", b"99.5"))
    with pytest.raises(LedgerError, match="entry 2 was edited"):
        verify_logs(tmp_path)


def test_verify_asks_the_store_whose_head_outlives_a_rollback(tmp_path: Path) -> None:
    """Old copies of both logs put back with their own heads are whole chains: only the store's heads tell."""
    ledger = books(tmp_path)
    store = tmp_path / "store"
    store.mkdir()
    verify_logs(tmp_path)
    old = {file: file.read_bytes() for file in tmp_path.iterdir() if file.suffix in (".db", ".head")}
    release = Release(kind="item_vectors", mechanism="gaussian", noise_multiplier=12.5)
    receipt = ledger.charge("spring", 2, [release], f"{2:064x}")
    BudgetLedger.open(tmp_path, POLICY, witnesses=[witnesses(store)[0]])
    for file, content in old.items():
        file.write_bytes(content)
    for look in (verify_logs, privacy_dict, privacy_report, egress_dicts):
        with pytest.raises(LedgerError, match=f"lacks entry {receipt.sequence}"):
            look(tmp_path)
    # A restore takes the store at its word.
    assert restore_logs(tmp_path, POLICY)["lost_mu"] == pytest.approx(0.08)
    assert verify_logs(tmp_path)["ledger_entries"] == 4


def test_a_restore_keeps_the_recorded_lifetime_budget(tmp_path: Path) -> None:
    recorded = BudgetPolicy(epsilon=5.0, delta=1e-6, subsampled_share=0.25)
    BudgetLedger.open(tmp_path, POLICY)
    BudgetLedger.open(tmp_path, recorded)
    done = CliRunner().invoke(app, ["privacy", "restore", "--home", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert BudgetLedger.open(tmp_path).spend().policy == recorded
    stated = ["privacy", "restore", "--home", str(tmp_path), "--epsilon", "2", "--delta", "1e-7"]
    assert CliRunner().invoke(app, stated).exit_code == 0
    assert BudgetLedger.open(tmp_path).spend().policy == BudgetPolicy(epsilon=2.0, delta=1e-7)
    assert [one.act for one in AdminLog(tmp_path).acts()] == ["privacy restore"] * 2


def test_a_restore_without_a_ledger_wants_the_lifetime_budget_stated(tmp_path: Path) -> None:
    books(tmp_path)
    (tmp_path / "ledger.db").unlink()
    with pytest.raises(LedgerError, match="holds no copy of a ledger to take the lifetime budget from; state it"):
        restore_logs(tmp_path)
    assert not (tmp_path / "ledger.db").exists()
    restore_logs(tmp_path, POLICY)
    assert BudgetLedger.open(tmp_path).spend().policy == POLICY


def test_a_narrow_terminal_cuts_nothing_off(tmp_path: Path) -> None:
    books(tmp_path)
    for shown in (privacy_report(tmp_path), egress_table(tmp_path), egress_entry_table(tmp_path, 2)):
        assert "…" not in text_of(shown, width=80)


def test_the_egress_log_says_what_each_message_costs_by_itself(tmp_path: Path) -> None:
    books(tmp_path)
    assert egress_entry(tmp_path, 2)["epsilon"] == pytest.approx(gaussian_epsilon([12.5], 1e-5))
    assert f"{gaussian_epsilon([12.5], 1e-5):.3g}" in text_of(egress_table(tmp_path))
    assert "epsilon" not in egress_entry(tmp_path, 3), "a refusal costs nothing"
    books(tmp_path / "exact", private=False)
    assert egress_entry(tmp_path / "exact", 2)["epsilon"] is None
    assert "∞" in text_of(egress_table(tmp_path / "exact"))


def test_a_run_that_is_given_up_frees_what_it_reserved(tmp_path: Path) -> None:
    books(tmp_path)
    close_run(tmp_path, "spring")
    assert privacy_dict(tmp_path)["mu_committed"] == pytest.approx(0.08), "what left stays spent"
    with pytest.raises(PrivacyError, match="reserved nothing"):
        close_run(tmp_path, "autumn")


def test_the_card_of_a_deployed_platform_is_of_its_own_books(tmp_path: Path) -> None:
    settings = {
        "name": "cinema",
        "aggregator": "h.example.org:9443",
        "state": tmp_path,
        "plan": {"federation": "films", "platforms": 3},
        "data": {"interactions": {"path": "views.csv"}},
    }
    config = PlatformConfig.model_validate(settings)
    with pytest.raises(LedgerError, match="holds no ledger"):
        platform_card(config)
    books(tmp_path)
    card = platform_card(config)
    assert card.startswith("# Privacy card of federation films\n\n## The promise")
    assert f"| cinema | {privacy_dict(tmp_path)['epsilon']:.4g} | 1e-05 | 3.0 | 2 | 48 |" in card


def test_restore_counts_what_the_store_remembers(tmp_path: Path) -> None:
    store = FileWitness(tmp_path / "store.head")
    ledger = books(tmp_path / "books")
    store.remember(ledger.head())
    for file in (tmp_path / "books").glob("*.*"):
        if file.suffix in (".db", ".head"):
            file.unlink()
    with pytest.raises(LedgerError, match="missing"):
        BudgetLedger.open(tmp_path / "books", POLICY, witnesses=[store])
    result = restore_logs(tmp_path / "books", POLICY, ledger_witnesses=[store])
    assert result["lost_mu"] == pytest.approx(0.08 * math.sqrt(2))
    assert "could not bring back" in text_of(privacy_report(tmp_path / "books"))


def test_looking_at_a_folder_without_a_ledger_makes_nothing(tmp_path: Path) -> None:
    for look in (privacy_dict, privacy_report, verify_logs, egress_dicts):
        with pytest.raises(LedgerError, match="holds no ledger"):
            look(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
