"""Measures what a deployed round costs beyond the platforms' own work: real processes on this machine, TLS, node keys, proxy.

python -m simulations.bench.deployed rounds
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from client.app import make_courier
from client.deploy.loading import load_training_data, make_agent
from common.config.federation import FederationPlan
from common.contributions.run_plan import read_plan
from common.errors import FederationError
from server.deploy.aggregator import begin_run
from server.deploy.runs import FINISHED
from server.federation.checkpoint import CheckpointStore
from server.strategy import FederatedFactorization
from simulations.engine.deployment import LocalFederation, PlatformFiles, provision
from simulations.engine.grid import InlineGrid

Figures = dict[str, Any]
_USERS, _ITEMS, _EACH = 200, 120, 12
_SETTINGS = {"personalization": {"tuning_candidates": 1, "anchored": False, "blend_weights": [1.0]}}


def bench_rounds(*, platforms: int = 4, rounds: int = 10) -> Figures:
    """Seconds of a round, over the rounds of one run: the whole, and beyond what the platforms themselves compute.

    The platforms are small, so that what is measured is Flower's and ours: polling, a process a message, transfer.
    """
    names = [f"platform-{number}" for number in range(platforms)]
    plan = read_plan(
        {
            "federation": "bench",
            "platforms": platforms,
            "min_platforms": platforms,
            "rounds": rounds,
            "tolerance": 0,
            "model": {"dimension": 16},
            "privacy": {"mode": "none"},
        }
    )
    with tempfile.TemporaryDirectory(prefix="crossfed-bench-") as name:
        folder = Path(name)
        files = {each: _files(folder, each, number) for number, each in enumerate(names)}
        federation = provision(folder / "f", plan, files, _SETTINGS)
        own = _own_seconds(federation, plan, folder / "inline")
        before = os.getloadavg()
        with federation.running():
            federation.wait_online(platforms)
            status = federation.wait_run(begin_run(federation.config), deadline=60.0 + 30.0 * rounds)
        if status.state != FINISHED or len(status.rounds) != rounds:
            raise FederationError(
                f"run {status.name} {status.state} after {status.server_round} rounds: {status.error}"
            )
    seconds = np.array([record["seconds"] for record in status.rounds])
    return {
        "platforms": platforms,
        "rounds": rounds,
        "mean_s": float(seconds.mean()),
        "a_platforms_own_s": own,
        "beyond_mean_s": float(seconds.mean()) - own,
        "beyond_median_s": float(np.median(seconds)) - own,
        "beyond_largest_s": float(seconds.max()) - own,
        "load_average_before": before,
        "load_average_after": os.getloadavg(),
    }


def _own_seconds(federation: LocalFederation, plan: FederationPlan, folder: Path) -> float:
    """Mean seconds a round that one platform computes, in this process once it is warm: deployed, they work side by side."""
    agents = {}
    for node, name in enumerate(federation.platforms, start=1):
        config = federation.platform_config(name).model_copy(update={"state": folder / name})
        agents[node] = make_agent(config, load_training_data(config))
    grid = InlineGrid(make_courier(lambda context: nullcontext(agents[context.node_id])), {node: {} for node in agents})
    before = 0.0
    for run in ("cold", "warm"):
        before = grid.platform_seconds
        FederatedFactorization(plan, CheckpointStore(folder / run), run_id=run).train(grid)
    return (grid.platform_seconds - before) / plan.rounds / len(agents)


def _files(folder: Path, name: str, number: int) -> PlatformFiles:
    rng = np.random.default_rng(number)
    files = PlatformFiles(folder / f"{name}.csv", folder / f"{name}-items.csv", "bench")
    first = number * _ITEMS // 2
    lines = [f"{user},{first + item}" for user in range(_USERS) for item in rng.permutation(_ITEMS)[:_EACH]]
    files.interactions.write_text("\n".join(["user_id,item_id", *lines]) + "\n")
    described = [f"{first + item},Item {first + item}" for item in range(_ITEMS)]
    files.items.write_text("\n".join(["item_id,title", *described]) + "\n")
    return files


def main(arguments: list[str]) -> None:
    """Run one benchmark and print its figures."""
    print(json.dumps(globals()[f"bench_{arguments[0]}"](), indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
