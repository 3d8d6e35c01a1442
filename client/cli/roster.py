"""The commands of ``crossfed-client`` by which a platform agrees with all others at once, and sees what is still missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.deploy.rehearsal import steps_left
from client.deploy.sign import look_at_roster, sign_roster
from common.agreement.rehearsal import print_steps
from common.config.loader import load_yaml_model
from common.deploy.console import say
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError
from common.sealed.admin import AdminLog, show_acts

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Config = Annotated[Path, typer.Option("--config", "-c", help="platform.yaml", dir_okay=False, exists=True)]


def add_commands(app: typer.Typer) -> None:
    """Put these commands into ``crossfed-client``."""
    for command in (sign, rehearse):
        app.command()(command)
    app.command("admin-log")(admin_log)


def sign(
    roster: Annotated[
        Path, typer.Argument(help="FEDERATION.roster, from the aggregator.", exists=True, dir_okay=False)
    ],
    config: Config,
    fingerprint: Annotated[
        str | None, typer.Option(help="As all others read it out to you; shown, compared and asked for unless given.")
    ] = None,
    secrets: Annotated[
        Path | None,
        typer.Option(help="FEDERATION.secrets, from the roster's first platform.", exists=True, dir_okay=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the first platform puts the secrets.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to a plan that has changed without being asked.")] = False,
) -> None:
    """Trust a roster, once all platforms in it have compared its fingerprint: pins, plan and federation secret in one step.

    Be in one conversation with the operators of all other platforms, by a way that the aggregator does not control. The
    fingerprint is shown only if your own keys are in the roster.

    Example: crossfed-client sign films.roster -c cinema/platform.yaml

    Or: crossfed-client sign films.roster -c club/platform.yaml --secrets films.secrets
    """
    view = look_at_roster(roster, config)
    say(f"your own keys are in it. With {', '.join(view.others) or 'nobody'}, all of whom you must hear, compare:")
    say(view.roster.fingerprint)
    for line in view.changes:
        say(f"you agree to: {line}")
    if view.changes and not yes and not typer.confirm("agree to these changes of the plan"):
        raise ConfigError("the plan was not agreed to; nothing is signed")
    heard = fingerprint or typer.prompt("fingerprint, as the others read it out")
    view.roster.compare(heard)
    AdminLog(view.config.state).record("sign", fingerprint=view.roster.fingerprint, plan="; ".join(view.changes))
    done = sign_roster(view, heard, secrets=secrets, output=output)
    say(f"signed: {', '.join(done.pinned)} are pinned; restart to use it")
    for name in done.unpinned:
        say(f"{name} is pinned no more: it is not in the roster")
    if done.secrets is not None:
        say(
            f"{done.secrets}: send it to {', '.join(view.others)}, by any way; there: crossfed-client sign … --secrets FILE"
        )
    elif not done.has_secret:
        say(f"the federation secret is missing: when {view.roster.keeper} has signed, sign again with --secrets FILE")


def admin_log(config: Config, as_json: AsJson = False) -> None:
    """Show who signed, pinned, started, changed what is served or acted for persons.

    Checks that no entry was edited or removed.

    Example: crossfed-client admin-log -c cinema/platform.yaml
    """
    show_acts(load_yaml_model(config, PlatformConfig).state, as_json=as_json)


def rehearse(config: Config) -> None:
    """Say what is still missing before this platform can take part, and who must do it; exit status 1 if something is.

    Example: crossfed-client rehearse -c cinema/platform.yaml
    """
    raise typer.Exit(print_steps(steps_left(config)))
