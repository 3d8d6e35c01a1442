from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.catalogue import Vocabulary
from common.config.federation import FederationPlan
from common.contributions.run_plan import RunPlan
from common.privacy.postprocess import item_factors
from server.aggregation.factors import ExactAggregation
from server.aggregation.private_factors import ALL_USERS, SharedGramAggregation, make_aggregation
from server.federation.collect import Contribution
from server.federation.state import FederationState, fresh_state, with_vocabulary
from tests.private_support import private_plan
from tests.support import small_plan

M = 6
OWN = {"a": np.array([0, 1, 2, 3], dtype=np.int32), "b": np.array([2, 3, 4, 5], dtype=np.int32)}
EVERYTHING = np.arange(M, dtype=np.int32)
OPEN = private_plan(2, noise="per_platform", kept_items=M)


def state_of(plan: FederationPlan) -> FederationState:
    digests = np.zeros((M, 32), dtype=np.uint8)
    digests[:, 0] = np.arange(M)
    return with_vocabulary(fresh_state("run", plan.row), Vocabulary(digests, OWN), plan)


def counted(plan: FederationPlan) -> FederationState:
    return replace(state_of(plan), item_counts=np.array([9.0, 8, 7, 6, 5, 4]), user_counts={"a": 10.0, "b": 6.0})


def in_steps(values: Any, step: float) -> NDArray[np.int64]:
    return np.rint(np.asarray(values) / step).astype(np.int64)


def statistics(plan: FederationPlan, name: str, seed: int) -> Contribution:
    noise = RunPlan.of(plan).release_plan().rounds[0]
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(5, 3))
    gram = factors.T @ factors
    scale = np.where(np.eye(3, dtype=bool), 1.0, np.sqrt(2))
    packed = (gram * scale)[np.triu_indices(3)]
    return Contribution(
        (name,),
        OWN[name],
        {
            "item_vectors": in_steps(rng.normal(size=(len(OWN[name]), 3)), noise.item_vectors.grid_step),
            "user_gram": in_steps(packed, noise.user_gram.grid_step),
        },
    )


def test_counts_of_open_contributions_add_up_by_item_and_are_clamped() -> None:
    step = RunPlan.of(OPEN).release_plan().counts.grid_step
    parts = [
        Contribution(("a",), OWN["a"], {"counts": in_steps([5, -9, 2, 0.5, 10], step)}),
        Contribution(("b",), OWN["b"], {"counts": in_steps([3, 1, 0, 7, -4], step)}),
    ]
    state = SharedGramAggregation(OPEN).count(state_of(OPEN), parts)
    assert state.item_counts == pytest.approx([5, 1, 5, 1.5, 1, 7], abs=1e-3)
    assert state.user_counts == pytest.approx({"a": 10, "b": 1}, abs=1e-3)


def test_counts_of_a_secure_sum_know_all_users_together_only() -> None:
    plan = private_plan(3)
    step = RunPlan.of(plan).release_plan().counts.grid_step
    parts = [Contribution(("a", "b"), EVERYTHING, {"counts": in_steps([1, 2, 3, 4, 5, 6, 20], step)})]
    # What a platform sends in the open beside it has no counts.
    parts.insert(0, Contribution(("a",), OWN["a"], {}))
    state = SharedGramAggregation(plan).count(state_of(plan), parts)
    assert state.item_counts == pytest.approx([1, 2, 3, 4, 5, 6], abs=1e-3)
    assert state.user_counts == pytest.approx({ALL_USERS: 20}, abs=1e-3)


def test_first_factors_of_items_not_kept_are_zero() -> None:
    plan = private_plan(2, noise="per_platform", kept_items=2)
    step = RunPlan.of(plan).release_plan().counts.grid_step
    part = Contribution(("a", "b"), EVERYTHING, {"counts": in_steps([1, 9, 1, 8, 1, 1, 20], step)})
    factors = SharedGramAggregation(plan).count(state_of(plan), [part]).item_parameters
    assert np.flatnonzero(np.abs(factors).sum(axis=1)).tolist() == [1, 3]
    assert np.trace(factors.T @ factors) / 3 == pytest.approx(1, rel=1e-5)


class Released(list[Any]):
    """Keeps what the solve was given."""

    def solve(self, sums: Any, *rest: Any, **more: Any) -> Any:
        self.append(sums)
        return item_factors(sums, *rest, **more)


@pytest.fixture
def released() -> Released:
    return Released()


