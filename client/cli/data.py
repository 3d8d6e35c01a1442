"""``crossfed-client data``: a platform's data as its training reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.config.loader import load_yaml_model
from common.deploy.console import PlainConsole, say
from common.deploy.roles import PlatformConfig

data = typer.Typer(no_args_is_help=True, help="A platform's data as its training reads them; docs/scale.md.")


@data.command()
def partition(
    config: Annotated[Path, typer.Option("--config", "-c", help="platform.yaml.", dir_okay=False, exists=True)],
    shards: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="How many; unless given, one for two million rows, at least 16."),
    ] = None,
) -> None:
    """Clean the data and divide the users into shards, for training on a Ray cluster (training.engine: ray).

    Memory holds one shard. The shards before stay until the new ones are whole; run this again, then reload the agent, when
    the files, the items file or the settings of data have changed, and to learn recorded feedback.

    Example: crossfed-client data partition --config cinema/platform.yaml
    """
    from client.deploy.partition import partition_users

    settings = load_yaml_model(config, PlatformConfig)
    with PlainConsole(stderr=True).stages() as tell:
        users, report = partition_users(settings, shards, tell)
    say(report.render())
    say(f"{users.folder}: {len(users.shards):,} shards, {users.n_users:,} users, {users.n_interactions:,} interactions")
