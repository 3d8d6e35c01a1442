"""The cost curve: partition and one round over 1, 10 and 100 million interactions, on a Ray cluster of this machine.

``python -m simulations.bench.scale.curve 1 10 100 --folder DIR --output docs/scale.json`` measures, and deletes what it wrote;
each size runs in processes of its own. ``… --draw docs/scale.json docs/scale.svg`` draws what was measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from client.contributions.factor_sums import PlainStatistics, PrivateCounts, PrivateStatistics
from client.deploy.loading import load_training_data
from client.deploy.partition import partition_users
from client.sharding.platform import make_engine
from client.training.engine import Engine, LocalEngine, UserSum
from common.contributions.factors import UserLevelMechanism
from common.contributions.run_plan import RunPlan
from common.deploy.console import say
from common.deploy.roles import PlatformConfig
from simulations.bench.scale.memory import core_seconds, watched
from simulations.bench.scale.synthetic_log import write_log
from simulations.engine.cluster import local_cluster

ITEMS = 20_000
DIMENSION = 32
WORKERS = 2
_GIB = 2**30


def scale_curve(
    millions: tuple[int, ...] = (1, 10), folder: Path | None = None, output: Path | None = None
) -> dict[str, Any]:
    """Seconds and memory of a partition and a round at each size.

    Args:
        millions: interactions; a user has a hundred.
        folder: for files that are deleted again, about 5 GiB for a hundred million; a temporary one unless given.
        output: JSON that is written after each size.

    Returns:
        ``sizes``: one dict each, as :func:`_partition` and :func:`_rounds` have them.
    """
    found: dict[str, Any] = {"items": ITEMS, "dimension": DIMENSION, "workers": WORKERS, "sizes": []}
    for size in millions:
        scratch = Path(tempfile.mkdtemp(prefix="scale-", dir=folder))
        try:
            measured: dict[str, Any] = {"millions": size}
            for step in _STEPS:
                measured |= _apart(step, scratch, size)
                say(f"{size} M: {step} done", err=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        found["sizes"].append(measured)
        if output is not None:
            output.write_text(json.dumps(found, indent=1) + "\n")
    return found


def bench_scale() -> dict[str, Any]:
    """As :func:`scale_curve`, of one and ten million."""
    return scale_curve()


def _apart(step: str, folder: Path, millions: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "simulations.bench.scale.curve",
        "--step",
        step,
        str(millions),
        "--folder",
        str(folder),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _config(folder: Path) -> PlatformConfig:
    return PlatformConfig.model_validate(
        {
            "name": "large",
            "aggregator": "h.example.org:9443",
            "state": folder / "state",
            "plan": {
                "platforms": 1,
                "model": {"dimension": DIMENSION, "backend": "numba"},
                "privacy": {"mode": "user", "noise": "per_platform", "tuned_training": False, "user_bound": 10**9},
            },
            "data": {
                "interactions": {"path": folder / "views"},
                "items": {"path": folder / "items.csv"},
            },
            "training": {"engine": "ray", "shards": folder / "shards", "sample_users": 1000},
        }
    )


def _generate(folder: Path, millions: int) -> dict[str, Any]:
    write_log(folder, millions * 10**6, users=millions * 10**4, items=ITEMS)
    return {"log_gib": _size(folder / "views")}


def _partition(folder: Path, millions: int) -> dict[str, Any]:
    """Seconds and memory of the partition; what was kept, and the shards' size."""
    with watched() as peak:
        began, used = time.perf_counter(), core_seconds()
        users, _ = partition_users(_config(folder), None, lambda _: None)
        seconds, used = time.perf_counter() - began, core_seconds() - used
    shutil.rmtree(folder / "views")
    return {
        "users": users.n_users,
        "interactions": users.n_interactions,
        "shards": len(users.shards),
        "shards_gib": _size(users.folder),
        "partition_seconds": seconds,
        "partition_core_seconds": used,
        "partition_peak_gib": peak.agent / _GIB,
    }


