"""Lists for everybody: this platform's batch, from histories to a Parquet file, beside ``implicit``'s batch ``recommend``.

``implicit`` is given its users' factors, keeps its lists in memory and writes nothing; the batch solves every user from the
history, and what it writes is on disk. Further figures leave out the writing, and have ``implicit`` solve its users, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from client.batch.blocks import BatchLists
from client.batch.outputs import StillTheSame
from client.batch.run import BatchJob, recommend_to_file, write_lists
from client.data.recorded import EventRules
from client.personalization.store import PlatformStore
from client.recommend.lists import ListMaker
from client.recommend.recommender import Recommender
from common.config.serving import SteeringConfig
from simulations.engine.random_model import random_platform_model

Figures = dict[str, Any]
Taken = tuple[float, float]
"""Seconds on the clock, and of CPU."""
SIZES = (20_000, 60_000, 200_000)


def bench_batch(
    *, users: int = 20_000, items: int = 50_000, dimension: int = 64, k: int = 10, turns: int = 3
) -> Figures:
    """Users a second, own items, seen ones left out: medians of turns, with as many threads each as there are cores."""
    import scipy.sparse as sp
    from implicit.cpu.als import AlternatingLeastSquares

    model = random_platform_model(
        np.random.default_rng(0), own=items, foreign=items // 5, unshared=items // 10, users=users,
        dimension=dimension, verdict="local", history=50,
    )  # fmt: skip
    cores = os.cpu_count() or 1
    other = AlternatingLeastSquares(factors=dimension, num_threads=cores)
    other.item_factors = model.local.item_parameters
    histories: sp.csr_matrix[Any] = sp.csr_matrix(model.histories.csr())
    recommender = Recommender(model)
    other.user_factors = recommender.own.linear.parts[0].factors(model.histories, np.arange(users)).astype(np.float32)
    everybody, some = np.arange(users), np.arange(min(users, 2000))
    seconds: dict[str, list[Taken]] = {"implicit": [], "implicit_solving": [], "batch_to_file": [], "batch": []}
    with tempfile.TemporaryDirectory() as folder:
        PlatformStore(Path(folder) / "store").commit(model)
        job = BatchJob(
            store=Path(folder) / "store", output=Path(folder) / "recs.parquet", users=None, k=k, scope="own",
            steering=SteeringConfig(), rules=EventRules(meaning="weight"),
        )  # fmt: skip
        lists = BatchLists(recommender, ListMaker(), k, "own", {}, EventRules(meaning="weight"))
        for _ in range(turns):
            seconds["implicit"].append(_seconds(lambda: other.recommend(everybody, histories, N=k)))
            solving = _seconds(lambda: other.recommend(some, histories[some], N=k, recalculate_user=True))
            seconds["implicit_solving"].append((solving[0] * users / len(some), solving[1] * users / len(some)))
            seconds["batch"].append(_seconds(lambda: _in_memory(lists, model.user_ids, cores)))
            seconds["batch_to_file"].append(_seconds(lambda: recommend_to_file(job, lambda _: None)))
    medians = {name: np.median(np.array(taken), axis=0) for name, taken in seconds.items()}
    rates = {f"{name}_users_a_second": users / float(wall) for name, (wall, _) in medians.items()}
    return {
        "users": users,
        "items": items,
        "dimension": dimension,
        "k": k,
        "threads": cores,
        "load_average": os.getloadavg()[0],
        **rates,
        "cpu_seconds": {name: float(cpu) for name, (_, cpu) in medians.items()},
        "batch_over_implicit": rates["batch_users_a_second"] / rates["implicit_users_a_second"],
        "batch_over_implicit_solving": rates["batch_users_a_second"] / rates["implicit_solving_users_a_second"],
        "batch_to_file_over_implicit": rates["batch_to_file_users_a_second"] / rates["implicit_users_a_second"],
    }


def bench_batch_memory(*, items: int = 5_000, dimension: int = 32, sizes: tuple[int, ...] = SIZES) -> Figures:
    """Peak resident MiB of the batch beyond the loaded model, by number of users, each in a process of its own."""
    figures: Figures = {}
    for users in sizes:
        with tempfile.TemporaryDirectory() as folder:
            model = random_platform_model(
                np.random.default_rng(0), own=items, foreign=items // 5, unshared=0, users=users, dimension=dimension,
                verdict="local", history=10,
            )  # fmt: skip
            PlatformStore(Path(folder) / "store").commit(model)
            command = [sys.executable, "-m", "simulations.bench.served.batch", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures[f"users_{users}"] = json.loads(done.stdout)
    peaks = [figures[f"users_{users}"]["peak_mib"] for users in sizes]
    return figures | {"peak_last_over_first": peaks[-1] / peaks[0]}


def _memory_of(folder: Path) -> Figures:
    """MiB of the loaded model, and how much more is held at most while the lists are written."""
    job = BatchJob(
        store=folder / "store", output=folder / "recs.parquet", users=None, k=10, scope="all",
        steering=SteeringConfig(), rules=EventRules(meaning="weight"),
    )  # fmt: skip
    before = _resident_mib("VmRSS")
    recommender = Recommender(PlatformStore(job.store).load())
    loaded = _resident_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    write_lists(job, (1,), recommender, lambda _: None, same=StillTheSame(job.store))
    return {"model_mib": loaded - before, "peak_mib": _resident_mib("VmHWM") - loaded}


def _in_memory(lists: BatchLists, ids: tuple[str, ...], threads: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    rows, step = np.arange(len(ids)), lists.block_users
    histories = lists.histories_of(rows)
    with ThreadPoolExecutor(threads) as pool:
        blocks = [slice(start, start + step) for start in range(0, len(ids), step)]
        for _ in pool.map(lambda block: lists.of(ids[block], rows[block], histories), blocks):
            pass


def _seconds(call: Callable[[], object]) -> Taken:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def _resident_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


if __name__ == "__main__":
    print(json.dumps(_memory_of(Path(sys.argv[1])) if len(sys.argv) > 1 else bench_batch_memory(), indent=1))
