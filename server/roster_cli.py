"""The commands of ``crossfed-server`` by which all parties agree at once: roster, plan, rehearse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.agreement.rehearsal import print_steps
from common.config.loader import load_yaml_model
from common.deploy.console import say
from common.deploy.provisioning import lifetime_note
from common.deploy.roles import AggregatorConfig
from common.sealed.admin import AdminLog
from server.deploy.roster import make_roster, set_plan, steps_left

Config = Annotated[Path, typer.Option("--config", "-c", help="federation.yaml", dir_okay=False, exists=True)]
plan = typer.Typer(no_args_is_help=True, help="What all parties agree on.")


def add_commands(app: typer.Typer) -> None:
    """Put these commands into ``crossfed-server``."""
    for command in (roster, rehearse):
        app.command()(command)
    app.add_typer(plan, name="plan")


def roster(
    config: Config,
    registrations: Annotated[
        list[Path] | None, typer.Argument(help="NAME.registration.json, from the platforms; those admitted are in it.")
    ] = None,
) -> None:
    """Put all platforms and the plan into one file, whose one fingerprint all of them compare.

    Example: crossfed-server roster cinema.registration.json club.registration.json --config fed/federation.yaml
    """
    made, path = make_roster(config, registrations or [])
    say(f"{path}: send it to {', '.join(made.names)}; all of them, and you, meet in one conversation and compare:")
    say(made.fingerprint)
    say(
        f"then {made.keeper} runs crossfed-client sign {path.name}, and sends {made.plan.federation}.secrets to the others,"
    )
    say(
        f"who run crossfed-client sign {path.name} --secrets {made.plan.federation}.secrets; you: crossfed-server admit {path}"
    )


@plan.command("set")
def plan_set(
    settings: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="For instance privacy.epsilon=1")],
    config: Config,
) -> None:
    """Change the plan for all: in federation.yaml, the invitation and a new roster, which all platforms sign again.

    Example: crossfed-server plan set privacy.epsilon=1 --config fed/federation.yaml
    """
    AdminLog(load_yaml_model(config, AggregatorConfig).state).record("plan set", settings=" ".join(settings))
    changed, changes = set_plan(config, settings)
    for line in changes or ["nothing has changed"]:
        say(line)
    if changed.private:
        say(f"plan.privacy: {lifetime_note(changed)}")
    say(
        "next: crossfed-server roster, with the registrations of new platforms; until all have signed it, they refuse runs"
    )


def rehearse(config: Config) -> None:
    """Say what is still missing before a run can begin, and who must do it; exit status 1 if something is.

    Example: crossfed-server rehearse --config fed/federation.yaml
    """
    raise typer.Exit(print_steps(steps_left(config)))
