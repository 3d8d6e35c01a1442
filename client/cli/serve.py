"""``crossfed-client serve``: a model store served without an agent: to try it out, or as one of several recommenders."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from common.config.loader import load_yaml_model
from common.config.serving import HttpConfig, ServingConfig
from common.deploy.console import say
from common.deploy.roles import PlatformConfig
from common.deploy.signals import SignalQueue
from common.errors import ConfigError

_GRPC_PORT: Final = 50061
_HTTP_PORT: Final = 50062


def serve(
    store: Annotated[Path | None, typer.Option(help="A platform's model store.", exists=True, file_okay=False)] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="platform.yaml: its store, token, TLS, limits.", exists=True, dir_okay=False
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Write nothing and refuse feedback: one of several on one store.")
    ] = False,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Of gRPC; 0 takes a free one.")] = None,
    http_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Of HTTP; 0 takes a free one.")] = None,
) -> None:
    """Serve a store over gRPC and HTTP until SIGTERM or Ctrl-C; a new version serves as soon as it is there.

    With --store, on this machine alone, without a token: for trying out, with what a simulation has trained. A platform of a
    federation serves with crossfed-client start, and where one process does not keep up, with any number of
    serve --read-only besides, on any machines that see the folder of the store (docs/scale.md). They take recorded feedback
    into account a little later, and do not take part in counting who was shown what.

    Example: crossfed-client serve --store out/quickstart/platforms/forum/store

    Example: crossfed-client serve --config cinema/platform.yaml --read-only --port 50071 --http-port 50072
    """
    from prometheus_client import CollectorRegistry

    from client.deploy.agent_process import serve_of_platform
    from client.service.server import serve_recommender

    if (store is None) == (config is None):
        raise ConfigError("--store, --config: give one of them")
    signals = SignalQueue(signal.SIGTERM, signal.SIGINT)
    if config is not None:
        settings = with_ports(load_yaml_model(config, PlatformConfig), port, http_port)
        server = serve_of_platform(settings, CollectorRegistry(), read_only=read_only)
    else:
        assert store is not None
        ports = ServingConfig(
            port=_GRPC_PORT if port is None else port,
            http=HttpConfig(port=_HTTP_PORT if http_port is None else http_port),
        )
        server = serve_recommender(store, config=ports, read_only=read_only)
    with server:
        say(f"gRPC at {server.target}")
        if server.http_target is not None:
            say(f"HTTP at http://{server.http_target} (http://{server.http_target}/docs lists what can be asked)")
        signals.wait()


def with_ports(config: PlatformConfig, port: int | None, http_port: int | None) -> PlatformConfig:
    """``config`` with other ports of its recommender, where these are given."""
    update: dict[str, Any] = {} if port is None else {"port": port}
    if http_port is not None:
        update["http"] = (config.recommender.http or HttpConfig()).model_copy(update={"port": http_port})
    return config.model_copy(update={"recommender": config.recommender.model_copy(update=update)})
