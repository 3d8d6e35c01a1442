"""``crossfed-simulate audit``: all of the audit, as tables and as JSON."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from client.agent import PlatformAgent
from client.privacy.outbox import Outbox
from common.config.federation import FederationPlan
from common.contributions.registry import kinds_by_wire_name
from common.deploy.console import PlainTable, styled
from common.files import write_atomically
from common.privacy.contribution import Release
from common.wire.exchange import AgentReply, AgentRequest
from server.federation.checkpoint import CheckpointStore
from server.strategy import FederatedFactorization
from simulations.audit.books import BooksReport, SkippingOutbox, compare_books
from simulations.audit.canary import CanaryReport, canary_test
from simulations.audit.faults import Fault
from simulations.audit.membership import MembershipReport, audit_platforms, audit_scenario, membership_test
from simulations.engine.federate import inline_grid, make_agents


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What an audit found; sound code has no flags."""

    canary: CanaryReport
    books: BooksReport
    membership: MembershipReport | None
    fault: Fault | None

    @property
    def flags(self) -> tuple[str, ...]:
        return self.canary.flags + self.books.flags

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"flags": list(self.flags)}


def run_audit(
    epsilon: float,
    *,
    runs: int,
    fault: Fault | None = None,
    membership: bool = True,
    processes: int | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> AuditReport:
    """Canary test, books and membership inference on the code that ships.

    Args:
        epsilon: the claim to test.
        runs: of the canary test in each world.
        fault: to inject, to see that it is caught.
        membership: whether to run the membership inference, too.
        processes: for the canary test; all cores unless given.
        on_stage: told what is being done.
    """
    on_stage("books: does all that left stand in the ledger?")
    books = audit_books(epsilon, fault)
    canary = canary_test(
        epsilon,
        runs=runs,
        fault=fault,
        processes=processes or os.cpu_count() or 1,
        on_chunk=lambda done: on_stage(f"canary test: {done:,} of {runs:,} runs"),
    )
    attacked = None
    if membership:
        on_stage("membership inference on released item factors")
        attacked = membership_test((epsilon, 10.0) if epsilon < 10 else (epsilon,))
    return AuditReport(canary=canary, books=books, membership=attacked, fault=fault)


def audit_books(epsilon: float, fault: Fault | None = None) -> BooksReport:
    """One small private federation; compare what the aggregator has of a platform with that platform's ledger."""
    platforms = audit_platforms()
    scenario = audit_scenario(epsilon)
    with tempfile.TemporaryDirectory(prefix="crossfed-audit-") as folder:
        agents = make_agents(platforms, scenario, Path(folder) / "platforms", {})
        if fault == "skip-ledger":
            # The same books, opened by an outbox that does not use them.
            agents[0].__dict__["_outbox"].__class__ = SkippingOutbox
        watched = _Watched(agents[0], scenario.plan)
        strategy = FederatedFactorization(scenario.plan, CheckpointStore(Path(folder) / "aggregator"), run_id="audit")
        strategy.train(inline_grid([watched, *agents[1:]]))
        outbox: Outbox = agents[0].__dict__["_outbox"]
        return compare_books(outbox, watched.received)


class _Watched:
    """Notes the releases of every contribution that the aggregator got from an agent, from the plan alone."""

    def __init__(self, agent: PlatformAgent, plan: FederationPlan) -> None:
        self.name = agent.name
        self.received: list[tuple[Release, ...]] = []
        self._agent = agent
        self._plan, self._kinds = plan, kinds_by_wire_name(plan)

    def exchange(self, request: AgentRequest) -> AgentReply:
        reply = self._agent.exchange(request)
        kind = self._kinds.get(request.kind)
        if kind is not None and reply.arrays:
            self.received.append(kind.releases(self._plan, request.server_round))
        return reply


def write_report(report: AuditReport, path: Path) -> None:
    """``audit.json``."""
    write_atomically(path, json.dumps(report.as_dict(), indent=1).encode(), mode=0o644)


def _membership_table(report: MembershipReport) -> PlainTable:
    """The attack as it is, first; behind it what it would be with the users' halves in each other's place."""
    table = PlainTable(
        title=f"Membership inference on item factors, {report.members} members: AUC",
        caption=(
            "The attack is the figure. Either half can be the easier one to fit, whoever was trained on: that is no leak, "
            "and cancels in the mean."
        ),
        caption_justify="left",
        lined=True,
    )
    table.add_column("")
    for epsilon in report.auc:
        table.add_column("no privacy" if epsilon == "none" else f"ε = {epsilon}", justify="right")
    areas = (report.auc, report.swapped, report.mean)
    for name, area in zip(("attack", "with the halves swapped", "mean of both"), areas, strict=True):
        table.add_row(name, *(f"{value:.3f}" for value in area.values()))
    return table


def report_tables(report: AuditReport) -> Group:
    """The audit for people."""
    canary = report.canary
    title = "Canary test: one user more or less" + (f", fault: {report.fault}" if report.fault else "")
    table = PlainTable(title=title, lined=True, padding=(0, 1, 0, 0))
    for heading in ("ε claimed", "δ", "ε̂", "99 % lower bound", "runs", "noise test p", "rounds correlate"):
        table.add_column(heading, justify="right")
    table.add_row(
        f"{canary.epsilon_claimed:g}",
        f"{canary.delta:g}",
        f"{canary.epsilon_hat:.3f}",
        f"{canary.epsilon_lower:.3f}",
        f"2×{canary.runs:,}",
        f"{canary.ks_pvalue:.3g}",
        f"{canary.round_correlation:.1f} σ",
    )
    parts: list[RenderableType] = [table]
    if report.membership is not None:
        parts.append(_membership_table(report.membership))
    books = report.books
    parts.append(styled(f"Books: {books.received} contributions left, {books.charged} charged"))
    if report.flags:
        parts += [styled(f"FLAG: {flag}", "bold red") for flag in report.flags]
    else:
        parts.append(styled("Nothing to flag.", "green"))
    return Group(*parts)
