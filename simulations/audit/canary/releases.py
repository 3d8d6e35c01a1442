"""Many runs with and without the canary: what the two worlds' releases of factors and item-item statistics tell apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.contributions.run_plan import RunPlan
from simulations.audit.audited.faults import Fault, injected
from simulations.audit.audited.plan import audit_plan
from simulations.audit.audited.platforms import audit_folder, one_thread, quiet
from simulations.audit.canary.world import CanaryWorld
from simulations.audit.statistics.separation import CanaryReport, gaussian_report

_CHUNK = 250
_KS_RUNS = 20
"""Runs of a chunk whose noise goes into the Kolmogorov–Smirnov test."""


def canary_test(
    epsilon: float,
    *,
    delta: float = 1e-3,
    runs: int = 20_000,
    fault: Fault | None = None,
    seed: int = 0,
    processes: int = 1,
    on_chunk: Callable[[int], None] | None = None,
) -> CanaryReport:
    """Run the shipped path ``runs`` times in each world.

    Args:
        epsilon: the claim.
        delta: at which it is made.
        runs: 20,000 give ε̂ to a few percent at ε = 1.
        fault: a fault to inject.
        seed: of the histories; noise takes no seed.
        processes: that work side by side; 1 works in this one.
        on_chunk: told how many runs are done.
    """
    tasks = [
        _Task(epsilon=epsilon, delta=delta, runs=min(_CHUNK, runs - start), fault=fault, seed=seed)
        for start in range(0, runs, _CHUNK)
    ]
    chunks: list[_Chunk] = []
    with ProcessPoolExecutor(processes, get_context("spawn")) if processes > 1 else nullcontext() as pool:
        for chunk in map(_run_chunk, tasks) if pool is None else pool.map(_run_chunk, tasks):
            chunks.append(chunk)
            if on_chunk is not None:
                on_chunk(sum(part.ratios.shape[1] for part in chunks))
    ratios = np.concatenate([chunk.ratios for chunk in chunks], axis=1)
    residuals = np.concatenate([chunk.residuals for chunk in chunks])
    products = np.sum([chunk.products for chunk in chunks], axis=0)
    mu = RunPlan.of(audit_plan(epsilon, delta)).gaussian_mu
    return gaussian_report(epsilon, delta, mu, ratios, residuals, float(products[0] / math.sqrt(products[1])))


@dataclass(frozen=True, kw_only=True)
class _Task:
    epsilon: float
    delta: float
    runs: int
    fault: Fault | None
    seed: int


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Some runs: ratios ``[2, runs]``, a sample of standardised noise, and products of successive rounds' noise."""

    ratios: NDArray[np.float64]
    residuals: NDArray[np.float64]
    products: NDArray[np.float64]


def _run_chunk(task: _Task) -> _Chunk:
    # Processes share the cores.
    with injected(task.fault), one_thread(), quiet(), audit_folder() as folder:
        return _observe(task, folder)


def _observe(task: _Task, folder: Path) -> _Chunk:
    world = CanaryWorld(folder, audit_plan(task.epsilon, task.delta), task.seed)
    ratios = np.empty((2, task.runs))
    residuals: list[NDArray[np.float64]] = []
    products = np.zeros(2)
    for run in range(task.runs):
        for canary in (0, 1):
            seen = world.run(canary=bool(canary))
            ratios[canary, run] = seen.ratio
            first, second = seen.residuals["item_vectors 1"], seen.residuals["item_vectors 2"]
            products += [float(first @ second), len(first)]
            if run < _KS_RUNS:
                residuals.append(np.concatenate(list(seen.residuals.values())))
    return _Chunk(ratios, np.concatenate(residuals), products)
