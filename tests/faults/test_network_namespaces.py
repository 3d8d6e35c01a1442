"""An aggregator and three platforms, each in a network namespace of its own, over slow and lossy links.

Needs root and ``ip`` (iproute2). Delay and loss are the kernel's (``tc``, netem); where it has none a fifth host stands between
the platforms and the aggregator and forwards as such a line would (``tests/support/slow_link.py``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from common.contributions.run_plan import read_plan
from common.errors import FederationError
from server.deploy.runs import FINISHED, RunFolder
from simulations.engine.deployment import AGGREGATOR, LocalFederation, provision, wait_for
from tests.support.namespaces import inside, make_links_slow, namespace
from tests.support.process_files import PLAN, SETTINGS, make_files

BETWEEN = "between"
NAMES = (AGGREGATOR, "a", "b", "c", BETWEEN)
ROOT = Path(__file__).parents[2]
BRIDGE = "crossfed0"
PATIENCE_SECONDS = 480


def ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)


def address(name: str) -> str:
    return f"10.213.7.{NAMES.index(name) + 1}"


def take_apart() -> None:
    for name in NAMES:
        ip("netns", "del", namespace(name), check=False)
    ip("link", "del", BRIDGE, check=False)


@pytest.fixture
def hosts() -> Iterator[bool]:
    """One namespace a host, all on a bridge; whether the links are slow."""
    if os.geteuid() != 0 or shutil.which("ip") is None or ip("netns", "list", check=False).returncode != 0:
        pytest.skip("network namespaces need root and iproute2")
    take_apart()
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("link", "set", BRIDGE, "up")
        for number, name in enumerate(NAMES):
            ip("netns", "add", namespace(name))
            ip("link", "add", f"crossfed-v{number}", "type", "veth", "peer", "name", "eth0", "netns", namespace(name))
            ip("link", "set", f"crossfed-v{number}", "master", BRIDGE, "up")
            ip("-n", namespace(name), "addr", "add", f"{address(name)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", namespace(name), "link", "set", device, "up")
        yield make_links_slow(NAMES)
    finally:
        take_apart()


@contextmanager
def slow_line(port: str) -> Iterator[None]:
    """Forward from the host between to the aggregator; it must have held pieces back, and some of them longer."""
    command = [*inside(BETWEEN), sys.executable, "-m", "tests.support.slow_link", address(BETWEEN), port]
    process = subprocess.Popen([*command, address(AGGREGATOR), port], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield
        assert process.poll() is None
    except BaseException:
        process.kill()
        raise
    finally:
        process.terminate()
        told, _ = process.communicate()
    counts = json.loads(told)
    assert counts["pieces"] > 100
    assert counts["late"] > 0


def run_to_its_end(federation: LocalFederation) -> None:
    """Begin runs until one has finished: refused until the aggregator answers, one waits for the platforms and for its end."""
    command = [
        *inside(AGGREGATOR),
        sys.executable,
        "-m",
        "server",
        "run",
        "--config",
        str(federation.aggregator.config),
    ]
    said = ["nothing"]

    def finished() -> bool:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said.append(f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.returncode == 0

    try:
        wait_for(finished, "a run to finish", PATIENCE_SECONDS)
    except FederationError as error:
        pytest.fail(f"{error}; the last attempt said: {said[-1]}")


def test_hosts_apart_train_a_federation_over_slow_links(hosts: bool, tmp_path: Path) -> None:
    files = {name: make_files(tmp_path, name, offset) for name, offset in (("a", 0), ("b", 15), ("c", 7))}
    plan = read_plan(PLAN.model_dump() | {"platforms": 3, "min_platforms": 3})
    federation = provision(tmp_path / "f", plan, files, SETTINGS, host=address(AGGREGATOR if hosts else BETWEEN))
    port = federation.config.address.rpartition(":")[2]
    with federation.running(within={name: inside(name) for name in NAMES}), nullcontext() if hosts else slow_line(port):
        run_to_its_end(federation)
    run = max((federation.config.state / "runs").iterdir())  # earlier ones began before all were there
    status = RunFolder(federation.config.state, run.name).status()
    assert status.state == FINISHED
    assert all(record["platforms"] == ["a", "b", "c"] for record in status.rounds)
    for name in ("a", "b", "c"):
        assert list((federation.platform_config(name).state / "store").rglob("*.npz"))
