"""A Ray cluster of this machine's own, for benches and tests: on loopback, and gone when its first process ends."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import FederationError

_STARTED = b"Ray runtime started"
_PATIENCE_SECONDS = 180.0


@dataclass(frozen=True)
class LocalCluster:
    """Where a cluster is, the process that all of its others descend from, and the folder of its logs and sockets."""

    address: str
    pid: int
    folder: Path


@contextmanager
def local_cluster(workers: int, *, store_bytes: int = 200 * 2**20) -> Iterator[LocalCluster]:
    """Start a cluster of ``workers`` workers, and end it.

    Args:
        workers: how many tasks run at a time.
        store_bytes: shared memory for what tasks hand each other.

    Raises:
        FederationError: it does not start.
    """
    import ray

    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    port = _free_port()
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus", str(workers),
        "--node-ip-address", "127.0.0.1", "--port", str(port), "--include-dashboard", "false",
        "--temp-dir", str(folder), "--object-store-memory", str(store_bytes), "--disable-usage-stats",
    ]  # fmt: skip
    log = folder / "start.log"
    with log.open("wb") as written:
        head = subprocess.Popen(command, env=os.environ | settings, stdout=written, stderr=written)  # noqa: S603
    try:
        began = time.monotonic()
        while _STARTED not in log.read_bytes():
            if head.poll() is not None or time.monotonic() - began > _PATIENCE_SECONDS:
                raise FederationError(f"a Ray cluster does not start here: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.1)
        yield LocalCluster(f"127.0.0.1:{port}", head.pid, folder)
    finally:
        ray.shutdown()
        head.terminate()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
