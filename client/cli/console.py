"""``crossfed-client console``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer


def console(
    config: Annotated[Path, typer.Option("--config", "-c", help="platform.yaml", dir_okay=False, exists=True)],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On loopback; 0 takes a free one.")] = 0,
) -> None:
    """Show the platform in a browser on this machine: health, models, budget, what left, data, a user's list.

    It listens on loopback alone and asks for the token that it prints. It reads the platform's files, so it runs as the
    platform's own user, beside a running crossfed-client start or without one.

    Example: crossfed-client console --config cinema/platform.yaml
    """
    from client.console.places import platform_console
    from common.deploy.logs import set_up_simple_logs
    from common.web.console.serving import serve_console

    set_up_simple_logs(logging.WARNING)
    serve_console(lambda bound: platform_console(config, bound), port)
