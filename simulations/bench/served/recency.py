"""Measures what it brings to fold users in by their latest items: chosen at home on validation users, reported on test.

Each user's last item is the test, the one before it validation; lists of all own items are ranked in full. From the
repository's root:

    export CROSSFED_DATA=FOLDER
    python -m simulations.bench.served.recency courses hospitals --epsilon none 3 --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.personalization.platform_model import PlatformModel
from common.metrics import paired_bootstrap
from simulations.engine.datasets import make_platforms
from simulations.engine.federate import make_agents, run_federation
from simulations.evaluation.measure import Evaluator
from simulations.evaluation.privacy_cost import private_plan
from simulations.scenarios.scenario import Scenario, load_scenario

Values = dict[str, dict[str, NDArray[np.float64]]]
"""By way to rank, by metric: float64 ``[n]`` over the users of all platforms."""
METRICS = ("hr@10", "ndcg@10")
_SPLIT = ("split.protocol=leave-last-out", "split.validation_users=1.0", "cross.ceiling=false")
_TUNING = ("personalization.anchored=false", "personalization.tuning_candidates=8")
"""A third of the shipped search: what local models are like is not the question here."""
ML1M = ("partition.platforms=null", "partition.equal_platforms=4")
_ML1M_USERS = 6040
CASES: Mapping[str, tuple[str, ...]] = {
    "ml1m-silos": (*ML1M, f"plan.privacy.user_bound={_ML1M_USERS // 2}", f"plan.privacy.delta={1 / _ML1M_USERS}"),
    "ml100k-silos": (),
    "quickstart": (),
    "courses": (),
    "hospitals": (),
    "insurance": (),
}
"""Scenarios with times, and what is set otherwise."""


def recency(
    name: str, *, seeds: Sequence[int] = (1, 2, 3), epsilon: float | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Means over users and seeds with and without, the difference with its 95 % interval over users, and what was chosen.

    Args:
        name: of the scenario.
        seeds: of partitions and splits, one a run.
        epsilon: of each run; None: without privacy.
        overrides: of the scenario's settings, ``key=value``.
    """
    runs = [_run(_scenario(name, seed, epsilon, overrides)) for seed in seeds]
    found: dict[str, Any] = {"scenario": name, "epsilon": epsilon, "seeds": list(seeds)}
    for model in ("local", "shared", "served"):
        for metric in METRICS:
            plain, latest = (
                np.concatenate([run[f"{model}{way}"][metric] for run, _ in runs]) for way in ("", " latest")
            )
            gain = paired_bootstrap(latest, plain, np.random.default_rng(0))
            found[f"{model} {metric}"] = {
                "plain": round(float(plain.mean()), 4),
                "latest": round(float(latest.mean()), 4),
                "gain": [round(gain.mean, 4), round(gain.lower, 4), round(gain.upper, 4)],
            }
    return found | {"chosen": [chosen for _, chosen in runs]}


def _scenario(name: str, seed: int, epsilon: float | None, overrides: Sequence[str]) -> Scenario:
    settings = (*CASES.get(name, ()), *_SPLIT, *_TUNING, f"seed={seed}", *overrides)
    scenario = load_scenario(name, settings)
    if epsilon is None:
        return scenario
    scenario = scenario.with_platforms(len(make_platforms(scenario)))
    return scenario.model_copy(update={"plan": private_plan(scenario.plan, epsilon)})


def _run(scenario: Scenario) -> tuple[Values, dict[str, Any]]:
    """Every platform as its agent would build and serve it."""
    platforms = make_platforms(scenario)
    scenario = scenario.with_platforms(len(platforms))
    evaluator, values, chosen = Evaluator(scenario), Values(), dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="crossfed-bench-") as folder:
        agents = make_agents(platforms, scenario, Path(folder) / "platforms", {})
        run_federation(agents, scenario.plan, Path(folder) / "aggregator")
        for platform, agent in zip(platforms, agents, strict=True):
            model = agent.store.load()
            chosen[platform.name] = {
                "verdict": model.verdict.name,
                **{name: asdict(one) for name, one in model.recencies.items()},
            }
            for way, one in (("", _plain(model)), (" latest", model)):
                for name in ("local", "shared", "served"):
                    scorer = one.own_scorer(None if name == "served" else name)
                    measured = evaluator.per_user(scorer, platform.test, metrics=METRICS).values
                    mine = values.setdefault(f"{name}{way}", {metric: np.zeros(0) for metric in METRICS})
                    for metric in METRICS:
                        mine[metric] = np.concatenate([mine[metric], measured[metric]])
    return values, chosen


def _plain(model: PlatformModel) -> PlatformModel:
    """The model with users folded in as in training; the verdict stays."""
    for name in model.recencies:
        model = model.with_recency(name, None)
    return model


def bench_recency(data: Path) -> list[dict[str, Any]]:
    """Every case without privacy, and MovieLens-1M at ε = 10 and 3, too; one seed of the larger one."""
    os.environ["CROSSFED_DATA"] = str(data.resolve())
    return [
        recency(name, seeds=(1,) if name == "ml1m-silos" else (1, 2, 3), epsilon=epsilon)
        for name in CASES
        for epsilon in ((None, 10.0, 3.0) if name == "ml1m-silos" else (None, 3.0))
    ]


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="+")
    parser.add_argument("--epsilon", nargs="+", default=["none"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--set", nargs="+", default=[])
    asked = parser.parse_args()
    for name in asked.scenarios:
        for text in asked.epsilon:
            epsilon = None if text == "none" else float(text)
            found = recency(name, seeds=asked.seeds, epsilon=epsilon, overrides=asked.set)
            print(json.dumps(found, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    _main()
