"""How fast the recommender answers, and whether a swap of models or a burst of feedback loses anything.

Server and load generator are processes of their own on this machine. Requests are sent on a schedule, whatever becomes of
those before, and a latency counts from the scheduled time, so that waiting behind a slow answer is part of it.

    python -m simulations.bench.serving latency|feedback|swap|implicit|approximate|memory
"""

from __future__ import annotations

import importlib
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

from client.personalization.platform_model import PlatformModel
from client.personalization.store import PlatformStore
from client.recommend.index import ApproximateIndex, ExactIndex, recall_against_exact
from client.service.client import RecommenderClient
from client.service.server import serve_recommender
from common.errors import CrossfedError
from simulations.engine.random_model import random_platform_model

Figures = dict[str, Any]
_SERVERS: dict[str, int] = {}
"""Process id of each server by target."""


def bench_latency(
    *, rate: float = 300.0, seconds: float = 20.0, items: int = 50_000, dimension: int = 64, scope: str = "own"
) -> Figures:
    """p50 and p99 of ``Recommend`` (k = 10, seen items left out) at ``rate``, and the highest rate with p99 ≤ 50 ms."""
    with _served(_model(items, dimension)) as target:
        _load(target, rate=50, seconds=2, scope=scope)
        figures = _load(target, rate=rate, seconds=seconds, scope=scope)
        highest, step = rate, rate
        for _ in range(12):
            if _load(target, rate=highest + step, seconds=min(seconds, 6.0), scope=scope)["p99_ms"] <= 50:
                highest += step
            else:
                step /= 2
            if step < rate / 8:
                break
    return figures | {"items": items, "dimension": dimension, "scope": scope, "highest_rate_p99_50ms": highest}


def bench_feedback(*, pairs: int = 2000, items: int = 50_000, dimension: int = 64) -> Figures:
    """p50 and p99 of ``RecordFeedback``, and how often the next ``Recommend`` still had the item (never)."""
    with _served(_model(items, dimension)) as target, RecommenderClient(target, retry=False) as client:
        times, late = [], 0
        for number in range(pairs):
            user = f"user-{number % 500}"
            key = client.recommend(user, k=1, scope="own")[0].key
            started = time.perf_counter()
            client.record_feedback(user, key)
            times.append(time.perf_counter() - started)
            late += key in {item.key for item in client.recommend(user, k=10, scope="own")}
    return {"pairs": pairs, "not_reflected": late, **_percentiles(times)}


def bench_swap(*, requests: int = 10_000, swaps: int = 5, rate: float = 300.0, items: int = 50_000) -> Figures:
    """Requests that fail while models are swapped under load (none), and their latency."""
    with tempfile.TemporaryDirectory() as folder:
        store = PlatformStore(Path(folder))
        models = [_model(items, 64, seed=seed) for seed in range(2)]
        store.commit(models[0])
        with _server(Path(folder)) as target:
            result: Figures = {}
            seconds = requests / rate
            load = threading.Thread(target=lambda: result.update(_load(target, rate=rate, seconds=seconds)))
            load.start()
            for number in range(swaps):
                time.sleep(seconds / (swaps + 1))
                store.commit(models[(number + 1) % 2])
            load.join()
    return result | {"swaps": swaps}


def bench_implicit(*, items: int = 50_000, dimension: int = 64, users: int = 2000) -> Figures:
    """Median time of one user's list: ``implicit`` in process, this recommender in process and over gRPC, one at a time."""
    import scipy.sparse as sp
    from implicit.cpu.als import AlternatingLeastSquares

    from client.recommend.recommender import Recommender

    model = _model(items, dimension)
    other = AlternatingLeastSquares(factors=dimension, num_threads=1)
    other.item_factors = model.local.item_parameters
    other.user_factors = np.random.default_rng(1).standard_normal((len(model.user_ids), dimension)).astype(np.float32)
    histories: sp.csr_matrix[Any] = sp.csr_matrix(model.histories.csr())
    recommender = Recommender(model)

    def implicit(user: int) -> None:
        other.recommend(user, histories[user], N=10)

    def fold_in(user: int) -> None:
        other.recommend(user, histories[user], N=10, recalculate_user=True)

    figures = {
        "implicit_ms": _median_ms(implicit, users),
        "implicit_fold_in_ms": _median_ms(fold_in, users),
        "in_process_ms": _median_ms(lambda user: recommender.recommend(f"user-{user}", scope="own"), users),
    }
    with _served(model) as target, RecommenderClient(target) as client:
        figures["grpc_ms"] = _median_ms(lambda user: client.recommend(f"user-{user}", scope="own"), users)
    figures["grpc_to_implicit"] = figures["grpc_ms"] / figures["implicit_ms"]
    return figures


