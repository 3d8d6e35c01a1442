"""Flower's control API, through Flower's own command line: start runs, register nodes, list both.

The control API knows no users: whoever reaches it may start code on every node. It listens on loopback only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.errors import FederationError
from common.files import write_atomically

ENVIRONMENT: Final[Mapping[str, str]] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Otherwise every run begins with a package sync over the network.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}
_CONNECTION: Final = "aggregator"
_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Node:
    """A SuperNode as the SuperLink knows it."""

    node_id: int
    status: str
    """registered, online, offline, unregistered."""


class FlowerControl:
    """One SuperLink's control API.

    Args:
        home: Flower's own folder (``FLWR_HOME``) for this aggregator.
        port: of the SuperLink, on loopback.
        ca: certificate of the authority that signed the SuperLink's.
    """

    def __init__(self, home: Path, port: int, ca: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        connection = {"address": f"127.0.0.1:{port}", "root-certificates": str(ca.resolve())}
        lines = [f"{key} = {json.dumps(value)}" for key, value in connection.items()]
        text = "\n".join(["[superlink]", f'default = "{_CONNECTION}"', "", f"[superlink.{_CONNECTION}]", *lines, ""])
        write_atomically(home / "config.toml", text.encode())

    def start_run(self, app: Path, run_name: str) -> int:
        """Start a run of the app in folder ``app``; returns Flower's run id.

        Raises:
            FederationError: the SuperLink does not answer or refuses.
        """
        answer = self._call("run", str(app), _CONNECTION, "--run-config", f'run-name="{run_name}"')
        return int(answer["run-id"])

    def register(self, public_key: Path, name: str) -> int:
        """Admit the SuperNode with this key; returns its node id.

        Raises:
            FederationError: as above.
        """
        return int(self._call("supernode", "register", str(public_key), _CONNECTION, "--name", name)["node-id"])

    def unregister(self, node_id: int) -> None:
        """Admit it no more; at once.

        Raises:
            FederationError: as above.
        """
        self._call("supernode", "unregister", str(node_id), _CONNECTION)

    def nodes(self) -> list[Node]:
        """All SuperNodes that are or were registered.

        Raises:
            FederationError: the SuperLink does not answer.
        """
        answer = self._call("supernode", "list", _CONNECTION)
        return [Node(int(node["node-id"]), str(node["status"])) for node in answer["nodes"]]

    def runs(self) -> list[dict[str, Any]]:
        """Flower's own list of runs.

        Raises:
            FederationError: the SuperLink does not answer.
        """
        runs: list[dict[str, Any]] = self._call("list", _CONNECTION)["runs"]
        return runs

    def _call(self, *arguments: str) -> dict[str, Any]:
        what = "flwr " + " ".join(word for word in arguments[:2] if word.isalpha())
        command: Sequence[str] = (str(Path(sys.executable).parent / "flwr"), *arguments, "--format", "json")
        environment = {**os.environ, **ENVIRONMENT, "FLWR_HOME": str(self.home.resolve())}
        try:
            done = subprocess.run(  # noqa: S603 -- Flower's own program, arguments from this package
                command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise FederationError(f"{what}: no answer in {_SECONDS:.0f} s") from None
        answer = _last_json(done.stdout)
        if done.returncode != 0 or not answer.get("success", True):
            said = str(answer.get("error-message") or done.stderr).strip().splitlines()
            detail = said[-1].strip() if said else "no answer"
            raise FederationError(f"{what}: {detail}; is crossfed-server start running?")
        return answer


def _last_json(text: str) -> dict[str, Any]:
    """The JSON object that Flower's command line ends its output with."""
    start = text.find("{")
    if start < 0:
        return {}
    try:
        answer = json.loads(text[start:])
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
