"""How the aggregator combines the deep model's updates, against NumPy by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from numpy.typing import NDArray

from common.catalogue import Vocabulary
from common.config.federation import FederationPlan
from common.contributions.run_plan import RunPlan, read_plan
from server.aggregation.towers import aggregate_towers
from server.federation.checkpoint import CheckpointStore
from server.federation.collect import Contribution
from server.federation.state import FederationState, RoundRecord, fresh_state, with_vocabulary
from tests.support import flower_message


@pytest.fixture(autouse=True)
def task() -> None:
    """Flower makes messages, which its strategies expect, only in processes that have a task."""
    flower_message(RecordDict())


M, D = 6, 3
PRIVATE = {
    "mode": "user", "user_bound": 100, "minimum_users": 1, "noise": "per_platform", "tuned_training": False,
}  # fmt: skip


def a_plan(aggregation: str = "fedavg", *, private: bool = False, item_ids: bool = True) -> FederationPlan:
    towers = {
        "dimension": D,
        "item_ids": item_ids,
        "encoders": [{"attribute": "look", "kind": "vector", "width": 2}],
        "sequence": {"kind": "mean"},
        "training": {"aggregation": aggregation, "server_learning_rate": 0.1, "rounds": 4},
        "privacy": {"noise_multiplier": 1.5, "clip_norm": 0.4},
    }
    privacy = PRIVATE if private else {"mode": "none"}
    plan = {"rounds": 2, "platforms": 3, "model": {"dimension": D}, "towers": towers, "privacy": privacy}
    return read_plan(plan)


def digests(count: int) -> NDArray[np.uint8]:
    return np.arange(count * 32, dtype=np.uint8).reshape(count, 32)


def a_state(plan: FederationPlan) -> FederationState:
    return with_vocabulary(fresh_state("run", plan.row), Vocabulary.empty().extended({"a": digests(M)}), plan)


DENSE = ("look_project_kernel", "look_project_bias", "look_gate")


def an_update(
    seed: int, state: FederationState, *, users: float, rows: dict[int, float], catalogue: list[int] | None = None
) -> Contribution:
    """A platform whose catalogue is some positions of the vocabulary; ``rows``: weight of each place in it."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {name: rng.normal(size=state.towers[name].shape).astype(np.float32) for name in DENSE}
    arrays |= {"example_weight": np.array([users]), "loss": np.array([float(seed)])}
    if "item_rows" in state.towers:
        arrays |= {
            "item_rows": rng.normal(size=(len(rows), D)).astype(np.float32),
            "row_positions": np.array(list(rows), dtype=np.int64),
            "row_weights": np.array(list(rows.values()), dtype=np.float32),
        }
    return Contribution((f"platform-{seed}",), np.array(catalogue or range(M), dtype=np.int32), arrays)


def five(state: FederationState) -> list[Contribution]:
    return [an_update(seed, state, users=seed, rows={0: 1.0}) for seed in (1, 2, 3, 4, 10)]


def stacked(parts: list[Contribution], name: str) -> NDArray[np.float64]:
    return np.stack([part.arrays[name] for part in parts]).astype(np.float64)


@pytest.mark.parametrize("aggregation", ["fedavg", "fedprox"])
def test_encoders_are_averaged_with_the_weight_of_their_users(aggregation: str) -> None:
    plan = a_plan(aggregation)
    parts = five(a_state(plan))
    step = aggregate_towers(plan, a_state(plan), parts)
    for name in DENSE:
        expected = np.average(stacked(parts, name), axis=0, weights=[1, 2, 3, 4, 10])
        assert step.state.towers[name] == pytest.approx(expected, abs=1e-6)
        assert step.state.towers[name].dtype == np.float32
    assert step.platforms == tuple(f"platform-{seed}" for seed in (1, 2, 3, 4, 10))
    assert step.loss == pytest.approx(np.average([1, 2, 3, 4, 10], weights=[1, 2, 3, 4, 10]))


def test_the_median_is_by_coordinate_and_robust_to_one_platform() -> None:
    plan = a_plan("median")
    parts = five(a_state(plan))
    for name in DENSE:
        parts[4].arrays[name][...] = 1e6  # type: ignore[index]
    step = aggregate_towers(plan, a_state(plan), parts)
    for name in DENSE:
        assert step.state.towers[name] == pytest.approx(np.median(stacked(parts, name), axis=0), abs=1e-6)
        assert np.abs(step.state.towers[name]).max() < 10


