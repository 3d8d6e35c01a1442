"""Cross-platform quality and never-worse: whole simulations over several seeds.

A seed changes the partition, what is hidden, the splits and the first factors. From the repository's root:

    python -m simulations.bench.cross quickstart
    CROSSFED_DATA=FOLDER python -m simulations.bench.cross movies never-worse
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulations.run import simulate
from simulations.scenarios.scenario import load_scenario, shipped_scenarios

METRIC = "recall@20"
SEEDS = (1, 2, 3, 4, 5)
Content = Mapping[str, Any]


def run_seed(scenario: str, seed: int | None, overrides: Sequence[str] = ()) -> Content:
    """``result.json`` of one run; ``seed`` None is the shipped one. ``cpu`` is added: seconds of processor time."""
    chosen = load_scenario(scenario, [*overrides, *([] if seed is None else [f"seed={seed}"])])
    started = time.process_time()
    with tempfile.TemporaryDirectory(prefix="crossfed-bench-") as folder:
        content = simulate(chosen, Path(folder)).content
    return {**content, "cpu": time.process_time() - started}


def cross_figures(scenario: str, seeds: Sequence[int | None]) -> dict[str, Any]:
    """Recall@20 over hidden items: popularity, shared, final, their ratio, and the share of the gap closed.

    Returns:
        ``runs``: one entry a seed, each with the mean over the platforms that have hidden items; ``mean`` over the runs.
    """
    runs = [cross_of(run_seed(scenario, seed)) for seed in seeds]
    names = [name for name in runs[0] if name != "seed"]
    return {"scenario": scenario, "runs": runs, "mean": {n: float(np.mean([run[n] for run in runs])) for n in names}}


def cross_of(content: Content) -> dict[str, float]:
    """Means over the platforms of one run; ``ratio`` is the mean of final/popularity."""
    blocks = [part["cross"] for part in content["platforms"].values() if part["cross"] is not None]
    figures = {name: [block[name][METRIC] for block in blocks] for name in ("popularity", "shared", "final")}
    pairs = zip(figures["final"], figures["popularity"], strict=True)
    gaps = [block["gap_closed"] for block in blocks if block["gap_closed"] is not None]
    return {
        "seed": content["seed"],
        **{name: float(np.mean(values)) for name, values in figures.items()},
        "ratio": float(np.mean([final / popularity for final, popularity in pairs])),
        "gap_closed": float(np.mean(gaps)) if gaps else float("nan"),
        "beta": float(np.mean([block["beta"] for block in blocks])),
        "cpu": content["cpu"],
    }


def never_worse(scenarios: Sequence[str], seeds: Sequence[int | None], metric: str = "ndcg@10") -> dict[str, Any]:
    """Final − local on own test items, for every platform of every scenario, pooled over seeds.

    The pooled interval takes the seeds' paired bootstrap intervals as independent. A platform whose verdict is local
    differs by exactly 0, so the share of the runs in which the federation is used stands beside the gain.
    """
    report: dict[str, Any] = {}
    for scenario in scenarios:
        runs = [run_seed(scenario, seed, ["cross.ceiling=false"]) for seed in seeds]
        for name in runs[0]["platforms"]:
            parts = [run["platforms"][name] for run in runs]
            report[f"{scenario}/{name}"] = pooled_difference(
                [part["own"]["final_minus_local"][metric] for part in parts]
            ) | {"users": parts[0]["users"], "verdicts": [part["verdict"] for part in parts]}
    gains = [entry["mean"] for entry in report.values()]
    return {
        "metric": metric,
        "mean_over_platforms": float(np.mean(gains)),
        "upper_end_at_least_0_everywhere": all(entry["upper"] >= 0 for entry in report.values()),
        "lower_end_at_least_-0.005": sum(entry["lower"] >= -0.005 for entry in report.values()),
        "platforms": report,
    }


def pooled_difference(intervals: Sequence[Sequence[float]]) -> dict[str, float]:
    """Mean and 95 % interval of the mean of several ``[mean, lower, upper]``, taken as independent.

    >>> pooled_difference([[0.25, 0.0, 0.5], [0.75, 0.5, 1.0]])["mean"]
    0.5
    """
    values = np.array(intervals)
    half_width = float(np.sqrt((((values[:, 2] - values[:, 1]) / 2) ** 2).sum()) / len(values))
    mean = float(values[:, 0].mean())
    return {
        "mean": mean,
        "lower": mean - half_width,
        "upper": mean + half_width,
        "worst_seed": float(values[:, 0].min()),
    }


def bench_quickstart() -> dict[str, Any]:
    """:func:`cross_figures` of the embedded data."""
    return cross_figures("quickstart", (None, *SEEDS))


def bench_movies(data: Path) -> dict[str, Any]:
    """:func:`cross_figures` of two real platforms."""
    os.environ["CROSSFED_DATA"] = str(data.resolve())
    return cross_figures("movies", (None, 2, 3))


def bench_never_worse(data: Path) -> dict[str, Any]:
    """:func:`never_worse` of all shipped scenarios."""
    os.environ["CROSSFED_DATA"] = str(data.resolve())
    return never_worse(list(shipped_scenarios()), SEEDS)


def _main(names: Sequence[str]) -> None:
    entries: dict[str, Callable[[], dict[str, Any]]] = {
        "quickstart": bench_quickstart,
        "movies": lambda: bench_movies(Path(os.environ["CROSSFED_DATA"])),
        "never-worse": lambda: bench_never_worse(Path(os.environ["CROSSFED_DATA"])),
        "never-worse-quick": lambda: never_worse(["quickstart", "ml100k-silos"], SEEDS),
    }
    for name in names or ["quickstart"]:
        print(json.dumps({name: entries[name]()}, indent=1), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
