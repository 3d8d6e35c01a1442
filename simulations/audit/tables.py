"""The audit for people: tables, and what is flagged."""

from __future__ import annotations

from rich.console import Group, RenderableType

from common.deploy.console import PlainTable, styled
from simulations.audit.command import AuditReport
from simulations.audit.membership import MembershipReport
from simulations.audit.passport import PassportReport
from simulations.audit.path.whole import PathReport
from simulations.audit.statistics.checks import FALSE_ALARM


def report_tables(report: AuditReport) -> Group:
    """The audit for people."""
    parts: list[RenderableType] = [_canary_table(report)]
    if report.path is not None:
        parts.append(_path_table(report.path))
    if report.membership is not None:
        parts.append(membership_table(report.membership))
    if report.passport is not None:
        parts.append(passport_table(report.passport))
    books, by_chance = report.books, sum(check.p_value is not None for check in report.checks)
    parts.append(styled(f"Books: {books.received} contributions left, {books.charged} charged"))
    parts.append(
        styled(
            f"Checks: {len(report.checks) - by_chance} exact, {by_chance} statistical; all together flag sound code in "
            f"{FALSE_ALARM:.2%} of audits at most"
        )
    )
    if report.flags:
        parts += [styled(f"FLAG: {flag}", "bold red") for flag in report.flags]
    else:
        parts.append(styled("Nothing to flag.", "green"))
    return Group(*parts)


def _canary_table(report: AuditReport) -> PlainTable:
    title = "Canary test: one person more or less" + (f", fault: {report.fault}" if report.fault else "")
    table = PlainTable(title=title, lined=True, padding=(0, 1, 0, 0))
    table.add_column("")
    for heading in ("ε claimed", "δ", "ε̂", "99 % lower bound", "runs", "noise test p", "rounds correlate"):
        table.add_column(heading, justify="right")
    for name, canary in (("factors, item-item", report.canary), ("deep updates", report.deep)):
        if canary is not None:
            table.add_row(
                name,
                f"{canary.epsilon_claimed:g}",
                f"{canary.delta:g}",
                f"{canary.epsilon_hat:.3f}",
                f"{canary.epsilon_lower:.3f}",
                f"2×{canary.runs:,}",
                f"{canary.ks_pvalue:.3g}",
                f"{canary.round_correlation:.1f} σ",
            )
    return table


def _path_table(report: PathReport) -> PlainTable:
    """Return what one person took of the sensitivity that was paid for, and how the exact checks went."""
    table = PlainTable(
        title="From files to bytes: what one person changes",
        caption=f"Persons: {', '.join(report.persons)}. 1 is the sensitivity that was paid for.",
        caption_justify="left",
        lined=True,
        padding=(0, 1, 0, 0),
    )
    for name in report.taken:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*(f"{share:.4f}" for share in report.taken.values()))
    return table


def passport_table(report: PassportReport) -> PlainTable:
    """Return what ten guesses from a passport find of the history, beside popularity's."""
    table = PlainTable(
        title=f"Histories guessed from passports: ten items of each of {report.attacked:,} people",
        caption=(
            f"The attacker knows histories and contents of {report.known:,} others, more than any receiving platform does. "
            "Only a profile can carry noise; a passport with ε holds nothing else."
        ),
        caption_justify="left",
        lined=True,
    )
    for heading in ("content", "numbers", "ε", "precision", "recall"):
        table.add_column(heading, justify="left" if heading == "content" else "right")
    for one in (report.popularity, *report.guessed):
        numbers = f"{one.numbers}" if one.numbers else "-"
        epsilon = "-" if one.epsilon is None else f"{one.epsilon:g}"
        table.add_row(one.kind, numbers, epsilon, f"{one.precision:.3f}", f"{one.recall:.3f}")
    return table


def membership_table(report: MembershipReport) -> PlainTable:
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
