"""``crossfed-client items``: what an operator decides about single items."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from client.batch.coverage import before_and_after
from client.steering.hidden import HiddenItems, checked_keys
from common.config.loader import load_yaml_model
from common.deploy.console import PlainConsole, PlainTable, say, say_json
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError
from common.sealed.admin import ADMIN_LOG, AdminLog

items = typer.Typer(
    no_args_is_help=True, help="Hide single items from every list, and show them again; docs/steering.md."
)
Keys = Annotated[list[str], typer.Argument(metavar="KEY...", help="Keys of items, as lists show them.")]
Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="platform.yaml, or give --store.", dir_okay=False, exists=True)
]
Store = Annotated[
    Path | None, typer.Option(help="A model store, for instance of a simulation.", file_okay=False, exists=True)
]


@items.command()
def hide(
    keys: Keys,
    config: Config = None,
    store: Store = None,
    reason: Annotated[str, typer.Option(help="For whoever asks later; never of a person.")] = "",
) -> None:
    """Hide items, own ones or other platforms': no list holds them once this command has ended, nor after a restart.

    The next run does not share an own item that is hidden, so that the other platforms no longer show it either.

    Example: crossfed-client items hide imdb:0114709 --config cinema/platform.yaml --reason "recalled"
    """
    hidden = _hidden(config, store)
    _write_down("items hide", checked_keys(keys), config, store)
    hidden.hide(keys, reason)
    say(f"hidden: {', '.join(keys)}")


@items.command()
def show(keys: Keys, config: Config = None, store: Store = None) -> None:
    """List hidden items again, at once; the next run shares them again.

    Example: crossfed-client items show imdb:0114709 --config cinema/platform.yaml
    """
    hidden = _hidden(config, store)
    _write_down("items show", checked_keys(keys), config, store)
    missing = hidden.show(keys)
    if missing:
        say(f"were not hidden: {', '.join(missing)}")
    if len(missing) < len(keys):
        say(f"shown again: {', '.join(key for key in keys if key not in missing)}")


@items.command("list")
def list_hidden(
    config: Config = None,
    store: Store = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show what is hidden, since when, and why.

    Example: crossfed-client items list --store out/quickstart/platforms/cinema/store
    """
    found = _hidden(config, store).all()
    if as_json:
        say_json({key: asdict(one) for key, one in found.items()})
        return
    table = PlainTable("item", "hidden since", "reason")
    for key, one in sorted(found.items()):
        table.add_row(key, datetime.fromtimestamp(one.since, UTC).isoformat(sep=" ", timespec="minutes"), one.reason)
    PlainConsole().print(table if found else "nothing is hidden")


@items.command()
def coverage(
    config: Annotated[Path, typer.Option("--config", "-c", help="platform.yaml", dir_okay=False, exists=True)],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Length of the lists.")] = 10,
    users: Annotated[int, typer.Option(min=1, help="How many users' lists are looked at.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show what steering does to the platform's lists as a whole: by score alone, and as they are steered.

    Example: crossfed-client items coverage --config cinema/platform.yaml
    """
    platform = load_yaml_model(config, PlatformConfig)
    before, after = before_and_after(platform.state / "store", platform.steering, k, "all", users=users)
    if as_json:
        say_json({"before": asdict(before), "after": asdict(after)})
        return
    table = PlainTable("of the lists", "by score", "as steered")
    for name, meaning in _SPREAD.items():
        table.add_row(meaning, *(f"{getattr(one, name):,.3g}" for one in (before, after)))
    PlainConsole().print(table)


_SPREAD = {
    "lists": "number",
    "coverage": "share of all items that is in any",
    "gini": "inequality of exposure (Gini, 0 to 1)",
    "novelty": "novelty, bits",
    "foreign_share": "share of items that only others have",
    "most_shown": "share that hold the most shown item",
}


def _hidden(config: Path | None, store: Path | None) -> HiddenItems:
    if (config is None) == (store is None):
        raise ConfigError("--config, --store: give one of them")
    return HiddenItems(
        load_yaml_model(config, PlatformConfig).state / "store" if config is not None else store or Path()
    )


def _write_down(act: str, keys: list[str], config: Path | None, store: Path | None) -> None:
    """Put the order, without its reason, into the administrators' log; a simulation's store has none beside it."""
    if config is not None:
        state = load_yaml_model(config, PlatformConfig).state
    elif store is not None and (store.parent / ADMIN_LOG).exists():
        state = store.parent
    else:
        return
    AdminLog(state).record(act, items=" ".join(keys))
