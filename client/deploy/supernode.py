"""Flower's side of a platform as programs to supervise: the SuperNode, and the SuperExec that starts couriers for it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from client.deploy.aggregator_watch import meaning_of
from client.deploy.launcher import launcher_environment
from common.deploy.roles import PlatformConfig
from common.deploy.supervise import Program
from common.files import make_folder, write_atomically

ENVIRONMENT: Final[Mapping[str, str]] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Otherwise every message begins with a package sync over the network.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    # The courier's NumPy has nothing to compute.
    "OPENBLAS_NUM_THREADS": "1",
}


def courier_programs(config: PlatformConfig, logs: Path) -> list[Program]:
    """SuperNode and SuperExec, with process isolation: only who has the secret file can take on couriers.

    The SuperNode's runtime API is plain HTTP on loopback; the secret authenticates SuperExec, tokens the couriers.
    """
    supernode = config.supernode
    secret = supernode.superexec_secret
    if not secret.exists():
        make_folder(secret.parent, mode=0o750)
        write_atomically(secret, os.urandom(32))
    home = (secret.parent / "flower").resolve()
    make_folder(home, mode=0o700)
    make_folder(logs, mode=0o750)
    environment = {
        **ENVIRONMENT,
        "FLWR_HOME": str(home),
        **launcher_environment(supernode),
    }
    node = [
        "flower-supernode",
        "--superlink", config.aggregator,
        "--root-certificates", str(config.ca.resolve()),
        "--auth-supernode-private-key", str(supernode.private_key.resolve()),
        "--node-config", f"agent-socket={json.dumps(str(config.socket.path.resolve()))}",
        "--isolation", "process",
        "--superexec-auth-secret-file", str(secret.resolve()),
        "--host", "127.0.0.1",
        "--port", str(supernode.port),
    ]  # fmt: skip
    executor = [
        "flower-superexec",
        "--insecure",
        "--runtime-api-address", f"127.0.0.1:{supernode.port}",
        "--superexec-auth-secret-file", str(secret.resolve()),
    ]  # fmt: skip
    return [
        Program(
            name="supernode", command=node, environment=environment, log=logs / "supernode.log", explain=meaning_of
        ),
        Program(
            name="superexec", command=executor, environment=environment, log=logs / "superexec.log", explain=meaning_of
        ),
    ]
