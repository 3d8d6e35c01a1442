"""``crossfed-client models``: versions of a platform's model, and experiments between two of them."""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from client.data.recorded import EventRules
from client.personalization.platform_model import ranked_by
from client.personalization.store import PlatformStore
from client.recommend.feedback_file import FEEDBACK_LOG, read_events
from client.versions.experiment import Experiment, Kind
from client.versions.outcomes import outcomes, read_shown
from common.config.loader import load_yaml_model
from common.deploy.console import PlainConsole, PlainTable, say, say_json
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError
from common.sealed.admin import AdminLog

models = typer.Typer(
    no_args_is_help=True, help="Versions of the model: list, go back, split users or shadow, see what came of it."
)
Config = Annotated[Path, typer.Option("--config", "-c", help="platform.yaml", dir_okay=False, exists=True)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Number = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Its number, as list shows it.")]


@models.command("list")
def list_models(config: Config, as_json: AsJson = False) -> None:
    """Show the versions that are there, which serves, and which is compared with it.

    Example: crossfed-client models list --config cinema/platform.yaml
    """
    store = _store(load_yaml_model(config, PlatformConfig))
    serving, compared = store.current(), store.experiments.current()
    rows = []
    for version in store.versions():
        role = "serves" if version == serving else ""
        if compared is not None and compared.version == version:
            role = f"{role} {compared.kind} {compared.share:g}".strip()
        rows.append({"version": version, "role": role, **store.told(version)})
    if as_json:
        say_json(rows)
        return
    table = PlainTable("version", "", "written", "round", "own items by", "others' items by")
    for row in rows:
        written = datetime.fromtimestamp(row["written"], UTC).isoformat(sep=" ", timespec="minutes")
        table.add_row(
            str(row["version"]), row["role"], written, str(row["server_round"]), _own(row), _cross(row["cross"])
        )
    console = PlainConsole()
    console.print(table)
    if any(row["cross"] for row in rows):
        console.print("others' items: chosen on own items, hidden for it; blend - popularity", style="dim")


def _own(row: dict[str, Any]) -> str:
    """The verdict, and whether a model of it weighs a user's latest interactions more."""
    latest = any(name in row["recency"] for name in ranked_by(row["verdict"]))
    return f"{row['verdict']}, latest weigh more" if latest else str(row["verdict"])


def _cross(chosen: dict[str, Any] | None) -> str:
    """The choice and its interval; with too little in common with others the configured weights rank."""
    if chosen is None:
        return "configured weights"
    low, high = chosen["interval"]
    return f"{chosen['name']}: {chosen['metric']} {low:+.3f} to {high:+.3f}"


@models.command()
def rollback(version: Number, config: Config) -> None:
    """Serve an earlier version, or a later one again, until the next is trained; a running service follows in a second.

    Example: crossfed-client models rollback 3 --config cinema/platform.yaml
    """
    platform = load_yaml_model(config, PlatformConfig)
    AdminLog(platform.state).record("models rollback", version=str(version))
    _store(platform).serve(version)
    say(f"version {version} serves")


@models.command()
def split(
    version: Number,
    config: Config,
    share: Annotated[float, typer.Option(help="Share of the users who are shown it, above 0 and below 1.")] = 0.5,
) -> None:
    """Show a version to a share of the users, chosen by a keyed hash of their ids; all others see what serves.

    Example: crossfed-client models split 4 --share 0.2 --config cinema/platform.yaml
    """
    _begin(config, "split", version, share)


@models.command()
def shadow(version: Number, config: Config) -> None:
    """Let a version make every list, too, which nobody is shown; crossfed_shadow_overlap says how much both have in common.

    Example: crossfed-client models shadow 4 --config cinema/platform.yaml
    """
    _begin(config, "shadow", version, 1.0)


@models.command("outcomes")
def show_outcomes(config: Config, as_json: AsJson = False) -> None:
    """Show how many users of each variant had an event after their first list, with intervals of 95 %.

    Decide beforehand when to look: whoever ends an experiment as soon as an interval excludes 0 errs more often than 5 %.

    Example: crossfed-client models outcomes --config cinema/platform.yaml
    """
    platform = load_yaml_model(config, PlatformConfig)
    experiment = _store(platform).experiments.current()
    if experiment is None:
        raise ConfigError("no experiment is going on; begin one with crossfed-client models split")
    content = _outcomes(platform, experiment)
    if as_json:
        say_json(content)
    else:
        PlainConsole().print(_table(content))


@models.command()
def end(config: Config) -> None:
    """End the experiment: everybody is shown what serves, and who was shown what is forgotten. Prints what came of it first.

    Example: crossfed-client models end --config cinema/platform.yaml
    """
    platform = load_yaml_model(config, PlatformConfig)
    store = _store(platform)
    experiment = store.experiments.current()
    if experiment is not None and experiment.kind == "split":
        PlainConsole().print(_table(_outcomes(platform, experiment)))
    # A damaged one is none that can be shown, and is ended as any other.
    if store.experiments.stamp():
        AdminLog(platform.state).record("models end")
    say("the experiment has ended" if store.experiments.end() else "no experiment is going on")


def _begin(config: Path, kind: Kind, version: int, share: float) -> None:
    platform = load_yaml_model(config, PlatformConfig)
    store = _store(platform)
    store.load(version)
    if version == store.current():
        raise ConfigError(f"version {version} serves already; name another, or roll back first")
    AdminLog(platform.state).record(f"models {kind}", version=str(version), share=f"{share:g}")
    store.experiments.begin(kind, version, share)
    said = f"{share:.0%} of the users are shown" if kind == "split" else "every list is also made by"
    say(f"{said} version {version} beside version {store.current()}; a running service follows in a second")


def _store(platform: PlatformConfig) -> PlatformStore:
    return PlatformStore(platform.state / "store", keep=platform.serving.keep_versions)


def _outcomes(platform: PlatformConfig, experiment: Experiment) -> dict[str, Any]:
    store = _store(platform)
    log, events = store.root / FEEDBACK_LOG, list[tuple[str, int]]()
    if log.exists():
        recorded = read_events(log, EventRules.of(platform.data))
        events = list(zip(recorded.user_ids, recorded.times.tolist(), strict=True))
    found, difference = outcomes(experiment, read_shown(store.experiments.shown_path), events)
    versions = {"current": store.current(), "challenger": experiment.version}
    return {
        "since": experiment.since,
        "variants": [asdict(one) | {"version": versions[one.variant]} for one in found.values()],
        "difference": asdict(difference),
    }


def _table(content: dict[str, Any]) -> PlainTable:
    since = datetime.fromtimestamp(content["since"], UTC).isoformat(sep=" ", timespec="minutes")
    table = PlainTable("variant", "version", "users", "acted", "events", "rate", "95 %", title=f"Since {since}")
    for one in content["variants"]:
        low, high = one["interval"]
        rate = "" if math.isnan(one["rate"]) else f"{one['rate']:.3f}"
        counts = (str(one["version"]), f"{one['users']:,}", f"{one['acted']:,}", f"{one['events']:,}")
        table.add_row(one["variant"], *counts, rate, f"{low:.3f} to {high:.3f}")
    difference = content["difference"]
    if not math.isnan(difference["value"]):
        low, high = difference["interval"]
        table.add_row(
            "challenger - current", "", "", "", "", f"{difference['value']:+.3f}", f"{low:+.3f} to {high:+.3f}"
        )
    return table