def test_sums_noise_and_catalogues_are_taken_item_by_item(released: Released) -> None:
    parts = [statistics(OPEN, "a", 1), statistics(OPEN, "b", 2)]
    solved = SharedGramAggregation(OPEN, solve=released.solve).solve(counted(OPEN), parts)
    assert (solved.platforms, solved.objective, solved.recall) == (("a", "b"), None, None)
    noise = RunPlan.of(OPEN).release_plan().rounds[0]
    step = noise.item_vectors.grid_step
    (sums,) = released
    vectors = np.zeros((M, 3))
    for part in parts:
        vectors[part.positions] += part.arrays["item_vectors"] * step
    assert sums.item_vectors == pytest.approx(vectors)
    assert sums.users == 16
    # Two platforms' noise where two have the item.
    assert sums.item_sigma == pytest.approx(step * 2**16 * np.sqrt([1, 1, 2, 2, 1, 1]))
    rng = {name: np.random.default_rng(seed).normal(size=(5, 3)) for name, seed in (("a", 1), ("b", 2))}
    gram = {name: factors.T @ factors for name, factors in rng.items()}
    assert sums.user_gram == pytest.approx(gram["a"] + gram["b"], abs=1e-3)
    assert sums.catalogue_gram[0] == pytest.approx(gram["a"], abs=1e-3)
    assert sums.catalogue_gram[2] == pytest.approx(gram["a"] + gram["b"], abs=1e-3)
    assert sums.catalogue_gram[5] == pytest.approx(gram["b"], abs=1e-3)
    assert sums.item_grams is None


def test_an_item_of_a_platform_that_sent_nothing_keeps_its_factor() -> None:
    state = counted(OPEN)
    solved = SharedGramAggregation(OPEN).solve(state, [statistics(OPEN, "a", 1)])
    assert np.array_equal(solved.item_parameters[4:], state.item_parameters[4:])
    assert not np.isclose(solved.item_parameters[:4], state.item_parameters[:4]).any()
    assert np.isfinite(solved.item_parameters).all()


def test_a_round_without_contributions_changes_nothing() -> None:
    state = counted(OPEN)
    solved = SharedGramAggregation(OPEN).solve(state, [])
    assert solved.platforms == ()
    assert solved.item_parameters is state.item_parameters


def test_released_item_grams_are_used(released: Released) -> None:
    plan = private_plan(2, noise="per_platform", kept_items=M, release="item_gram")
    noise = RunPlan.of(plan).release_plan().rounds[0].item_grams
    assert noise is not None
    rng = np.random.default_rng(5)
    packed = rng.normal(size=(4, 6))
    base = statistics(plan, "a", 1)
    part = replace(base, arrays=dict(base.arrays) | {"item_grams": in_steps(packed, noise.grid_step)})
    SharedGramAggregation(plan, solve=released.solve).solve(counted(plan), [part])
    grams = released[0].item_grams
    assert grams.shape == (M, 3, 3)
    assert grams[1, 0, 0] == pytest.approx(packed[1, 0], abs=1e-3)
    assert grams[1, 0, 1] == grams[1, 1, 0] == pytest.approx(packed[1, 1] / np.sqrt(2), abs=1e-3)
    assert not grams[4:].any()


def test_a_gram_that_noise_made_indefinite_is_projected(released: Released) -> None:
    noise = RunPlan.of(OPEN).release_plan().rounds[0]
    base = statistics(OPEN, "a", 1)
    negative = in_steps(np.array([-3.0, 0, 0, 2.0, 0, 1.0]), noise.user_gram.grid_step)
    part = replace(base, arrays=dict(base.arrays) | {"user_gram": negative})
    SharedGramAggregation(OPEN, solve=released.solve).solve(counted(OPEN), [part])
    assert released[0].user_gram == pytest.approx(np.diag([0.0, 2.0, 1.0]), abs=1e-3)


def test_a_gram_lost_in_noise_costs_the_round_and_not_the_run() -> None:
    noise = RunPlan.of(OPEN).release_plan().rounds[0]
    base = statistics(OPEN, "a", 1)
    negative = in_steps(np.array([-3.0, 0, 0, -2.0, 0, -1.0]), noise.user_gram.grid_step)
    part = replace(base, arrays=dict(base.arrays) | {"user_gram": negative})
    state = counted(OPEN)
    solved = SharedGramAggregation(OPEN).solve(state, [part])
    assert np.array_equal(solved.item_parameters, state.item_parameters)
    assert solved.platforms == ("a",)


def test_the_mode_of_privacy_decides_who_aggregates() -> None:
    assert type(make_aggregation(small_plan())) is ExactAggregation
    assert type(make_aggregation(OPEN)) is SharedGramAggregation