def test_the_trimmed_mean_leaves_out_a_fifth_at_either_end() -> None:
    plan = a_plan("trimmed_mean")
    parts = five(a_state(plan))
    step = aggregate_towers(plan, a_state(plan), parts)
    for name in DENSE:
        expected = np.sort(stacked(parts, name), axis=0)[1:-1].mean(axis=0)
        assert step.state.towers[name] == pytest.approx(expected, abs=1e-6)


def test_fedadam_steps_along_the_mean_change_and_keeps_its_moments() -> None:
    plan, beta1, beta2 = a_plan("fedadam"), 0.9, 0.99
    state = a_state(plan)
    m, v = ({name: np.zeros(state.towers[name].shape) for name in DENSE} for _ in range(2))
    weights = {name: state.towers[name].astype(np.float64) for name in DENSE}
    for tower_round in range(1, 4):
        parts = [an_update(10 * tower_round + p, state, users=p, rows={0: 1.0}) for p in (1, 3)]
        state = aggregate_towers(plan, state, parts).state
        state = replace(state, tower_round=tower_round)
        for name in DENSE:
            delta = np.average(stacked(parts, name), axis=0, weights=[1, 3]) - weights[name]
            m[name] = beta1 * m[name] + (1 - beta1) * delta
            v[name] = beta2 * v[name] + (1 - beta2) * delta**2
            # Flower corrects the bias of both moments (Kingma & Ba 2015, end of section 2).
            eta = 0.1 * np.sqrt(1 - beta2 ** (tower_round + 1)) / (1 - beta1 ** (tower_round + 1))
            weights[name] = weights[name] + eta * m[name] / (np.sqrt(v[name]) + 1e-3)
            assert state.towers[name] == pytest.approx(weights[name], rel=1e-4, abs=1e-5), (tower_round, name)
            assert state.tower_slots[f"m.{name}"] == pytest.approx(m[name], rel=1e-4, abs=1e-6)
            assert state.tower_slots[f"v.{name}"] == pytest.approx(v[name], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("aggregation", ["fedavg", "fedadam", "median"])
def test_a_row_is_the_mean_over_those_who_trained_it(aggregation: str) -> None:
    plan = a_plan(aggregation)
    state = a_state(plan)
    first = an_update(1, state, users=9, rows={0: 2.0, 2: 0.5}, catalogue=[5, 0, 3])
    second = an_update(2, state, users=1, rows={1: 6.0, 0: 1.0}, catalogue=[1, 5, 2])
    rows = aggregate_towers(plan, state, [first, second]).state.towers["item_rows"]
    mine, theirs = first.arrays["item_rows"], second.arrays["item_rows"]
    assert rows[5] == pytest.approx((2 * mine[0] + 6 * theirs[0]) / 8, abs=1e-6)
    assert rows[3] == pytest.approx(mine[1], abs=1e-6)
    assert rows[1] == pytest.approx(theirs[1], abs=1e-6)
    for nobody in (0, 2, 4):
        assert np.array_equal(rows[nobody], state.towers["item_rows"][nobody])


def test_a_round_without_anybody_changes_nothing() -> None:
    for plan in (a_plan(), a_plan(private=True)):
        state = a_state(plan)
        step = aggregate_towers(plan, state, [])
        assert (step.state, step.platforms, step.loss) == (state, (), None)


def test_a_platform_that_trained_on_nobody_weighs_nothing() -> None:
    plan = a_plan()
    state = a_state(plan)
    idle, busy = an_update(1, state, users=0, rows={}), an_update(2, state, users=3, rows={1: 1.0})
    together, alone = (aggregate_towers(plan, state, parts) for parts in ([idle, busy], [busy]))
    assert all(np.array_equal(together.state.towers[n], alone.state.towers[n]) for n in state.towers)
    assert together.platforms == ("platform-1", "platform-2")


@pytest.mark.parametrize("aggregation", ["fedavg", "fedadam", "median", "trimmed_mean"])
def test_where_all_trained_on_nobody_the_model_stays(aggregation: str) -> None:
    plan = a_plan(aggregation)
    state = a_state(plan)
    step = aggregate_towers(plan, state, [an_update(seed, state, users=0, rows={}) for seed in (1, 2)])
    assert all(np.array_equal(step.state.towers[name], state.towers[name]) for name in state.towers)
    assert step.platforms == ("platform-1", "platform-2")


def a_noisy_sum(plan: FederationPlan, seed: int, vector: NDArray[np.float64]) -> Contribution:
    steps = np.rint(vector / RunPlan.of(plan).update_plan().noise.grid_step).astype(np.int64)
    return Contribution((f"platform-{seed}",), np.arange(M, dtype=np.int32), {"update": steps})


@pytest.mark.parametrize("item_ids", [True, False])
def test_under_privacy_the_server_steps_by_adam_on_the_noisy_sum(item_ids: bool) -> None:
    plan = a_plan(private=True, item_ids=item_ids)
    state, layout = a_state(plan), RunPlan.of(plan).update_layout(M)
    rng = np.random.default_rng(0)
    weights = {name: value.astype(np.float64) for name, value in state.towers.items()}
    m, v = ({name: np.zeros(value.shape) for name, value in weights.items()} for _ in range(2))
    for tower_round in (1, 2, 3):
        vectors = [rng.normal(size=layout.size) for _ in range(2)]
        parts = [a_noisy_sum(plan, seed, vector) for seed, vector in enumerate(vectors)]
        step = aggregate_towers(plan, state, parts)
        assert (step.platforms, step.loss) == (("platform-0", "platform-1"), None)
        state = replace(step.state, tower_round=tower_round)
        for name, gradient in layout.split(sum(vectors) / (1.5 * 0.4)).items():
            m[name] = 0.9 * m[name] + 0.1 * gradient
            v[name] = 0.99 * v[name] + 0.01 * gradient**2
            corrected = m[name] / (1 - 0.9**tower_round), v[name] / (1 - 0.99**tower_round)
            weights[name] -= 0.1 * corrected[0] / np.sqrt(corrected[1])
            assert state.towers[name] == pytest.approx(weights[name], abs=1e-3), (tower_round, name)


@pytest.mark.parametrize("private", [True, False])
def test_a_run_resumed_from_a_checkpoint_ends_at_the_same_result(tmp_path: Path, private: bool) -> None:
    plan = a_plan("fedadam", private=private)
    rng = np.random.default_rng(1)
    vectors = [rng.normal(size=RunPlan.of(plan).update_layout(M).size) for _ in range(3)]

    def advanced(state: FederationState, tower_round: int) -> FederationState:
        exact = [an_update(10 * tower_round + p, state, users=p, rows={p: 1.0}) for p in (1, 2)]
        parts = [a_noisy_sum(plan, 1, vectors[tower_round - 1])] if private else exact
        record = RoundRecord(
            round=2 + tower_round, seconds=1, bytes_up=1, bytes_down=1, objective=1.0, recall=None,
            platforms=("a",), phase="towers",
        )  # fmt: skip
        state = aggregate_towers(plan, state, parts).state
        return replace(state, tower_round=tower_round, server_round=2, history=(*state.history, record))

    straight = resumed = a_state(plan)
    for tower_round in (1, 2, 3):
        straight = advanced(straight, tower_round)
        checkpoints = CheckpointStore(tmp_path)
        checkpoints.save(advanced(resumed, tower_round), plan)
        found = CheckpointStore(tmp_path).latest(plan)
        assert found is not None
        resumed = found
    assert resumed.tower_round == straight.tower_round == 3
    assert resumed.history == straight.history
    for left, right in ((resumed.towers, straight.towers), (resumed.tower_slots, straight.tower_slots)):
        assert left.keys() == right.keys()
        assert all(np.array_equal(left[name], right[name]) and left[name].dtype == right[name].dtype for name in left)
    assert straight.tower_slots, "the optimiser has a state"


@pytest.mark.parametrize("private", [True, False])
def test_late_items_have_new_rows_and_the_others_keep_theirs(private: bool) -> None:
    plan = a_plan("fedadam", private=private)
    state = a_state(plan)
    parts = [a_noisy_sum(plan, 1, np.ones(RunPlan.of(plan).update_layout(M).size))] if private else five(state)
    state = aggregate_towers(plan, state, parts).state
    grown = with_vocabulary(state, state.vocabulary.extended({"b": digests(M + 2)}), plan)
    assert grown.towers["item_rows"].shape == (M + 2, D)
    assert np.array_equal(grown.towers["item_rows"][:M], state.towers["item_rows"])
    assert grown.towers["item_rows"][M:].any()
    for name in DENSE:
        assert np.array_equal(grown.towers[name], state.towers[name])
    vector = np.ones(RunPlan.of(plan).update_layout(M + 2).size)
    again = [a_noisy_sum(plan, 1, vector)] if private else five(grown)
    assert aggregate_towers(plan, grown, again).state.towers["item_rows"].shape == (M + 2, D)
