"""``model: auto`` against the models that scenarios had before, which were chosen by hand: shared factors, own items.

    CROSSFED_DATA=FOLDER python -m simulations.bench.settings.choice [SCENARIO ...] [--seeds 1 2 3]

Through the federation's own path, race included. Test interactions of every platform: Recall@20 and NDCG@10 of the local model,
of the shared factors with the fixed model and with ``auto``; and auto − fixed, user by user over all platforms, with a 95 %
paired bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.personalization.personalize import Personalizer
from client.scoring.evaluation import PerUserMetrics
from client.scoring.factors import own_factors, shared_on_own
from common.config.federation import FederationPlan
from common.config.model import FactorizationConfig
from common.metrics import paired_bootstrap
from simulations.engine.datasets import SimulatedPlatform, make_platforms
from simulations.engine.federate import simulation_secret
from simulations.evaluation.choice import choice_of
from simulations.evaluation.measure import Evaluator, positions_of, shared_model
from simulations.evaluation.privacy_cost import train_shared
from simulations.scenarios.scenario import Scenario, load_scenario

FIXED: dict[str, tuple[int, float, float, float]] = {
    "quickstart": (16, 8.0, 0.4, 0.0),
    "commerce": (8, 8.0, 0.4, 0.0),
    "social": (8, 8.0, 0.4, 0.0),
    "video": (8, 8.0, 0.4, 0.0),
    "hospitals": (16, 8.0, 0.4, 0.0),
    "courses": (16, 8.0, 0.4, 0.0),
    "insurance": (4, 8.0, 0.4, 0.0),
    "ml100k-silos": (32, 10.0, 0.3, 0.0),
    "movies": (32, 25.0, 1.0, 0.0),
    "films-people": (32, 25.0, 1.0, 0.0),
    "ml1m-silos": (64, 0.2045, 0.6, 0.5),
}
"""(d, λ, α₀, ν) that scenarios shipped with."""
METRICS = ("recall@20", "ndcg@10")
SEEDS = (1, 2, 3)
Figures = dict[str, Any]


def choices(names: Sequence[str] = (), *, seeds: Sequence[int] = SEEDS) -> Figures:
    """Figures by scenario, all unless named, over draws of partition and split."""
    return {name: _compare(name, seeds) for name in names or FIXED}


def bench_choice(data: Path) -> Figures:
    """:func:`choices` for ``make bench``."""
    os.environ["CROSSFED_DATA"] = str(data.resolve())
    return choices()


def _compare(name: str, seeds: Sequence[int]) -> Figures:
    draws = [_draw(name, seed) for seed in seeds]
    figures: Figures = {"seeds": list(seeds), "chosen": [chosen for chosen, _ in draws]}
    for metric in METRICS:
        by_platform: Figures = {}
        for platform in draws[0][1]:
            found = [values[platform] for _, values in draws]
            by_platform[platform] = {
                how: round(float(np.mean([one[how].values[metric].mean() for one in found])), 4) for how in found[0]
            }
        auto, fixed = (
            np.concatenate([one[how].values[metric] for _, values in draws for one in values.values()])
            for how in ("auto", "fixed")
        )
        gain = paired_bootstrap(auto, fixed, np.random.default_rng(0))
        interval = [round(value, 4) for value in (gain.mean, gain.lower, gain.upper)]
        figures[metric] = {**by_platform, "auto − fixed": interval}
    return figures


def _draw(name: str, seed: int) -> tuple[Figures, dict[str, dict[str, PerUserMetrics]]]:
    """The choice, and by platform the figures of every model on every test user."""
    scenario = load_scenario(name, [f"seed={seed}"])
    platforms = make_platforms(scenario)
    scenario = scenario.with_platforms(len(platforms))
    secret, evaluator = simulation_secret(scenario.seed), Evaluator(scenario)
    measured = {platform.name: {"local": _local(scenario, platform)} for platform in platforms}
    chosen: Figures = {}
    for how, plan in (("fixed", _by_hand(scenario)), ("auto", scenario.plan)):
        state = train_shared(scenario.model_copy(update={"plan": plan}), platforms)
        chosen = choice_of(plan, state) or {}
        shared = shared_model(state, state.plan_of(plan))
        for platform in platforms:
            scorer = shared_on_own(shared, positions_of(platform.training, state.vocabulary, secret))
            measured[platform.name][how] = evaluator.per_user(scorer, platform.test, metrics=METRICS)
    return {key: chosen[key] for key in ("setting", "steps")}, measured


def _by_hand(scenario: Scenario) -> FederationPlan:
    d, ridge, weight, exponent = FIXED[scenario.name]
    settings = {"dimension": d, "regularization": ridge, "unobserved_weight": weight}
    model = scenario.plan.model.model_copy(update={**settings, "regularization_exponent": exponent})
    return scenario.plan.with_model(model)


def _local(scenario: Scenario, platform: SimulatedPlatform) -> PerUserMetrics:
    config = scenario.personalization.model_copy(update={"seed": scenario.seed})
    base = FactorizationConfig(feedback=scenario.plan.model.feedback)
    model = Personalizer(platform.name, platform.training, base, config).local()
    return Evaluator(scenario).per_user(own_factors("local", model), platform.test, metrics=METRICS)


if __name__ == "__main__":
    if "CROSSFED_DATA" not in os.environ:
        sys.exit("set CROSSFED_DATA to the folder of the research data")
    parser = argparse.ArgumentParser(description="model: auto against models chosen by hand")
    parser.add_argument("scenarios", nargs="*", default=list(FIXED))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    arguments = parser.parse_args()
    for each in arguments.scenarios:
        print(json.dumps(choices([each], seeds=arguments.seeds), ensure_ascii=False), flush=True)
