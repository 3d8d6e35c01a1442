"""Ledger and egress journal for people and programs: what ``crossfed-client privacy`` and ``egress`` print.

Each function reads a platform's private folder and returns a dict of JSON values or a rich renderable; none of them
changes anything that was spent, and none makes a ledger where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from client.privacy.card import PlatformSpend, card_content, card_text
from client.privacy.journal import EgressJournal
from client.privacy.ledger import BudgetLedger
from client.privacy.outbox import witnesses
from client.privacy.passport_card import passport_section
from client.privacy.secure_sum.state import forget_secure_sums
from client.privacy.spend import RunSpend, Spend
from common.config.federation import FederationPlan
from common.deploy.console import PlainTable, styled
from common.deploy.roles import PlatformConfig
from common.errors import EgressRefusedError
from common.privacy.gdp import epsilon_from_mu
from common.privacy.lifetime import Amounts, BudgetPolicy, run_cost
from common.sealed.log import Entry
from common.sealed.witness import HeadWitness
from common.visible import visible

STORE_FOLDER = "store"
"""Beside the books: the model store, which keeps their heads too."""


def privacy_dict(directory: Path, plan: FederationPlan | None = None) -> dict[str, Any]:
    """``privacy --json``: budget, spend per run and release, what is left (:class:`~client.privacy.spend.Spend`).

    Args:
        directory: the platform's private folder.
        plan: whose runs are counted that are left; those like the newest unless given.
    """
    return _ledger(directory).spend(_cost(plan)).to_dict()


def privacy_report(directory: Path, plan: FederationPlan | None = None) -> RenderableType:
    """``privacy``: the same for people."""
    spend = _ledger(directory).spend(_cost(plan))
    parts: list[RenderableType] = [_summary(spend)]
    if spend.runs:
        parts += [_runs_table(spend), _charges_table(spend)]
    return Group(*parts)


def verify_logs(
    directory: Path,
    *,
    ledger_witnesses: Sequence[HeadWitness] = (),
    journal_witnesses: Sequence[HeadWitness] = (),
) -> dict[str, Any]:
    """``privacy verify``, ``egress verify``: check both chains, the kept heads, receipts and kept bytes.

    The heads that the model store in ``directory`` keeps are asked in any case: old copies of ledger and journal put back
    together with their own heads are whole chains, and show against these alone.

    Raises:
        LedgerError: names the first bad entry.
    """
    ledger = _ledger(directory, ledger_witnesses)
    journal = _journal(directory, ledger, journal_witnesses)
    head = ledger.head()
    return {
        "ledger_entries": ledger.verify(),
        "journal_entries": journal.verify(),
        "head": {"sequence": head.sequence, "mac": head.mac},
    }


def verify_table(checked: Mapping[str, Any]) -> RenderableType:
    """``privacy verify`` for people: what :func:`verify_logs` has found sound."""
    title = "Verified: every entry is as it was written, and both logs lead on from their kept heads"
    table = PlainTable("log", "entries", "newest entry", "its MAC", title=title, lined=True)
    head = checked["head"]
    table.add_row("ledger (ledger.db)", str(checked["ledger_entries"]), str(head["sequence"]), head["mac"])
    table.add_row("egress journal (egress.db)", str(checked["journal_entries"]), "", "")
    if checked.get("lost_mu"):
        return Group(table, styled(f"μ = {checked['lost_mu']:.4g} in entries that were lost counts as spent"))
    return table


def restore_logs(
    directory: Path,
    policy: BudgetPolicy | None = None,
    *,
    ledger_witnesses: Sequence[HeadWitness] = (),
    journal_witnesses: Sequence[HeadWitness] = (),
) -> dict[str, Any]:
    """``privacy restore``: go on with old copies of ledger and journal; lost entries count as spent.

    What the heads in the model store say was spent counts too, as in :func:`verify_logs`. Runs of before do not go on, so
    that the place in their secure sums is given up. The lifetime budget is ``policy``,
    or else the one that the old ledger has recorded.

    Raises:
        LedgerError: a copy was edited, or is of another platform; or there is neither a ledger nor a ``policy``.
    """
    kept = _store_witnesses(directory)
    forget_secure_sums(directory)
    ledger = BudgetLedger.restore(directory, policy, witnesses=[*kept[:1], *ledger_witnesses])
    EgressJournal.restore(directory, ledger, witnesses=[*kept[1:], *journal_witnesses])
    checked = verify_logs(directory, ledger_witnesses=ledger_witnesses, journal_witnesses=journal_witnesses)
    return {**checked, "lost_mu": ledger.spend().lost_mu}


def close_run(directory: Path, run_id: str) -> None:
    """``privacy close``: give a run up, so that what it had reserved and not used is free again.

    Raises:
        PrivacyError: the ledger knows no such run.
    """
    _ledger(directory).close(run_id)


def platform_card(config: PlatformConfig) -> str:
    """``privacy card``: the privacy card of one deployed platform, from its plan and its books.

    Raises:
        LedgerError: there are no books, or they were tampered with.
    """
    ledger = _ledger(config.state)
    entries = [dict(entry.content) for entry in _journal(config.state, ledger).entries()]
    spend = PlatformSpend.of(ledger.spend(), entries)
    text = card_text(config.plan, card_content(config.plan, {config.name: spend}))
    return text + passport_section(config.passport)


def egress_dicts(directory: Path) -> list[dict[str, Any]]:
    """``egress log --json``: one dict an entry, oldest first; ``epsilon`` is what a message alone costs at the ledger's δ."""
    ledger = _ledger(directory)
    delta = ledger.spend().policy.delta
    return [_egress_dict(entry, delta) for entry in _journal(directory, ledger).entries()]


