from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.split import halve_per_user
from simulations.engine.federate import simulation_secret
from simulations.evaluation.measure import (
    CrossPlatformTask,
    Evaluator,
    lookup,
    measure_cross,
    measure_own,
    positions_of,
    shared_model,
    side_by_side,
    train_ceiling,
)
from simulations.run import SimulationResult, load_result, simulate
from simulations.scenarios.scenario import Scenario
from tests.support import matrix
from tests.support.scenarios import scenario_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def scenario(folder: Path) -> Scenario:
    return scenario_of(folder)


@pytest.fixture(scope="module")
def result(scenario: Scenario, folder: Path) -> SimulationResult:
    return simulate(scenario, folder / "out")


METRICS = {"recall@20", "ndcg@10", "hr@10", "precision@10", "f1@10", "mrr", "map@10", "users", "ci95"}


def test_the_result_file_is_the_content_and_has_every_promised_key(result: SimulationResult, folder: Path) -> None:
    assert load_result(folder / "out") == json.loads(json.dumps(result.content))
    content = result.content
    assert {
        "scenario",
        "seed",
        "backend",
        "model",
        "privacy",
        "vocabulary",
        "platforms",
        "pooled",
        "rounds",
        "seconds",
    } <= set(content)
    assert content["privacy"]["mode"] == "none"
    assert content["vocabulary"] == {"items": 30, "shared": 18}
    assert set(content["seconds"]) == {"total", "platforms", "aggregator"}
    for record in content["rounds"]:
        assert {"round", "seconds", "bytes_up", "bytes_down", "objective"} <= set(record)
    for name, platform in content["platforms"].items():
        assert {"users", "items", "interactions", "verdict", "own", "cross"} <= set(platform)
        for scorer in ("popularity", "local", "shared", "final"):
            assert set(platform["own"][scorer]) >= METRICS
        for scorer in ("popularity", "shared", "final", "ceiling"):
            assert set(platform["cross"][scorer]) >= METRICS
        assert set(content["pooled"][name]) >= METRICS


def test_every_field_of_the_result_is_documented(result: SimulationResult) -> None:
    documented = (Path(__file__).parents[4] / "docs" / "scenarios.md").read_text()
    platform = result.content["platforms"]["small"]
    fields = {*result.content, *platform, *platform["own"], *result.content["rounds"][0], *result.content["seconds"]}
    fields |= {*platform["cross"], *METRICS} - {"beta"}
    assert {field for field in fields if f"`{field}`" not in documented} == set()


def test_the_bytes_of_a_round_are_those_of_its_arrays(result: SimulationResult) -> None:
    row, packed, m = 4, 10, 30
    catalogues = [platform["items"] for platform in result.content["platforms"].values()]
    for record in result.content["rounds"]:
        assert record["bytes_down"] == 2 * m * (4 * row + 8)
        assert record["bytes_up"] == sum(c * 4 * (packed + row) + 8 * (row * row + 1 + 2) for c in catalogues)


def test_without_validated_users_or_hidden_items_the_blocks_are_null(folder: Path, tmp_path: Path) -> None:
    plain = scenario_of(folder)
    partition = plain.partition.model_copy(update={"common_items": 1.0})  # type: ignore[union-attr]
    content = simulate(plain.model_copy(update={"partition": partition}), tmp_path).content
    assert [platform["cross"] for platform in content["platforms"].values()] == [None, None]


def test_own_figures_of_the_stored_model_are_those_of_the_result(scenario: Scenario, result: SimulationResult) -> None:
    for agent, platform in zip(result.outcome.agents, result.platforms, strict=True):
        again = measure_own(Evaluator(scenario), platform, agent.store.load())
        assert again == result.content["platforms"][platform.name]["own"]


def recall_by_hand(scores: np.ndarray, known: Any, truth: Any, candidates: np.ndarray, k: int) -> float:
    found = []
    for user in range(truth.n_users):
        wanted = set(truth.row(user).tolist()) & set(np.flatnonzero(candidates).tolist())
        if not wanted:
            continue
        allowed = [i for i in np.flatnonzero(candidates) if i not in set(known.row(user).tolist())]
        # Ties go against the scorer: a wanted item comes after the others of its score.
        ranked = sorted(allowed, key=lambda i: (-scores[user, i], i in wanted))[:k]
        found.append(len(wanted & set(ranked)) / min(k, len(wanted)))
    return float(np.mean(found))


