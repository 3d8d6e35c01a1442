"""A platform describes common and foreign items by the same hand, in the product and in tuning alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from client.data.dataset import ItemTable
from client.data.training import TrainingData
from simulations.engine.datasets import SimulatedPlatform, make_platforms
from simulations.engine.federate import make_agents, run_federation, simulation_secret
from simulations.evaluation.other_catalogues import other_catalogues_of
from simulations.evaluation.pooled import PlatformMatrix, train_pooled
from simulations.evaluation.privacy_cost import private_plan
from simulations.scenarios.scenario import Scenario
from tests.support.histories import original, scenario_of, write

pytestmark = pytest.mark.usefixtures("one_thread")
CASE = "random per user"


@pytest.fixture
def world(tmp_path: Path) -> tuple[Scenario, list[SimulatedPlatform]]:
    for name, part in original(CASE).items():
        write(tmp_path / "data", name, part)
    scenario = scenario_of(CASE, tmp_path / "data")
    platforms = make_platforms(scenario)
    return scenario.with_platforms(len(platforms)), platforms


def otherwise_described(training: TrainingData) -> TrainingData:
    items = training.items
    odd = tuple(("own words", f"shelf {i % 4}") for i in range(len(items)))
    titles = tuple(f"Nr. {i} (20{i % 20:02d})" for i in range(len(items)))
    return replace(training, items=ItemTable(items.keys, titles, odd, pl.DataFrame()))


def test_the_simulators_view_is_that_of_the_product(
    world: tuple[Scenario, list[SimulatedPlatform]], tmp_path: Path
) -> None:
    scenario, platforms = world
    # Each in its own words, so that it matters whose are used.
    platforms[0] = replace(platforms[0], training=otherwise_described(platforms[0].training))
    agents = make_agents(platforms, scenario, tmp_path / "platforms", {})
    outcome = run_federation(agents, scenario.plan, tmp_path / "aggregator")
    for platform, agent in zip(platforms, agents, strict=True):
        model = agent.store.load()
        view = other_catalogues_of(
            platform, platforms, outcome.state, simulation_secret(scenario.seed), plan=scenario.plan
        )
        (attributes,) = (part for part in model.cross.parts if part.name == "attributes")
        kept = attributes.arrays()
        expected = view.attributes(platform.training)
        assert np.ptp(expected.item_factors, axis=0).sum() > 0
        assert kept["items"].tobytes() == expected.item_factors.tobytes()
        assert kept["tastes"].tobytes() == expected.tastes.tobytes()
        assert model.foreign_popularity.tobytes() == view.demand(platform.training).tobytes()


def test_own_words_change_nothing_elsewhere(world: tuple[Scenario, list[SimulatedPlatform]]) -> None:
    scenario, platforms = world
    secret = simulation_secret(scenario.seed)
    state = train_pooled({p.name: PlatformMatrix.of(p.training) for p in platforms}, scenario.plan, secret)
    here = platforms[0]
    odd = replace(here, training=otherwise_described(here.training))
    plain = other_catalogues_of(here, platforms, state, secret, plan=scenario.plan)
    other = other_catalogues_of(odd, [odd, *platforms[1:]], state, secret, plan=scenario.plan)
    assert (plain.cards.titles, plain.cards.genres) == (other.cards.titles, other.cards.genres)
    assert plain.demand(here.training).tobytes() == other.demand(odd.training).tobytes()
    fitted = [view.attributes(p.training) for view, p in ((plain, here), (other, odd))]
    assert fitted[0].item_factors.tobytes() == fitted[1].item_factors.tobytes()


def test_noisy_counts_are_not_read_by_the_attributes(world: tuple[Scenario, list[SimulatedPlatform]]) -> None:
    scenario, platforms = world
    secret = simulation_secret(scenario.seed)
    state = train_pooled({p.name: PlatformMatrix.of(p.training) for p in platforms}, scenario.plan, secret)
    plan = private_plan(scenario.plan, 3.0)
    noise = np.random.default_rng(0).normal(0, 50, len(state.item_counts))
    noisy = replace(state, item_counts=state.item_counts + noise)
    views = [other_catalogues_of(platforms[0], platforms, one, secret, plan=plan) for one in (state, noisy)]
    fitted = [view.attributes(platforms[0].training).item_factors.tobytes() for view in views]
    assert fitted[0] == fitted[1]
    assert views[1].demand(platforms[0].training).tobytes() == noisy.item_counts.tobytes()