def egress_table(directory: Path) -> RenderableType:
    """``egress log``: one row for each message that left."""
    table = _table(
        "What left this platform (ε: of this message alone; ε's do not add up, `crossfed-client privacy` has the sum)",
        left=("time", "what"),
        right=("bytes", "noise z", "ε", "receipt"),
    )
    for entry in egress_dicts(directory):
        if entry["event"] in ("sent", "replied"):
            table.add_row(*_egress_row(entry))
    return table


def egress_entry(directory: Path, number: int) -> dict[str, Any]:
    """``egress show N``: one entry in full.

    Raises:
        EgressRefusedError: there is no such entry.
    """
    for entry in egress_dicts(directory):
        if entry["number"] == number:
            return entry
    raise EgressRefusedError(f"the egress journal has no entry {number}; `crossfed-client egress log` lists them")


def egress_entry_table(directory: Path, number: int) -> RenderableType:
    """``egress show N`` for people. Raises EgressRefusedError: there is no such entry."""
    table = PlainTable("", "", show_header=False, title=f"Entry {number} of the egress journal")
    for name, value in egress_entry(directory, number).items():
        table.add_row(name, styled(_plain(value)))
    return table


def _summary(spend: Spend) -> RenderableType:
    policy, left = spend.policy, spend.left
    if spend.epsilon is None:
        spent = "without bound: data was released without noise; no privacy guarantee holds for it"
    else:
        spent = f"ε = {spend.epsilon:.4g} at δ = {policy.delta:.3g}"
    lines = [
        f"Lifetime budget   {_limit(policy.epsilon)} at δ = {policy.delta:.3g}, one user's whole history, add/remove",
        f"Spent so far      {spent}",
    ]
    if left.runs is not None:
        lines.append(f"Runs left         {left.runs}")
    if left.epsilon is not None:
        lines.append(f"Left              ε = {left.epsilon:.4g} for one more run with full participation")
    if policy.subsampled_share > 0 and left.subsampled_epsilon is not None:
        lines.append(f"                  ε = {left.subsampled_epsilon:.4g} for further subsampled runs")
    if spend.lost_mu > 0:
        lines.append(f"Counted as spent  μ = {spend.lost_mu:.4g} in entries that a restore could not bring back")
    lines += [_reservation(run) for run in spend.runs if run.holds]
    lines.append("ε's do not add up: releases compose as Σ 1/z², and ε is read off the sum.")
    return styled("\n".join(lines) + "\n", style="bold red" if spend.epsilon is None else "")


def _reservation(run: RunSpend) -> str:
    """Return what an open run holds back, and how it comes free."""
    if not run.charges:
        return f"Run {run.run_id} has joined and released nothing: what it reserved goes to the next run that joins."
    return (
        f"Run {run.run_id} holds a reservation for releases that it has not made; if it will not go on: crossfed-client "
        f"privacy close {run.run_id}"
    )


def _cost(plan: FederationPlan | None) -> Amounts | None:
    return run_cost(plan) if plan is not None and plan.private else None


def _store_witnesses(directory: Path) -> tuple[HeadWitness, ...]:
    """Where the model store keeps the heads of ledger and journal; none without a store."""
    store = directory / STORE_FOLDER
    return witnesses(store) if store.is_dir() else ()


