"""Measures the others' items as they are served against popularity, user by user, over several draws of hidden items.

Each draw trains the shared side of a federation and has every platform choose as its agent would; own models are left out, so
that it takes seconds to minutes. From the repository's root:

    export CROSSFED_DATA=FOLDER
    python -m simulations.bench.privacy.over_popularity hospitals courses --epsilon none 3 --seeds 1 2 3 4 5
    python -m simulations.bench.privacy.over_popularity quickstart --set plan.text.encoder=usem3 --ceiling
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.scoring.evaluation import gap_closed
from client.scoring.scorer import PopularityScorer
from common.errors import ConfigError
from simulations.bench.cross import METRIC, SEEDS, pooled_difference
from simulations.engine.datasets import SimulatedPlatform, make_platforms
from simulations.engine.federate import scenario_texts, simulation_secret
from simulations.evaluation.measure import CrossPlatformTask, Evaluator, shared_model, train_ceiling
from simulations.evaluation.other_catalogues import other_catalogues_of
from simulations.evaluation.pooled import without_privacy
from simulations.evaluation.privacy_cost import cross_choice, held_model, private_plan, train_shared
from simulations.scenarios.scenario import Scenario, load_scenario

Figures = dict[str, dict[str, Any]]


def over_popularity(
    name: str,
    seeds: Sequence[int | None],
    epsilon: float | None = None,
    *,
    overrides: Sequence[str] = (),
    ceiling: bool = False,
) -> dict[str, Any]:
    """Recall@20 of hidden items by platform: means over the draws, and served − popularity with its 95 % interval.

    Args:
        name: of the scenario.
        seeds: one a draw; None is the shipped one.
        epsilon: of each draw's run; None: without privacy.
        overrides: of the scenario's settings, ``key=value``.
        ceiling: also how much of the gap from popularity to the ceiling is closed; trains once more a platform.
    """
    draws = [_draw(name, seed, epsilon, overrides, ceiling) for seed in seeds]
    platforms = {platform: _over_draws([draw[platform] for draw in draws]) for platform in draws[0]}
    parts = [part for part in next(iter(platforms.values())) if part != "difference"]
    return {
        "scenario": name,
        "epsilon": epsilon,
        "seeds": list(seeds),
        "mean": {part: float(np.mean([own[part] for own in platforms.values()])) for part in parts},
        "served_by_draw": [float(np.mean([own["served"] for own in draw.values()])) for draw in draws],
        "lowest_lower_end": min(own["difference"]["lower"] for own in platforms.values()),
        "platforms": platforms,
    }


def _over_draws(draws: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means of one platform's figures, and the pooled difference."""
    means = {part: float(np.mean([draw[part] for draw in draws])) for part in draws[0] if part != "difference"}
    return {**means, "difference": pooled_difference([draw["difference"] for draw in draws])}


def _draw(name: str, seed: int | None, epsilon: float | None, overrides: Sequence[str], with_ceiling: bool) -> Figures:
    scenario = load_scenario(name, [*overrides, *([] if seed is None else [f"seed={seed}"])])
    platforms = make_platforms(scenario)
    if all(platform.hidden is None for platform in platforms):
        raise ConfigError(
            f"{name} hides none of the others' items, so nothing can be measured; give platforms hide_shared"
        )
    scenario = scenario.with_platforms(len(platforms))
    plan = without_privacy(scenario.plan) if epsilon is None else private_plan(scenario.plan, epsilon)
    scenario = scenario.model_copy(update={"plan": plan})
    return _measured(scenario, platforms, with_ceiling)


def _measured(scenario: Scenario, platforms: list[SimulatedPlatform], with_ceiling: bool) -> Figures:
    secret = simulation_secret(scenario.seed)
    state, texts = train_shared(scenario, platforms), scenario_texts(scenario)
    plan = state.plan_of(scenario.plan)
    model, evaluator, figures = shared_model(state, plan), Evaluator(scenario), Figures()
    for platform in platforms:
        if platform.hidden is None:
            continue
        task = CrossPlatformTask.of(platform, platform.hidden, state, secret)
        view = other_catalogues_of(platform, platforms, state, secret, plan=plan, texts=texts)
        held = held_model(scenario, platform, view, model)
        blend = cross_choice(scenario, state, platform, view, held)
        scorers = {
            "popularity": PopularityScorer(task.foreign_popularity),
            "served": task.blended(held, blend, view.demand(platform.training)),
        }
        held_out = task.slice_of(task.truth)
        of = {part: evaluator.per_user(one, held_out, task.candidates, (METRIC,)) for part, one in scorers.items()}
        own: dict[str, Any] = {part: float(measured.values[METRIC].mean()) for part, measured in of.items()}
        own["ratio"] = own["served"] / own["popularity"]
        own["difference"] = evaluator.difference(of["served"], of["popularity"])[METRIC]
        if with_ceiling:
            best, half = train_ceiling(platforms, task, state, scenario, secret)
            slice_of_half, all_three = task.slice_of(half), {**scorers, "ceiling": task.shared(best)}
            merits = {
                part: float(evaluator.per_user(one, slice_of_half, task.candidates, (METRIC,)).values[METRIC].mean())
                for part, one in all_three.items()
            }
            own["gap_closed"] = gap_closed(merits["served"], merits["popularity"], merits["ceiling"])
        figures[platform.name] = own
    return figures


def bench_over_popularity(data: Path) -> dict[str, Any]:
    """``hospitals`` and ``courses``, five draws each, without privacy and at ε = 3."""
    os.environ["CROSSFED_DATA"] = str(data.resolve())
    return {
        f"{name}, {'no noise' if epsilon is None else f'ε = {epsilon:g}'}": over_popularity(name, SEEDS, epsilon)
        for name in ("hospitals", "courses")
        for epsilon in (None, 3.0)
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description="What is served of the others' items against popularity.")
    parser.add_argument("scenarios", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--epsilon", nargs="+", default=["none"])
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--ceiling", action="store_true")
    asked = parser.parse_args()
    for name in asked.scenarios:
        for epsilon in asked.epsilon:
            figures = over_popularity(
                name,
                asked.seeds or [None],
                None if epsilon == "none" else float(epsilon),
                overrides=asked.overrides,
                ceiling=asked.ceiling,
            )
            print(json.dumps(figures, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    _main()
