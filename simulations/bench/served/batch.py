"""Lists for everybody: this platform's batch, from histories to a Parquet file, beside ``implicit``'s batch ``recommend``.

``implicit`` is given its users' factors, keeps its lists in memory and writes nothing; the batch solves every user from the
history, and what it writes is on disk. Further figures leave out the writing, and have ``implicit`` solve its users, too.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from client.batch.blocks import BatchLists
from client.batch.run import BatchJob, recommend_to_file
from client.data.recorded import EventRules
from client.personalization.store import PlatformStore
from client.recommend.lists import ListMaker
from client.recommend.recommender import Recommender
from common.config.serving import SteeringConfig
from simulations.engine.random_model import random_platform_model

Figures = dict[str, Any]


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
    seconds: dict[str, list[float]] = {"implicit": [], "implicit_solving": [], "batch_to_file": [], "batch": []}
    with tempfile.TemporaryDirectory() as folder:
        PlatformStore(Path(folder) / "store").commit(model)
        job = BatchJob(
            store=Path(folder) / "store", output=Path(folder) / "recs.parquet", users=None, k=k, scope="own",
            steering=SteeringConfig(), rules=EventRules(meaning="weight"),
        )  # fmt: skip
        lists = BatchLists(recommender, ListMaker(), k, "own", {}, EventRules(meaning="weight"))
        ids = list(model.user_ids)
        for _ in range(turns):
            seconds["implicit"].append(_seconds(lambda: other.recommend(everybody, histories, N=k)))
            solving = _seconds(lambda: other.recommend(some, histories[some], N=k, recalculate_user=True))
            seconds["implicit_solving"].append(solving * users / len(some))
            seconds["batch"].append(_seconds(lambda: _in_memory(lists, ids, cores)))
            seconds["batch_to_file"].append(_seconds(lambda: recommend_to_file(job, lambda _: None)))
    rates = {f"{name}_users_a_second": users / float(np.median(taken)) for name, taken in seconds.items()}
    return {
        "users": users,
        "items": items,
        "dimension": dimension,
        "k": k,
        "threads": cores,
        "load_average": os.getloadavg()[0],
        **rates,
        "batch_over_implicit": rates["batch_users_a_second"] / rates["implicit_users_a_second"],
        "batch_over_implicit_solving": rates["batch_users_a_second"] / rates["implicit_solving_users_a_second"],
        "batch_to_file_over_implicit": rates["batch_to_file_users_a_second"] / rates["implicit_users_a_second"],
    }


def bench_batch_memory(*, items: int = 5_000, dimension: int = 32) -> Figures:
    """Peak resident MiB of the batch beyond the loaded model, for 20,000 and for 80,000 users."""
    figures: Figures = {}
    for users in (20_000, 80_000):
        with tempfile.TemporaryDirectory() as folder:
            model = random_platform_model(
                np.random.default_rng(0), own=items, foreign=items // 5, unshared=0, users=users, dimension=dimension,
                verdict="local", history=10,
            )  # fmt: skip
            PlatformStore(Path(folder) / "store").commit(model)
            job = BatchJob(
                store=Path(folder) / "store", output=Path(folder) / "recs.parquet", users=None, k=10, scope="all",
                steering=SteeringConfig(), rules=EventRules(meaning="weight"),
            )  # fmt: skip
            before = _peak_mib()
            recommend_to_file(job, lambda _: None)
            figures[f"users_{users}_mib"] = _peak_mib() - before
    return figures


def _in_memory(lists: BatchLists, ids: list[str], threads: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    step = 160
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lists.of, [ids[start : start + step] for start in range(0, len(ids), step)]):
            pass


def _seconds(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