def _ledger(directory: Path, further: Sequence[HeadWitness] = ()) -> BudgetLedger:
    return BudgetLedger.open(directory, witnesses=[*_store_witnesses(directory)[:1], *further])


def _journal(directory: Path, ledger: BudgetLedger, further: Sequence[HeadWitness] = ()) -> EgressJournal:
    return EgressJournal(directory, ledger, witnesses=[*_store_witnesses(directory)[1:], *further])


def _table(title: str, *, left: Sequence[str], right: Sequence[str]) -> PlainTable:
    """Numbered rows; what does not fit a narrow terminal is folded, never cut: nothing may be missing from a record."""
    table = PlainTable(title=title, lined=True, padding=(0, 1, 0, 0))
    for column in ("#", *left, *right):
        table.add_column(column, justify="left" if column in left else "right")
    return table


def _runs_table(spend: Spend) -> PlainTable:
    planned = ("ε planned for", "ε spent", "δ", "μ spent", "μ planned", "releases")
    table = _table("Runs", left=("run", "state"), right=planned)
    for number, run in enumerate(spend.runs, start=1):
        table.add_row(str(number), *_run_row(run))
    return table


def _run_row(run: RunSpend) -> tuple[str, ...]:
    return (
        run.run_id,
        "given back" if run.returned else "closed" if run.closed else "open" if run.charges else "joined",
        _limit(run.epsilon_budget),
        "∞" if run.epsilon is None else f"{run.epsilon:.4g}",
        f"{run.delta:.3g}",
        f"{run.mu:.4g}",
        f"{run.mu_planned:.4g}",
        str(sum(len(charge.releases) for charge in run.charges)),
    )


def _charges_table(spend: Spend) -> PlainTable:
    table = _table(
        "Releases", left=("time", "run", "round", "release", "mechanism"), right=("noise z", "rate", "steps")
    )
    for run in spend.runs:
        for charge in run.charges:
            for release in charge.releases:
                table.add_row(
                    str(charge.sequence),
                    _short(charge.time),
                    run.run_id,
                    str(charge.server_round),
                    release.kind,
                    release.mechanism,
                    f"{release.noise_multiplier:.4g}",
                    f"{release.sampling_rate:.4g}",
                    str(release.steps),
                )
    return table


def _egress_dict(entry: Entry, delta: float) -> dict[str, Any]:
    return {"number": entry.sequence, **entry.content, **_epsilon_alone(entry.content, delta), "mac": entry.mac}


def _epsilon_alone(content: Mapping[str, Any], delta: float) -> dict[str, float | None]:
    """Return what a contribution costs by itself; nothing where the ledger's own sum alone can tell (sampled users)."""
    mechanisms = {release["mechanism"] for release in content.get("releases", ())}
    if mechanisms == {"gaussian"}:
        return {"epsilon": epsilon_from_mu(content["mu"], delta)}
    return {"epsilon": None} if mechanisms else {}


def _egress_row(entry: Mapping[str, Any]) -> tuple[RenderableType, ...]:
    arrays = [visible(f"  {name} {dtype}{shape}") for name, dtype, shape in entry["arrays"]]
    code = f" ({entry['code']})" if "code" in entry else ""
    of_run = f", round {entry['round']} of run {entry['run_id']}" if "run_id" in entry else ""
    releases = entry.get("releases", ())
    return (
        str(entry["number"]),
        _short(entry["time"]),
        styled("\n".join([visible(entry["kind"] + code + of_run), *arrays])),
        f"{entry['bytes']:,}",
        styled("\n".join("none" if r["mechanism"] == "none" else f"{r['noise_multiplier']:.4g}" for r in releases)),
        _epsilon_cell(entry),
        str(entry["receipt"]["sequence"]) if "receipt" in entry else "",
    )


def _epsilon_cell(entry: Mapping[str, Any]) -> str:
    if "epsilon" not in entry:
        return ""
    if entry["epsilon"] is not None:
        return f"{entry['epsilon']:.3g}"
    return "sampled" if entry["private"] else "∞"


def _short(time: str) -> str:
    """``2026-11-24T13:59:14+00:00`` as ``11-24 13:59``: entries are numbered, and ``--json`` has the whole of it."""
    return time[5:16].replace("T", " ")


def _limit(epsilon: float | None) -> str:
    return "no limit" if epsilon is None else f"ε = {epsilon:.4g}"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_plain(part)}" for name, part in value.items())
    return (
        "\n".join(map(_plain, value))
        if isinstance(value, list) and value and isinstance(value[0], dict)
        else visible(str(value))
    )
