from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.catalogue import Vocabulary
from common.errors import ConfigError
from common.linalg import pack_symmetric
from server.aggregation.factors import ExactAggregation, StatisticsSum, item_penalty
from server.federation.collect import Contribution
from server.federation.state import FederationState, fresh_state, with_vocabulary
from tests.support import MODEL, SECRET, small_plan

D = MODEL.dimension
M = 5


def statistics(rng: np.random.Generator, n_items: int, n_users: int = 6) -> dict[str, Any]:
    """Return what some users' factors add up to, with the unpacked sums beside them."""
    users = rng.standard_normal((n_users, D))
    has = rng.random((n_users, n_items)) < 0.5
    grams = np.einsum("ui,ud,ue->ide", has, users, users)
    return {
        "gram": pack_symmetric(grams).astype(np.float32),
        "rhs": (has.T @ users).astype(np.float32),
        "user_gram": users.T @ users,
        "objective": np.array([float(n_users)]),
        "evaluation": np.array([1.5, 2.0]),
        "grams": grams,
        "has": has,
    }


def by_formula(parts: list[tuple[list[int], dict[str, Any]]], item: int, counts: Any, users: Any, config: Any) -> Any:
    """v_i of mechanism.md, written out for one item."""
    system, rhs, listed = np.zeros((D, D)), np.zeros(D), 0.0
    for (positions, part), n_users in zip(parts, users, strict=True):
        if item in positions:
            row = positions.index(item)
            system += part["grams"][row] + config.unobserved_weight * part["user_gram"]
            rhs += part["rhs"][row]
            listed += n_users
    size = counts[item] + config.unobserved_weight * listed
    system += config.regularization * size**config.regularization_exponent * np.eye(D)
    return np.linalg.solve(system, rhs)


@given(st.integers(0, 50), st.sampled_from([0.0, 0.5, 1.0]))
def test_every_item_is_solved_from_the_platforms_that_have_it(seed: int, exponent: float) -> None:
    rng = np.random.default_rng(seed)
    config = MODEL.model_copy(update={"regularization_exponent": exponent, "regularization": 0.5})
    catalogues = [[0, 3, 1], [4, 1], [2, 3]]
    parts = [(positions, statistics(rng, len(positions))) for positions in catalogues]
    total = StatisticsSum(M, D)
    for positions, part in parts:
        total.add(np.array(positions, dtype=np.int32), part)
    counts, users = rng.integers(1, 9, M).astype(float), np.array([6.0, 5.0, 4.0])
    solved = total.solve(np.zeros((M, D), dtype=np.float32), config, item_counts=counts, user_counts=users)
    assert solved.dtype == np.float32
    for item in range(M):
        assert solved[item] == pytest.approx(by_formula(parts, item, counts, users, config), rel=2e-4, abs=1e-5)


def test_an_item_that_nobody_reported_keeps_its_row() -> None:
    rng = np.random.default_rng(0)
    previous = rng.standard_normal((M, D)).astype(np.float32)
    total = StatisticsSum(M, D)
    total.add(np.array([1, 2], dtype=np.int32), statistics(rng, 2))
    solved = total.solve(previous, MODEL, item_counts=np.ones(M), user_counts=np.array([6.0]))
    assert np.array_equal(solved[[0, 3, 4]], previous[[0, 3, 4]])
    assert not np.array_equal(solved[[1, 2]], previous[[1, 2]])


def test_an_item_that_nobody_has_goes_to_zero() -> None:
    total = StatisticsSum(1, D)
    part = statistics(np.random.default_rng(0), 1)
    total.add(np.array([0], dtype=np.int32), part | {"gram": part["gram"] * 0, "rhs": part["rhs"] * 0})
    solved = total.solve(np.ones((1, D), dtype=np.float32), MODEL, item_counts=np.zeros(1), user_counts=np.array([6.0]))
    assert np.all(solved == 0)


def test_sums_do_not_lose_small_platforms_beside_large_ones() -> None:
    """Sums are kept in float64: in float32 a platform of weight 1e-8 of the others' would vanish."""
    total = StatisticsSum(1, D)
    one = {"gram": np.ones((1, 10), np.float32), "rhs": np.ones((1, D), np.float32), "user_gram": np.zeros((D, D))}
    total.add(np.array([0]), {name: array * 2**25 if name != "user_gram" else array for name, array in one.items()})
    for _ in range(64):
        total.add(np.array([0]), one)
    assert total._rhs[0, 0] == 2**25 + 64


def test_indefinite_statistics_are_refused_and_say_what_may_help() -> None:
    total = StatisticsSum(1, D)
    gram = pack_symmetric(-100 * np.eye(D))[None].astype(np.float32)
    total.add(np.array([0]), {"gram": gram, "rhs": np.ones((1, D), np.float32), "user_gram": np.zeros((D, D))})
    with pytest.raises(ConfigError, match="regularization"):
        total.solve(np.zeros((1, D), np.float32), MODEL, item_counts=np.ones(1), user_counts=np.ones(1))