def test_cross_platform_recall_is_that_over_the_hidden_items_alone(
    scenario: Scenario, result: SimulationResult
) -> None:
    secret = simulation_secret(scenario.seed)
    for agent, platform in zip(result.outcome.agents, result.platforms, strict=True):
        assert platform.hidden is not None
        model = agent.store.load()
        task = CrossPlatformTask.of(platform, platform.hidden, result.outcome.state, secret)
        hidden = lookup(platform.hidden.keys, result.outcome.state.vocabulary, secret)
        assert np.array_equal(np.flatnonzero(task.candidates), np.sort(hidden[hidden >= 0]))
        users = np.arange(platform.training.train.n_users)
        scores = task.shared(model.shared).scores(task.histories, users)
        block = measure_cross(Evaluator(scenario), task, model.shared, model.cross_scorer(), None, None)
        expected = recall_by_hand(scores, task.histories, task.truth, task.candidates, 20)
        assert block["shared"]["recall@20"] == pytest.approx(expected)
        popularity = np.tile(task.foreign_popularity, (len(users), 1))
        expected = recall_by_hand(popularity, task.histories, task.truth, task.candidates, 20)
        assert block["popularity"]["recall@20"] == pytest.approx(expected)
        assert block["ceiling"] is block["gap_closed"] is None


def test_the_ceiling_is_scored_on_what_it_was_not_given(scenario: Scenario, result: SimulationResult) -> None:
    secret = simulation_secret(scenario.seed)
    platform = result.platforms[1]
    assert platform.hidden is not None
    task = CrossPlatformTask.of(platform, platform.hidden, result.outcome.state, secret)
    _, scored = train_ceiling(result.platforms, task, result.outcome.state, scenario, secret)
    given, expected = halve_per_user(task.truth, np.random.default_rng([scenario.seed, 21]))
    pairs = [set(zip(part.entry_users().tolist(), part.indices.tolist(), strict=True)) for part in (given, scored)]
    assert np.array_equal(scored.indices, expected.indices)
    assert not pairs[0] & pairs[1]
    assert len(pairs[0]) + len(pairs[1]) == task.truth.nnz


def test_positions_say_where_each_own_item_stands(scenario: Scenario, result: SimulationResult) -> None:
    secret = simulation_secret(scenario.seed)
    vocabulary = result.outcome.state.vocabulary
    for platform in result.platforms:
        positions = positions_of(platform.training, vocabulary, secret)
        assert np.array_equal(vocabulary.digests[positions], secret.digests(platform.training.items.keys))
    assert lookup(("nobody:1",), vocabulary, secret).tolist() == [-1]


def test_the_model_that_is_measured_is_the_one_that_platforms_hold(
    scenario: Scenario, result: SimulationResult
) -> None:
    held = result.outcome.agents[0].store.load().shared
    measured = shared_model(result.outcome.state, scenario.plan)
    assert held.item_parameters.tobytes() == measured.item_parameters.tobytes()
    assert (held.config, held.value_mean) == (measured.config, measured.value_mean)


def test_the_columns_of_another_matrix_go_behind_in_order_of_time() -> None:
    left, right = matrix([{0: 1.0, 1: 2.0}, {}], 2), matrix([{2: 3.0}, {0: 4.0}], 3)
    both = side_by_side(left, right)
    assert (both.n_users, both.n_items) == (2, 5)
    assert sorted(both.row(0).tolist()) == [0, 1, 4]
    assert both.row(1).tolist() == [2]
    assert dict(zip(both.indices.tolist(), both.values.tolist(), strict=True)) == {0: 1.0, 1: 2.0, 4: 3.0, 2: 4.0}


def test_the_same_seed_gives_the_same_result(scenario: Scenario, result: SimulationResult, tmp_path: Path) -> None:
    again = simulate(scenario, tmp_path).content

    def timeless(content: dict[str, Any]) -> Any:
        kept = {name: content[name] for name in ("platforms", "pooled", "vocabulary", "model")}
        rounds = [{name: value for name, value in record.items() if name != "seconds"} for record in content["rounds"]]
        return json.loads(json.dumps(kept | {"rounds": rounds}))

    assert timeless(again) == timeless(result.content)