def bench_approximate(*, items: int = 200_000, dimension: int = 64, queries: int = 100, k: int = 20) -> Figures:
    """Recall and speed of the approximate index against exact search, on clustered items of uneven length."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, dimension))
    rows = centres[rng.integers(0, 200, items)] + 0.6 * rng.standard_normal((items, dimension))
    rows *= rng.gamma(1.0, 1.0, (items, 1)) / np.sqrt(np.arange(1, dimension + 1))
    vectors = rows.astype(np.float32)
    asked = np.stack([vectors[rng.choice(items, 30)].sum(axis=0) for _ in range(queries)])
    started = time.perf_counter()
    approximate = ApproximateIndex(vectors, threads=2)
    built = time.perf_counter() - started
    exact = ExactIndex(vectors)
    return {
        "items": items,
        "build_s": built,
        f"recall_at_{k}": recall_against_exact(approximate, vectors, asked, k),
        "approximate_ms": _median_ms(lambda place: approximate.best(asked[place], k), queries),
        "exact_ms": _median_ms(lambda place: exact.best(asked[place], k), queries),
    }


def bench_memory(*, users: int = 6040, items: int = 3706, history: int = 165, dimension: int = 64) -> Figures:
    """Resident MiB of a process that serves a model of ML-1M's size, its factors random, without and with TensorFlow."""
    model = random_platform_model(
        np.random.default_rng(0),
        own=items,
        foreign=items // 5,
        unshared=items // 10,
        users=users,
        dimension=dimension,
        history=history,
    )
    figures: Figures = {"users": users, "items": items, "interactions": users * history, "dimension": dimension}
    with tempfile.TemporaryDirectory() as folder:
        PlatformStore(Path(folder)).commit(model)
        for name, also in (("serving_mib", ()), ("with_tensorflow_mib", ("tensorflow",))):
            with _server(Path(folder), *also) as target, RecommenderClient(target, timeout=60) as client:
                for user in range(200):
                    client.recommend(f"user-{user}", scope="own")
                process = _SERVERS[target]
                status = Path(f"/proc/{process}/status").read_text()
            figures[name] = int(status.split("VmRSS:")[1].split()[0]) / 1024
    return figures


def _model(items: int, dimension: int, seed: int = 0) -> PlatformModel:
    return random_platform_model(
        np.random.default_rng(seed),
        own=items,
        foreign=items // 5,
        unshared=items // 10,
        users=10_000,
        dimension=dimension,
        verdict="local",
        history=50,
    )


@contextmanager
def _served(model: PlatformModel) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        PlatformStore(Path(folder)).commit(model)
        with _server(Path(folder)) as target:
            yield target


@contextmanager
def _server(store: Path, *modules: str) -> Iterator[str]:
    """A server process that has also imported ``modules``; yields its target."""
    command = [sys.executable, "-m", "simulations.bench.serving", "serve", str(store), *modules]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        target = process.stdout.readline().strip()
        _SERVERS[target] = process.pid
        yield target
        process.stdin.close()


def _load(target: str, *, rate: float, seconds: float, scope: str = "own", threads: int = 16) -> Figures:
    """Run the load generator in a process of its own."""
    command = [sys.executable, "-m", "simulations.bench.serving", "load", target, str(rate), str(seconds), scope]
    done = subprocess.run([*command, str(threads)], check=True, stdout=subprocess.PIPE, text=True)
    figures: Figures = json.loads(done.stdout)
    return figures


def _generate(target: str, rate: float, seconds: float, scope: Any, threads: int) -> Figures:
    """Send ``rate`` requests a second from ``threads`` threads, for random users; latencies from the scheduled times."""
    count = int(rate * seconds)
    users = np.random.default_rng(int(rate)).integers(0, 10_000, count)
    latencies = np.zeros(count)
    failures: list[str] = []
    start = time.perf_counter() + 0.5

    def work(first: int) -> None:
        for number in range(first, count, threads):
            due = start + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                client.recommend(f"user-{users[number]}", scope=scope)
            except CrossfedError as error:
                failures.append(str(error))
            latencies[number] = time.perf_counter() - due

    with RecommenderClient(target, retry=False, timeout=10) as client:
        client.recommend("user-0")
        workers = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return {
        "rate": rate,
        "requests": count,
        "failures": len(failures),
        "failure": failures[:1],
        "load_average": os.getloadavg()[0],
        **_percentiles(latencies),
    }


def _percentiles(seconds: Any) -> dict[str, float]:
    values = 1000 * np.asarray(seconds)
    return {f"p{q:g}_ms": float(np.percentile(values, q)) for q in (50, 99, 99.9)} | {"max_ms": float(values.max())}


def _median_ms(call: Callable[[int], object], times: int) -> float:
    taken = []
    for place in range(times):
        started = time.perf_counter()
        call(place)
        taken.append(time.perf_counter() - started)
    return float(1000 * np.median(taken))


def main(arguments: list[str]) -> None:
    """Run one benchmark and print its figures, or play server or load generator for one."""
    name, *rest = arguments
    if name == "serve":
        for module in rest[1:]:
            importlib.import_module(module)
        with serve_recommender(Path(rest[0])) as server:
            print(server.target, flush=True)
            sys.stdin.read()
    elif name == "load":
        target, rate, seconds, scope, threads = rest
        print(json.dumps(_generate(target, float(rate), float(seconds), scope, int(threads))))
    else:
        print(json.dumps({"load_average": os.getloadavg(), **globals()[f"bench_{name}"]()}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