def state_of(plan: Any) -> FederationState:
    vocabulary = Vocabulary.empty().extended(
        {"a": SECRET.digests(["x:1", "x:2", "x:3"]), "b": SECRET.digests(["x:3", "x:4"])}
    )
    return with_vocabulary(fresh_state("run", plan.row), vocabulary, plan)


def counted(plan: Any) -> FederationState:
    state = state_of(plan)
    parts = [
        Contribution((name,), state.vocabulary.owners[name], {"item_counts": counts, "totals": totals})
        for name, counts, totals in (
            ("a", np.array([1.0, 2.0, 3.0]), np.array([4.0, 6.0, 21.0])),
            ("b", np.array([5.0, 1.0]), np.array([5.0, 6.0, 27.0])),
        )
    ]
    return ExactAggregation(plan).count(state, parts)


def test_counts_add_up_over_the_platforms() -> None:
    plan = small_plan()
    state = counted(plan)
    of = {key: state.item_counts[state.vocabulary.positions(SECRET.digests([key]))[0]] for key in ("x:1", "x:3", "x:4")}
    assert of == {"x:1": 1.0, "x:3": 8.0, "x:4": 1.0}
    assert state.user_counts == {"a": 4.0, "b": 5.0}
    assert state.value_mean == 0.0, "implicit feedback has no mean"
    explicit = counted(small_plan(model={"feedback": "explicit"}))
    assert explicit.value_mean == 48 / 12


def test_a_round_says_who_contributed_and_the_mean_recall_over_users() -> None:
    plan = small_plan()
    state, rng = counted(plan), np.random.default_rng(0)
    parts = [Contribution((name,), rows, statistics(rng, len(rows))) for name, rows in state.vocabulary.owners.items()]
    parts[1] = replace(parts[1], arrays=dict(parts[1].arrays) | {"evaluation": np.array([0.5, 6.0])})
    solved = ExactAggregation(plan).solve(state, iter(parts))
    assert solved.platforms == ("a", "b")
    assert solved.recall == 2.0 / 8.0
    assert solved.objective == pytest.approx(12.0 + item_penalty(state, plan.model))


def test_recall_needs_validation_users_and_an_objective_platforms() -> None:
    plan = small_plan()
    state = counted(plan)
    rows = state.vocabulary.owners["a"]
    part = statistics(np.random.default_rng(0), len(rows)) | {"evaluation": np.zeros(2)}
    assert ExactAggregation(plan).solve(state, [Contribution(("a",), rows, part)]).recall is None
    nobody = ExactAggregation(plan).solve(state, [])
    assert (nobody.platforms, nobody.objective, nobody.recall) == ((), None, None)
    assert np.array_equal(nobody.item_parameters, state.item_parameters)


@pytest.mark.parametrize(("feedback", "unobserved"), [("implicit", 0.3), ("explicit", 0.0)])
def test_the_penalty_is_that_of_each_items_own_ridge(feedback: str, unobserved: float) -> None:
    plan = small_plan(
        model={
            "feedback": feedback,
            "regularization_exponent": 0.5,
            "item_regularization": 0.7,
            "unobserved_weight": 0.3,
        }
    )
    state = counted(plan)
    listed = {"x:1": 4.0, "x:2": 4.0, "x:3": 9.0, "x:4": 5.0}
    expected = 0.0
    for key, users in listed.items():
        (row,) = state.vocabulary.positions(SECRET.digests([key]))
        weight = 0.7 * np.sqrt(state.item_counts[row] + unobserved * users)
        expected += weight * np.sum(state.item_parameters[row].astype(float) ** 2)
    assert item_penalty(state, plan.model) == pytest.approx(expected, rel=1e-6)


def test_each_platforms_items_are_solved_without_it() -> None:
    rng = np.random.default_rng(5)
    parts = [([0, 1, 2], statistics(rng, 3)), ([1, 2, 4], statistics(rng, 3)), ([0, 2, 3], statistics(rng, 3))]
    total, users = StatisticsSum(M, D), np.array([6.0, 5.0, 4.0])
    for positions, part in parts:
        total.add(np.array(positions, dtype=np.int32), part)
    without = total.without_each(MODEL, user_counts=users)
    for index, (positions, part) in enumerate(parts):
        counts, others = rng.integers(1, 9, M).astype(float), StatisticsSum(M, D)
        for number, (of, other) in enumerate(parts):
            if number != index:
                others.add(np.array(of, dtype=np.int32), other)
        nothing = np.zeros((M, D), dtype=np.float32)
        expected = others.solve(nothing, MODEL, item_counts=counts, user_counts=np.delete(users, index))
        found = without(index, part, counts[positions])
        assert found == pytest.approx(expected[positions], rel=1e-4, abs=1e-5)
        assert (found[[place for place, item in enumerate(positions) if item in (3, 4)]] == 0).all()
