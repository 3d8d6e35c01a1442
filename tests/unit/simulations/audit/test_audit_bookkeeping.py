from __future__ import annotations

from pathlib import Path

import pytest

from client.privacy.outbox import Outbox
from common.contributions.run_plan import RunPlan
from common.privacy.contribution import Release
from common.privacy.lifetime import budget_policy
from simulations.audit.audited.faults import injected
from simulations.audit.bookkeeping import compare_bookkeeping
from tests.private_support import private_plan

PLAN = private_plan(noise="per_platform")
RELEASES = RunPlan.of(PLAN).release_plan()
CONTRIBUTIONS = [RELEASES.releases()[:1], *(part.releases() for part in RELEASES.rounds)]


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    box = Outbox(tmp_path, budget_policy(PLAN), PLAN, tmp_path / "store")
    box.reserve("run", RELEASES.releases(), PLAN)
    return box


def charge(outbox: Outbox, parts: list[tuple[Release, ...]]) -> None:
    for number, part in enumerate(parts):
        outbox.ledger.charge("run", number, part, f"{number:064x}")


def test_books_that_agree_are_not_flagged(outbox: Outbox) -> None:
    charge(outbox, CONTRIBUTIONS)
    report = compare_bookkeeping(outbox, CONTRIBUTIONS)
    assert (report.received, report.charged, report.flags) == (3, 3, ())
    assert report.mu_received == pytest.approx(RELEASES.mu) == report.mu_charged


def test_a_charge_for_what_never_arrived_is_no_fault(outbox: Outbox) -> None:
    charge(outbox, CONTRIBUTIONS)
    assert compare_bookkeeping(outbox, CONTRIBUTIONS[:2]).flags == ()


def test_a_contribution_that_was_not_charged_is_flagged(outbox: Outbox) -> None:
    charge(outbox, CONTRIBUTIONS[:2])
    (flag,) = compare_bookkeeping(outbox, CONTRIBUTIONS).flags
    assert flag.startswith("3 contributions with μ = ")
    assert "the ledger charged 2" in flag


def test_an_uncharged_contribution_is_flagged_however_small(outbox: Outbox) -> None:
    charge(outbox, CONTRIBUTIONS)
    quiet = (Release(kind="counts", mechanism="gaussian", noise_multiplier=1e12),)
    assert compare_bookkeeping(outbox, [*CONTRIBUTIONS, quiet]).flags


def test_a_charge_that_is_too_small_is_flagged(outbox: Outbox) -> None:
    cheap = [tuple(Release(kind=r.kind, mechanism=r.mechanism, noise_multiplier=1e6) for r in CONTRIBUTIONS[0])]
    charge(outbox, cheap)
    assert compare_bookkeeping(outbox, CONTRIBUTIONS[:1]).flags


def test_the_fault_sends_past_the_ledger_indeed(outbox: Outbox) -> None:
    from tests.support.outbox import RELEASES, REQUEST, SIZES, counts

    with injected("skip-ledger"):
        receipt = outbox.charge(REQUEST, RELEASES)
        assert outbox.replay(receipt) is None
        sent = outbox.send(counts(), "counts", SIZES, receipt)
    assert set(sent) == {"item_counts", "totals"}
    assert [entry.content["event"] for entry in outbox.ledger.entries()] == ["opened", "reserved"]
