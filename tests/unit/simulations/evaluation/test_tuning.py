from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.contributions.run_plan import read_plan
from simulations.engine.datasets import make_platforms
from simulations.engine.federate import simulation_secret
from simulations.evaluation.cross_weights import smallest_of_the_best, tune_weights
from tests.private_support import private_scenario
from tests.support import small_plan


def grids_of(mean: list[list[float]], noise: float, k: int = 40) -> np.ndarray:
    shape = (k, len(mean), len(mean[0]))
    return np.array(mean) + noise * np.random.default_rng(0).standard_normal(shape)


def test_a_clear_best_is_chosen() -> None:
    grids = grids_of([[1.0, 1.02, 1.0], [1.0, 1.01, 1.3], [0.9, 1.0, 1.1]], noise=0.05)
    assert smallest_of_the_best(grids, np.ones(40)) == (1, 2)


def test_without_a_clear_gain_nothing_is_added_to_the_factors() -> None:
    grids = grids_of([[1.0, 1.0], [1.001, 1.0]], noise=0.05)
    assert smallest_of_the_best(grids, np.ones(40)) == (0, 0)


def test_slices_count_by_their_weight() -> None:
    one, other = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [3.0, 0.0]])
    grids = np.stack([one, one, other, other])
    assert smallest_of_the_best(grids, np.array([100.0, 100.0, 1.0, 1.0])) == (0, 1)
    assert smallest_of_the_best(grids, np.array([1.0, 1.0, 100.0, 100.0])) == (1, 0)


def test_a_single_slice_decides_by_itself() -> None:
    assert smallest_of_the_best(np.array([[[1.0, 1.1], [1.05, 1.2]]]), np.ones(1)) == (1, 1)


def test_a_third_axis_is_chosen_by_the_same_rule() -> None:
    flat = grids_of([[1.0, 1.0], [1.001, 1.0]], noise=0.05)
    # The item-item model helps by a fifth at its second weight, and no more at its third.
    grids = np.stack([flat, flat + 0.2, flat + 0.2], axis=1)
    assert smallest_of_the_best(grids, np.ones(40)) == (1, 0, 0)
    assert smallest_of_the_best(np.stack([flat, flat, flat], axis=1), np.ones(40)) == (0, 0, 0)


@pytest.mark.parametrize("linear", [None, {"regularization": 3.0}])
def test_the_item_item_models_weight_is_tuned_where_the_plan_has_one(
    tmp_path: Path, linear: dict[str, float] | None
) -> None:
    plan = read_plan(small_plan(rounds=2).model_dump() | {"linear": linear})
    cross = {"betas": [0.0, 0.5], "attribute_weights": [0.0, 1.0], "linear_weights": [0.0, 1.0, 2.0], "tuning_draws": 1}
    scenario = private_scenario(tmp_path, users=90, items=200, plan=plan.model_dump(mode="json"), cross=cross)
    seen: list[np.ndarray] = []

    def chosen(grids: np.ndarray, weights: np.ndarray) -> tuple[int, ...]:
        seen.append(grids)
        return grids.shape[1] - 1, 0, 1

    platforms = make_platforms(scenario)
    found = tune_weights(platforms, scenario, simulation_secret(scenario.seed), choose=chosen)
    expected = {"attribute_weight": 0.0, "beta": 0.5} | ({} if linear is None else {"linear_weight": 2.0})
    assert found
    assert all(weights == expected for weights in found.values())
    (grids,) = seen
    assert grids.shape[1:] == (1 if linear is None else 3, 2, 2)
    if linear is not None:
        assert not np.allclose(grids[:, 0], grids[:, 2]), "it changes what is ranked"
    # The truth of the scenario has no say in it.
    shuffled = [
        replace(
            p,
            hidden=None
            if p.hidden is None
            else replace(
                p.hidden,
                interactions=p.hidden.interactions.select_entries(np.zeros(p.hidden.interactions.nnz, dtype=bool)),
            ),
        )
        for p in platforms
    ]
    tune_weights(shuffled, scenario, simulation_secret(scenario.seed), choose=chosen)
    assert np.array_equal(seen[1], grids)