def _rounds(folder: Path, millions: int) -> dict[str, Any]:
    """Seconds of sums on the cluster, by the clock and of cores, as :func:`_timed` has them; peaks of agent, worker and all."""
    config = _config(folder)
    with local_cluster(WORKERS) as cluster:
        at = config.training.model_copy(update={"address": cluster.address})
        config = config.model_copy(update={"training": at})
        engine = make_engine(config, load_training_data(config))
        engine.solver(config.plan.training)
        with watched(cluster.pid) as peak:
            spent = _timed(engine, config, cluster.pid)
    return {
        **spent,
        "agent_peak_gib": peak.agent / _GIB,
        "worker_peak_gib": peak.worker / _GIB,
        "total_peak_gib": peak.total / _GIB,
    }


def _locally(folder: Path, millions: int) -> dict[str, Any]:
    """The same in one process of one thread, up to ten million: what it is compared with."""
    if millions > 10:
        return {}
    config = _config(folder)
    everyone = config.training.model_copy(update={"sample_users": 10**9})
    with watched() as peak:
        data = load_training_data(config.model_copy(update={"training": everyone}))
        spent = _timed(LocalEngine(data), config)
    return {
        **{f"local_{name}": value for name, value in spent.items()},
        "local_peak_gib": peak.agent / _GIB,
    }


def _timed(engine: Engine, config: PlatformConfig, root: int | None = None) -> dict[str, float]:
    """``NAME_seconds`` and ``NAME_core_seconds`` of each sum: counts and a round under privacy, a round without."""
    plan = config.plan
    mechanism = UserLevelMechanism(RunPlan.of(plan).release_plan())
    items = np.random.default_rng(0).normal(scale=0.1, size=(ITEMS, DIMENSION)).astype(np.float32)
    asked: dict[str, UserSum] = {
        "counts": PrivateCounts(mechanism, None, ITEMS),
        "round": PrivateStatistics(mechanism, None, ITEMS, 1, plan.training, items, np.ones(ITEMS)),
        "plain": PlainStatistics(plan.training, 0.0, items),
    }
    spent = {}
    for name, what in asked.items():
        began, used = time.perf_counter(), core_seconds(root)
        engine.sum(what)
        spent[f"{name}_seconds"] = time.perf_counter() - began
        spent[f"{name}_core_seconds"] = core_seconds(root) - used
    return spent


def _size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / _GIB


_STEPS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "generate": _generate,
    "partition": _partition,
    "rounds": _rounds,
    "local": _locally,
}


def draw(measured: Path, picture: Path) -> None:
    """Draw what :func:`scale_curve` measured: seconds and memory by the number of interactions."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "crossfed"
    from matplotlib import pyplot as plt

    sizes = json.loads(measured.read_text())["sizes"]
    millions = [size["millions"] for size in sizes]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    work = {
        "partition": "partition, once",
        "round": "round under privacy, 2 workers",
        "plain": "round without privacy, 2 workers",
        "local_round": "round under privacy, one process",
    }
    memory = {
        "total": "cluster and agent",
        "worker": "a worker",
        "agent": "agent",
        "partition": "partition",
        "local": "one process",
    }
    for name, label in work.items():
        _line(left, millions, [size.get(f"{name}_seconds") for size in sizes], label)
    for name, label in memory.items():
        _line(right, millions, [size.get(f"{name}_peak_gib") for size in sizes], label)
    left.set(xscale="log", yscale="log", ylabel="seconds")
    right.set(xscale="log", ylabel="GiB at most", ylim=(0, None))
    for axes in (left, right):
        axes.set_xlabel("million interactions")
        axes.set_xticks(millions, [f"{size:,}" for size in millions])
        axes.minorticks_off()
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(picture, metadata={"Date": None})


def _line(axes: Any, millions: list[int], values: list[float | None], label: str) -> None:
    points = [(size, value) for size, value in zip(millions, values, strict=True) if value is not None]
    axes.plot(*zip(*points, strict=True), marker="o", label=label)


def main() -> None:
    """Measure, or draw what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("millions", nargs="*", type=int, default=[1, 10])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--step", choices=_STEPS)
    parser.add_argument("--draw", nargs=2, type=Path, metavar=("JSON", "SVG"))
    given = parser.parse_args()
    if given.draw:
        draw(*given.draw)
    elif given.step:
        say(json.dumps(_STEPS[given.step](given.folder, given.millions[0])))
    else:
        say(json.dumps(scale_curve(tuple(given.millions), given.folder, given.output), indent=1))


if __name__ == "__main__":
    main()
