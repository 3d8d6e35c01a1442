"""The comparison of sequence settings: its average is the aggregator's, its clock ends, its choice looks at validation."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import RecordDict

from common.catalogue import Vocabulary
from common.config.federation import FederationPlan
from common.config.model import FactorizationConfig
from common.config.privacy import PrivacyConfig
from common.contributions.tower_variables import ITEM_ROWS, initial_values, tower_variables
from common.contributions.update_kind import EXAMPLES, LOSS, ROW_POSITIONS, ROW_WEIGHTS
from server.aggregation.towers import aggregate_towers
from server.federation.collect import Contribution
from server.federation.state import fresh_state, with_vocabulary
from simulations.bench.sequences.data import load_histories, pack
from simulations.bench.sequences.search import _chosen
from simulations.bench.sequences.settings import SETTINGS
from simulations.bench.sequences.training import Clock, averaged
from tests.support import flower_message, matrix


def parts(before: dict[str, np.ndarray], users: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    """Updates of platforms that trained some of the rows."""
    rng = np.random.default_rng(1)
    found = []
    for count in users:
        trained = np.flatnonzero(rng.random(6) < 0.7)
        update = {name: (value + rng.normal(size=value.shape)).astype(np.float32) for name, value in before.items()}
        update[ITEM_ROWS] = update[ITEM_ROWS][trained]
        update |= {ROW_POSITIONS: trained, ROW_WEIGHTS: rng.random(len(trained)).astype(np.float32) + 0.1}
        found.append(update | {EXAMPLES: np.array([float(count)]), LOSS: np.array([1.0])})
    return found


def test_the_average_is_the_aggregators() -> None:
    config = SETTINGS["federated-smoke"].config
    model, privacy = FactorizationConfig(dimension=4), PrivacyConfig(mode="none")
    plan = FederationPlan(rounds=1, platforms=2, model=model, privacy=privacy, towers=config)
    before = initial_values(tower_variables(config), 6, 0)
    updates = parts(before, (3, 40))
    digests = np.arange(6 * 32, dtype=np.uint8).reshape(6, 32)
    vocabulary = Vocabulary.empty().extended({"p0": digests})
    state = replace(with_vocabulary(fresh_state("run", plan.row), vocabulary, plan), towers=before)
    flower_message(RecordDict())  # its messages need a process that has a task
    places = np.arange(6, dtype=np.int32)
    step = aggregate_towers(plan, state, [Contribution((f"p{n}",), places, one) for n, one in enumerate(updates)])
    ours = averaged(before, updates)
    assert ours.keys() == step.state.towers.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, step.state.towers[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_one_platforms_update_is_the_model() -> None:
    before = initial_values(tower_variables(SETTINGS["smoke"].config), 6, 0)
    update = parts(before, (5,))[0] | {ROW_POSITIONS: np.arange(6), ITEM_ROWS: np.ones((6, 8), np.float32)}
    assert averaged(before, [update])[ITEM_ROWS].min() == 1.0


def test_a_training_is_over_by_rounds_or_by_time() -> None:
    counted, timed = Clock(4, float("inf")), Clock(4, 0.0)
    for clock in (counted, timed):
        clock.tick()
    assert counted.progress == 0.25
    assert timed.progress >= 1.0, "the time was over before the first round was"


def test_the_best_on_validation_is_chosen_pooled_and_federated() -> None:
    curves = {
        "smoke": [{"round": 1, "ndcg@10": 0.3}, {"round": 2, "ndcg@10": 0.2}],
        "hstu-128x4": [{"round": 3, "ndcg@10": 0.1}],
        "federated-smoke": [{"round": 5, "ndcg@10": 0.1}],
        "federated-hstu-128x4": [],
    }
    assert list(_chosen(curves)) == [
        ("pooled", "smoke", {"rounds": 2, "stop": 1}),
        ("federated", "federated-smoke", {"rounds": 5, "stop": 5}),
    ]


def test_packed_histories_are_the_same(tmp_path: Path) -> None:
    histories = matrix([[4, 1], [], [2, 3, 0]], 5)
    pack(histories, tmp_path / "packed.npz")
    found = load_histories(tmp_path / "packed.npz")
    assert found.n_items == 5
    np.testing.assert_array_equal(found.indices, histories.indices)
    np.testing.assert_array_equal(found.indptr, histories.indptr)


def test_federated_settings_are_named_so() -> None:
    for name, setting in SETTINGS.items():
        assert name.startswith("federated") == (setting.platforms > 1)


def test_what_runs_on_a_gpu_loads_neither_flower_nor_polars() -> None:
    code = (
        "import sys, simulations.bench.sequences.search, simulations.bench.sequences.step, client.towers.histories\n"
        "assert not {'flwr', 'polars', 'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
