"""How long passports take at 100 requests a second: issue, redeem, recommend with one, recommend to a visitor.

Two platforms serve in a process of their own; books and keys are on disk, and every receipt is durable before it is answered.
A latency counts from the scheduled time. 500 holders have taught the receiving platform its bridge.

Receipts cost what the disk takes (``fsync_ms``); with TMPDIR in memory the figures are those of the code alone.

    python -m simulations.bench.passport_serving
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client.passport.desk import PassportDesk
from client.personalization.store import PlatformStore
from client.recommend.recommender import Recommender
from client.service.client import RecommenderClient
from client.service.server import serve_recommender
from common.config.passport import PassportConfig
from common.deploy.provisioning import Registration
from common.errors import CrossfedError
from common.privacy.secure_sum import PlatformIdentity
from simulations.engine.random_model import random_platform_model

_NAMES = ("cinema", "books")
_NODE_KEY = "ecdsa-sha2-nistp384 AAAA"
_MANY = 1 << 20
_THREADS = 16


def bench_passports(
    *, rate: float = 100.0, seconds: float = 10.0, items: int = 10_000, users: int = 5_000, holders: int = 500
) -> dict[str, Any]:
    """p50 and p99 of each call at ``rate``, and the machine's load before and after."""
    count, before = int(rate * seconds), os.getloadavg()[0]
    figures: dict[str, Any] = {"rate": rate, "requests": count, "cores": os.cpu_count(), "load_before": before}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        command = [sys.executable, "-m", "simulations.bench.passport_serving", "serve", folder]
        process = stack.enter_context(
            subprocess.Popen(
                [*command, str(items), str(users), str(holders)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            )
        )
        assert process.stdin is not None
        assert process.stdout is not None
        stack.callback(process.stdin.close)
        cinema, books = (
            stack.enter_context(RecommenderClient(target, retry=False, timeout=30))
            for target in process.stdout.readline().split()
        )
        carried: dict[int, bytes] = {}

        def issue(number: int) -> None:
            carried[number] = cinema.issue_passport(f"user-{number % users}", "books").passport

        figures["fsync_ms"] = _fsync_ms(Path(folder))
        figures["issue"] = _paced(issue, 2 * count, rate)
        figures["redeem"] = _paced(lambda number: books.redeem_passport(f"new-{number}", carried[number]), count, rate)
        figures["recommend"] = _paced(lambda number: books.recommend(f"new-{number}", scope="own"), count, rate)
        visit = lambda number: books.recommend_for_passport(carried[count + number], scope="own")  # noqa: E731
        figures["recommend for passport"] = _paced(visit, count, rate)
    return figures | {"load_after": os.getloadavg()[0]}


def _paced(call: Callable[[int], object], count: int, rate: float) -> dict[str, Any]:
    """Call ``count`` times on a schedule, whatever becomes of those before; latencies from the scheduled times."""
    latencies, failures = np.zeros(count), list[str]()
    start = time.perf_counter() + 0.2

    def work(first: int) -> None:
        for number in range(first, count, _THREADS):
            due = start + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                call(number)
            except (CrossfedError, KeyError) as error:
                failures.append(str(error))
            latencies[number] = 1000 * (time.perf_counter() - due)

    workers = [threading.Thread(target=work, args=(first,)) for first in range(_THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = {f"p{q}_ms": round(float(np.percentile(latencies, q)), 2) for q in (50, 99)}
    return found | {"failures": len(failures), "failure": failures[:1]}


def _fsync_ms(folder: Path) -> float:
    """Return what the disk takes to make a few bytes durable: median of 50. A receipt needs several."""
    taken = []
    with (folder / "written").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x")
            began = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(1000 * (time.perf_counter() - began))
    return round(float(np.median(taken)), 2)


def serve(folder: Path, items: int, users: int, holders: int) -> None:
    """Both platforms, until standard input ends; prints their targets once the bridge is learned."""
    keys = {name: (PlatformIdentity.generate(), X25519PrivateKey.generate()) for name in _NAMES}
    pinned = {
        name: Registration.make(
            name, "f", identity, sealing_key=sealing.public_key().public_bytes_raw(), node_key=_NODE_KEY
        )
        for name, (identity, sealing) in keys.items()
    }
    config = PassportConfig(issue=True, redeem=True, issues_per_day=_MANY, redeems_per_day=_MANY)
    models, desks = {}, {}
    for seed, (name, (identity, sealing)) in enumerate(keys.items()):
        place = folder / name
        model = random_platform_model(np.random.default_rng(seed), own=items, foreign=100, users=users, dimension=32)
        platforms = tuple(name if platform == model.platform else platform for platform in model.platforms)
        models[name] = replace(
            model, platform=name, platforms=platforms, user_ids=tuple(f"user-{row}" for row in range(users))
        )
        PlatformStore(place / "store").commit(models[name])
        desks[name] = PassportDesk(
            name, config, identity=identity, sealing_key=sealing, pinned=lambda: pinned, folder=place
        )
    office = Recommender(models["cinema"])
    for row in range(holders):
        user = f"user-{row}"
        passport, _ = desks["cinema"].issue(models["cinema"], office.history_of(user), user, "books")
        desks["books"].redeem(passport.encoded(), user)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serve_recommender(folder / name / "store", passports=desks[name])) for name in _NAMES
        ]
        passports = servers[1].passports
        assert passports is not None
        passports.use(servers[1].model.snapshot())
        passports.wait()
        sys.stdout.write(" ".join(server.target for server in servers) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(Path(sys.argv[2]), *(int(number) for number in sys.argv[3:6]))
    else:
        sys.stdout.write(json.dumps(bench_passports(), indent=1) + "\n")
