"""Offers an officer's commands of ``crossfed-client privacy``: draft documents, and ε over several federations."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from client.officer.documents import dpia_text, record_text
from client.officer.facts import facts_of
from client.officer.together import Together, spend_together
from common.config.loader import load_yaml_model
from common.deploy.console import PlainConsole, PlainTable, say, say_json
from common.deploy.roles import PlatformConfig

Config = Annotated[Path, typer.Option("--config", "-c", help="platform.yaml", dir_okay=False, exists=True)]


def add_commands(books: typer.Typer) -> None:
    """Put these commands into ``crossfed-client privacy``."""
    for command in (dpia, record):
        books.command()(command)
    books.command("sum")(add_up)


def dpia(config: Config) -> None:
    """Print a draft data protection impact assessment (GDPR, Article 35), in Markdown; a person completes it.

    Example: crossfed-client privacy dpia -c cinema/platform.yaml > dpia.md
    """
    say(dpia_text(facts_of(load_yaml_model(config, PlatformConfig))))


def record(config: Config) -> None:
    """Print a draft record of processing activities (GDPR, Article 30), in Markdown; a person completes it.

    Example: crossfed-client privacy record -c cinema/platform.yaml > record.md
    """
    say(record_text(facts_of(load_yaml_model(config, PlatformConfig))))


def add_up(
    configs: Annotated[
        list[Path],
        typer.Option("--config", "-c", help="platform.yaml of each federation.", dir_okay=False, exists=True),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Add up what several federations of this platform have spent of the same persons' privacy.

    Example: crossfed-client privacy sum -c films/platform.yaml -c books/platform.yaml
    """
    found = spend_together([load_yaml_model(path, PlatformConfig) for path in configs])
    if as_json:
        say_json(asdict(found))
    else:
        _show(found)


def _show(found: Together) -> None:
    table = PlainTable("federation")
    for heading in ("ε spent", "at δ"):
        table.add_column(heading, justify="right")
    for name, epsilon, delta in zip(found.federations, found.spent, found.deltas, strict=True):
        table.add_row(name, _plain(epsilon), f"{delta:.3g}")
    table.add_row("together", _plain(found.epsilon), f"{found.delta:.3g}", style="bold")
    PlainConsole().print(table)
    say(
        f"full participation composes: μ = {found.mu:.4g} (μ² adds up); the ε's added would be {_plain(found.simple_sum)}"
    )
    if found.subsampled_epsilon:
        say(f"sampled users (deep models): their ε's are simply added, {found.subsampled_epsilon:.4g} of the above")
    limit = "there is no limit" if found.most is None else f"ε {found.most:.4g} at most"
    say(f"once every lifetime budget is used up: {limit}")


def _plain(epsilon: float | None) -> str:
    return "without bound" if epsilon is None else f"{epsilon:.4g}"
