"""HTTP beside gRPC: one server process answers both, and a load generator asks in turns, on one schedule.

As in :mod:`simulations.bench.serving`, latencies count from the scheduled times. Both callers are Python: the gRPC library's
client, and the standard library's HTTP client with a connection a thread.

    python -m simulations.bench.served.http
"""

from __future__ import annotations

import http.client
import json
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


def bench_http(
    *, rate: float = 300.0, seconds: float = 8.0, turns: int = 5, items: int = 50_000, dimension: int = 64
) -> Figures:
    """p50 and p99 of a list of ten own items over gRPC and over HTTP in turns, and HTTP's over gRPC's (medians of turns)."""
    model = random_platform_model(
        np.random.default_rng(0), own=items, foreign=items // 5, unshared=items // 10, users=10_000,
        dimension=dimension, verdict="local", history=50,
    )  # fmt: skip
    found: dict[str, list[Figures]] = {"grpc": [], "http": []}
    with tempfile.TemporaryDirectory() as folder:
        PlatformStore(Path(folder)).commit(model)
        with _server(Path(folder)) as targets:
            for transport in found:
                _load(transport, targets[transport], rate / 6, 2.0)
            for _ in range(turns):
                for transport, figures in found.items():
                    figures.append(_load(transport, targets[transport], rate, seconds))
    medians = {
        transport: {name: float(np.median([one[name] for one in figures])) for name in ("p50_ms", "p99_ms")}
        for transport, figures in found.items()
    }
    return {
        "rate": rate,
        "seconds": seconds * turns,
        "failures": sum(one["failures"] for figures in found.values() for one in figures),
        **medians,
        "p99_of_turns": {transport: [one["p99_ms"] for one in figures] for transport, figures in found.items()},
        "p50_http_over_grpc": medians["http"]["p50_ms"] / medians["grpc"]["p50_ms"],
        "p99_http_over_grpc": medians["http"]["p99_ms"] / medians["grpc"]["p99_ms"],
    }


@contextmanager
def _server(store: Path) -> Iterator[dict[str, str]]:
    command = [sys.executable, "-m", "simulations.bench.served.http", "serve", str(store)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        targets: dict[str, str] = json.loads(process.stdout.readline())
        yield targets
        process.stdin.close()


def _load(transport: str, target: str, rate: float, seconds: float) -> Figures:
    command = [
        sys.executable,
        "-m",
        "simulations.bench.served.http",
        "load",
        transport,
        target,
        str(rate),
        str(seconds),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: Figures = json.loads(done.stdout)
    return figures


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
                print(json.dumps({"grpc": server.target, "http": server.http_target}), flush=True)
                sys.stdin.read()
        case ["load", transport, target, rate, seconds]:
            print(json.dumps(_generate(transport, target, float(rate), float(seconds))))
        case _:
            print(json.dumps(bench_http(), indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
