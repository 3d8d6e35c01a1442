"""From many runs with and without the canary to an estimate of ε, with what the ratio test alone would miss."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common.contributions.run_plan import RunPlan
from common.privacy.gdp import epsilon_from_mu
from simulations.audit.faults import MECHANISMS, Fault
from simulations.audit.world import CanaryWorld, audit_plan

_CONFIDENCE = 0.99
_KS_LEVEL = 1e-6
_CORRELATION_SIGMAS = 5.0
_CHUNK = 250
_KS_RUNS = 20
"""Runs of a chunk whose noise goes into the Kolmogorov–Smirnov test."""


@dataclass(frozen=True, kw_only=True)
class CanaryReport:
    """What the canary test found.

    Attributes:
        epsilon_claimed, delta: the promise.
        runs: in each of the two worlds.
        mu_hat: separation of the log-likelihood ratios in standard deviations.
        epsilon_hat: ε at ``delta`` of ``mu_hat``-GDP.
        epsilon_lower: 99 % lower confidence bound of ε: the larger of the one from ``mu_hat`` and the distribution-free
            one of a threshold test (Clopper & Pearson).
        ks_pvalue: Kolmogorov–Smirnov test of the standardised noise against the normal distribution.
        round_correlation: correlation of the noise of successive rounds, in its own standard deviations.
        flags: what is wrong, empty for sound code.
    """

    epsilon_claimed: float
    delta: float
    runs: int
    mu_hat: float
    epsilon_hat: float
    epsilon_lower: float
    ks_pvalue: float
    round_correlation: float
    flags: tuple[str, ...]


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
    """Run the shipped mechanism ``runs`` times in each world.

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
    return _report(epsilon, delta, ratios, residuals, float(products[0] / math.sqrt(products[1])))


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
    # Threads that wait for one another cost these tiny systems five times their work; processes share the cores.
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        return _observe(task)
    finally:
        numba.set_num_threads(threads)


def _observe(task: _Task) -> _Chunk:
    plan = audit_plan(task.epsilon, task.delta)
    make, releases = MECHANISMS[task.fault], RunPlan.of(plan).release_plan()
    world = CanaryWorld(plan, make(releases), make(releases), np.random.default_rng(task.seed))
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


def _report(
    epsilon: float,
    delta: float,
    ratios: NDArray[np.float64],
    residuals: NDArray[np.float64],
    correlation: float,
) -> CanaryReport:
    runs = ratios.shape[1]
    spread = math.sqrt(ratios.var(axis=1, ddof=1).mean())
    mu_hat = float((ratios[1].mean() - ratios[0].mean()) / spread)
    # Standard error of a standardised difference of two means (Hedges & Olkin 1985, eq. 5.6).
    error = math.sqrt(2 / runs + mu_hat**2 / (4 * runs))
    mu_lower = max(mu_hat - stats.norm.ppf(_CONFIDENCE) * error, 0.0)
    lower = max(_epsilon(mu_lower, delta), threshold_bound(ratios, delta))
    ks = float(stats.kstest(residuals, "norm").pvalue)
    flags = []
    if lower > epsilon * (1 + 1e-9):
        flags.append(f"ε is at least {lower:.3g} with 99 % confidence, more than the {epsilon:g} claimed")
    if ks < _KS_LEVEL:
        flags.append(f"the noise is not the declared one (Kolmogorov–Smirnov p = {ks:.1e})")
    if abs(correlation) > _CORRELATION_SIGMAS:
        flags.append(f"the noise of successive rounds is correlated ({correlation:.1f} standard deviations)")
    return CanaryReport(
        epsilon_claimed=epsilon,
        delta=delta,
        runs=runs,
        mu_hat=mu_hat,
        epsilon_hat=_epsilon(mu_hat, delta),
        epsilon_lower=lower,
        ks_pvalue=ks,
        round_correlation=correlation,
        flags=tuple(flags),
    )


def threshold_bound(ratios: NDArray[np.float64], delta: float) -> float:
    """A lower bound of ε that assumes nothing about the ratios' distribution.

    For any (ε, δ)-DP mechanism and any test, true positive rate ≤ e^ε · false positive rate + δ (Kairouz et al. 2015).
    The threshold is the one with the best bound on one half of the runs; the bound is that on the other half (Clopper &
    Pearson 1934).
    """
    half = ratios.shape[1] // 2
    choosing, judging = ratios[:, :half], ratios[:, half:]
    candidates = np.quantile(choosing[0], [0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
    return _bound(judging, max(candidates, key=lambda threshold: _bound(choosing, threshold, delta)), delta)


def _bound(ratios: NDArray[np.float64], threshold: float, delta: float) -> float:
    level = (1 - _CONFIDENCE) / 2
    n = ratios.shape[1]
    hits, alarms = int((ratios[1] > threshold).sum()), int((ratios[0] > threshold).sum())
    true_rate = float(stats.beta.ppf(level, hits, n - hits + 1)) if hits else 0.0
    false_rate = float(stats.beta.ppf(1 - level, alarms + 1, n - alarms)) if alarms < n else 1.0
    return max(0.0, math.log(max(true_rate - delta, 1e-12) / false_rate))


def _epsilon(mu: float, delta: float) -> float:
    return epsilon_from_mu(mu, delta) if mu > 0 else 0.0
