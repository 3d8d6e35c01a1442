"""``crossfed-simulate audit``: all of the audit, and its report as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from client.agent import PlatformAgent
from client.privacy.outbox import Outbox
from common.config.federation import FederationPlan
from common.contributions.registry import kinds_by_wire_name, kinds_of
from common.files import write_atomically
from common.privacy.contribution import Release
from common.wire.exchange import AgentReply, AgentRequest
from server.federation.checkpoint import CheckpointStore
from server.strategy import FederatedFactorization
from simulations.audit.audited.faults import Fault, injected
from simulations.audit.audited.plan import audit_plan
from simulations.audit.audited.platforms import audit_folder, one_thread, quiet
from simulations.audit.bookkeeping import BookkeepingReport, compare_bookkeeping
from simulations.audit.canary.deep import deep_test
from simulations.audit.canary.releases import canary_test
from simulations.audit.membership import MembershipReport, audit_platforms, audit_scenario, membership_test
from simulations.audit.passport import PassportReport, installed_encoder, passport_test
from simulations.audit.path.whole import PathReport, audit_path
from simulations.audit.statistics.checks import FALSE_ALARM, Check, exact, flags_of
from simulations.audit.statistics.separation import CanaryReport
from simulations.engine.federate import inline_grid, make_agents


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """Holds what an audit found.

    Sound code has no flags, but with probability :data:`~simulations.audit.statistics.checks.FALSE_ALARM`.

    Attributes:
        canary: the canary test of factors and item-item statistics.
        deep: that of the deep model; None where it was left out.
        path: the exact audit from files to bytes; None where it was left out.
        books: what left against what was charged.
        membership: attacks on released factors; they measure, and flag nothing.
        passport: histories guessed from passports; it measures, and flags nothing.
        fault: what was put in.
    """

    canary: CanaryReport
    deep: CanaryReport | None
    path: PathReport | None
    books: BookkeepingReport
    membership: MembershipReport | None
    passport: PassportReport | None
    fault: Fault | None

    @property
    def checks(self) -> tuple[Check, ...]:
        parts = [part.checks for part in (self.canary, self.deep, self.path) if part is not None]
        books = tuple(exact("books", flag) for flag in self.books.flags) or (exact("books"),)
        return (*(check for part in parts for check in part), *books)

    @property
    def flags(self) -> tuple[str, ...]:
        return flags_of(self.checks)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"kinds": self.kinds, "flags": list(self.flags), "false_alarm": FALSE_ALARM}

    @property
    def kinds(self) -> list[str]:
        """Names of the kinds of contribution that were audited."""
        plan = audit_plan(self.canary.epsilon_claimed, self.canary.delta)
        return [kind.name for kind in kinds_of(plan)] + (["update"] if self.deep else [])


def run_audit(
    epsilon: float,
    *,
    runs: int,
    fault: Fault | None = None,
    path: bool = True,
    deep: bool = True,
    membership: bool = True,
    passport: bool = False,
    processes: int | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> AuditReport:
    """All of the audit, on the code that ships.

    Args:
        epsilon: the claim to test.
        runs: of the canary tests in each world.
        fault: to inject, to see that it is caught.
        path: whether to compare all that leaves with and without one person.
        deep: whether to audit the deep model, too.
        membership: whether to run the membership inference, too.
        passport: whether to guess histories from passports, too.
        processes: for the canary test; all cores unless given.
        on_stage: told what is being done.
    """
    with injected(fault), one_thread(), quiet():
        on_stage("books: does all that left stand in the ledger?")
        books = audit_bookkeeping(epsilon)
        compared = audit_path(epsilon, deep=deep, on_stage=on_stage) if path else None
    canary = canary_test(
        epsilon,
        runs=runs,
        fault=fault,
        processes=processes or os.cpu_count() or 1,
        on_chunk=lambda done: on_stage(f"canary test: {done:,} of {runs:,} runs"),
    )
    deep_canary = None
    if deep:
        on_stage(f"canary test of the deep model: {runs:,} runs")
        with injected(fault), one_thread(), quiet():
            deep_canary = deep_test(epsilon, runs=runs)
    attacked = None
    if membership:
        on_stage("membership inference on released item factors")
        attacked = membership_test((epsilon, 10.0) if epsilon < 10 else (epsilon,))
    guessed = None
    if passport:
        on_stage("guessing histories from passports")
        guessed = passport_test(encoder=installed_encoder())
    return AuditReport(
        canary=canary,
        deep=deep_canary,
        path=compared,
        books=books,
        membership=attacked,
        passport=guessed,
        fault=fault,
    )


def audit_bookkeeping(epsilon: float) -> BookkeepingReport:
    """One small private federation; compare what the aggregator has of a platform with that platform's ledger."""
    platforms = audit_platforms()
    scenario = audit_scenario(epsilon)
    with audit_folder() as folder:
        agents = make_agents(platforms, scenario, folder / "platforms", {})
        watched = _Watched(agents[0], scenario.plan)
        strategy = FederatedFactorization(scenario.plan, CheckpointStore(folder / "aggregator"), run_id="audit")
        strategy.train(inline_grid([watched, *agents[1:]]))
        outbox: Outbox = agents[0].__dict__["_outbox"]
        return compare_bookkeeping(outbox, watched.received)


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
