"""``crossfed-client serve``: a model store served on this machine, without a federation around it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from common.config.serving import HttpConfig, ServingConfig
from common.deploy.console import say
from common.deploy.signals import SignalQueue

Port = Annotated[int, typer.Option(min=0, max=65535, help="Of gRPC; 0 takes a free one.")]
HttpPort = Annotated[int, typer.Option(min=0, max=65535, help="Of HTTP; 0 takes a free one.")]


def serve(
    store: Annotated[Path, typer.Option(help="A platform's model store.", exists=True, file_okay=False)],
    port: Port = 50061,
    http_port: HttpPort = 50062,
) -> None:
    """Serve a store over gRPC and HTTP on this machine alone, without a token, until SIGTERM or Ctrl-C.

    For trying out, with what a simulation has trained. A platform of a federation serves with crossfed-client start.

    Example: crossfed-client serve --store out/quickstart/platforms/forum/store
    """
    from client.service.server import serve_recommender

    signals = SignalQueue(signal.SIGTERM, signal.SIGINT)
    with serve_recommender(store, config=ServingConfig(port=port, http=HttpConfig(port=http_port))) as server:
        say(f"gRPC at {server.target}")
        say(f"HTTP at http://{server.http_target} (http://{server.http_target}/docs lists what can be asked)")
        signals.wait()
