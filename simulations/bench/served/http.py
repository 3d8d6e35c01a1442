"""HTTP beside gRPC: one server process answers both, and one load generator asks them in short turns, on one schedule.

As in :mod:`simulations.bench.serving`, latencies count from the scheduled times. Both callers are Python: the gRPC library's
client, and the standard library's HTTP client with a connection a thread.

    python -m simulations.bench.served.http
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from client.personalization.store import PlatformStore
from client.service.client import RecommenderClient
from client.service.server import serve_recommender
from common.config.serving import HttpConfig, ServingConfig
from simulations.engine.random_model import random_platform_model

Figures = dict[str, Any]
_THREADS = 16
_ME = (sys.executable, "-m", "simulations.bench.served.http")


def bench_http(
    *, rate: float = 300.0, seconds: float = 3.0, turns: int = 9, items: int = 50_000, dimension: int = 64
) -> Figures:
    """p50 and p99 of a list of ten own items over gRPC and over HTTP in turns, and HTTP's over gRPC's (medians of turns)."""
    model = random_platform_model(
        np.random.default_rng(0), own=items, foreign=items // 5, unshared=items // 10, users=10_000,
        dimension=dimension, verdict="local", history=50,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        PlatformStore(Path(folder)).commit(model)
        with _server(Path(folder)) as served:
            command = [*_ME, "load", json.dumps(served), str(rate), str(seconds), str(turns)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, list[Figures]] = json.loads(done.stdout)
    names = ("p50_ms", "p99_ms", "server_cpu_ms")
    medians = {
        transport: {name: float(np.median([one[name] for one in figures])) for name in names}
        for transport, figures in found.items()
    }
    return {
        "rate": rate,
        "seconds": seconds * turns,
        "failures": sum(one["failures"] for figures in found.values() for one in figures),
        "load_average": os.getloadavg()[0],
        **medians,
        "p99_of_turns": {transport: [one["p99_ms"] for one in figures] for transport, figures in found.items()},
        **{f"{name[:-3]}_http_over_grpc": medians["http"][name] / medians["grpc"][name] for name in names},
    }


@contextmanager
def _server(store: Path) -> Iterator[dict[str, Any]]:
    with subprocess.Popen(
        [*_ME, "serve", str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        served: dict[str, Any] = json.loads(process.stdout.readline())
        yield served
        process.stdin.close()


def _in_turns(served: dict[str, Any], rate: float, seconds: float, turns: int) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {"grpc": [], "http": []}
    for transport in found:
        _generate(transport, served[transport], rate / 6, 2.0)
    for turn in range(turns):
        for transport in sorted(found, reverse=turn % 2 == 1):
            before = _cpu_seconds(served["process"])
            figures = _generate(transport, served[transport], rate, seconds)
            used = _cpu_seconds(served["process"]) - before
            found[transport].append(figures | {"server_cpu_ms": 1000 * used / int(rate * seconds)})
    return found


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _generate(transport: str, target: str, rate: float, seconds: float) -> Figures:
    count = int(rate * seconds)
    users = np.random.default_rng(int(rate)).integers(0, 10_000, count)
    latencies, failures = np.zeros(count), [0] * _THREADS
    start = time.perf_counter() + 0.5

    def work(first: int) -> None:
        with _asking(transport, target) as ask:
            for number in range(first, count, _THREADS):
                due = start + number / rate
                time.sleep(max(0.0, due - time.perf_counter()))
                failures[first] += ask(f"user-{users[number]}") != 10
                latencies[number] = time.perf_counter() - due

    workers = [threading.Thread(target=work, args=(first,)) for first in range(_THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    p50, p99 = np.percentile(1000 * latencies, (50, 99))
    return {"failures": sum(failures), "p50_ms": float(p50), "p99_ms": float(p99)}


@contextmanager
def _asking(transport: str, target: str) -> Iterator[Callable[[str], int]]:
    """Asks for a user's list of ten own items; how many came."""
    if transport == "grpc":
        with RecommenderClient(target, retry=False, timeout=10) as client:
            yield lambda user: len(client.recommend(user, scope="own"))
        return
    connection = http.client.HTTPConnection(target, timeout=10)

    def ask(user: str) -> int:
        body = json.dumps({"user_id": user, "scope": "own"})
        connection.request("POST", "/v1/recommend", body, {"content-type": "application/json"})
        return len(json.loads(connection.getresponse().read())["items"])

    yield ask
    connection.close()


def main(arguments: list[str]) -> None:
    """Run the bench and print its figures, or play server or load generator for it."""
    match arguments:
        case ["serve", store]:
            with serve_recommender(Path(store), config=ServingConfig(http=HttpConfig(port=0))) as server:
                served = {"grpc": server.target, "http": server.http_target, "process": os.getpid()}
                print(json.dumps(served), flush=True)
                sys.stdin.read()
        case ["load", served, rate, seconds, turns]:
            print(json.dumps(_in_turns(json.loads(served), float(rate), float(seconds), int(turns))))
        case _:
            print(json.dumps(bench_http(), indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
