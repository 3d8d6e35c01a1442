"""The item-item model end to end: columns, contributions, the solve by owners, scores. Oracles are dense least squares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from client.contributions.cooccurrence import CooccurrenceMaker
from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice
from client.data.training import TrainingData
from client.scoring.ease import EasePart
from common.config.ease import EaseConfig, EasePrivacy
from common.contributions.cooccurrence import CooccurrenceMechanism, cooccurrence_noise
from common.contributions.cooccurrence_kind import check_sums_of_products
from common.errors import ConfigError, ContractError
from common.linalg import pack_symmetric
from server.aggregation.cooccurrence import apportioned
from server.aggregation.ease import ItemStatistics, transfer_weights
from server.federation.state import TransferWeights
from simulations.engine.datasets import undescribed_items

M = 14
OWNERS = {
    "a": np.arange(0, 8),
    "b": np.array([0, 1, 2, 3, 8, 9, 10, 11]),
    "c": np.array([1, 2, 3, 4, 10, 11, 12, 13]),
}


def _matrix(dense: np.ndarray) -> UserItemMatrix:
    users, items = np.nonzero(dense)
    ones = np.ones(len(users), dtype=np.float32)
    return UserItemMatrix.from_entries(
        users, items, ones, np.zeros(len(users), dtype=np.int64), n_users=dense.shape[0], n_items=dense.shape[1]
    )


def _data(dense: np.ndarray) -> TrainingData:
    matrix = _matrix(dense)
    nobody = EvaluationSlice(np.zeros(0, dtype=np.int64), matrix, matrix.select_entries(np.zeros(matrix.nnz, bool)))
    return TrainingData(
        user_ids=tuple(map(str, range(len(dense)))),
        items=undescribed_items(tuple(f"t:{i}" for i in range(dense.shape[1]))),
        train=matrix,
        validation=nobody,
        shared=np.ones(dense.shape[1], dtype=bool),
    )


def _interactions(seed: int, users: int = 60) -> dict[str, np.ndarray]:
    """By platform, users × its items, of users with tastes."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(M, 2))
    return {
        name: (rng.normal(size=(users, 2)) @ taste[items].T + rng.normal(size=(users, len(items))) > 0.8) * 1.0
        for name, items in OWNERS.items()
    }


def _ownership() -> np.ndarray:
    mask = np.zeros((M, len(OWNERS)), dtype=bool)
    for column, name in enumerate(sorted(OWNERS)):
        mask[OWNERS[name], column] = True
    return mask


def _statistics(dense: dict[str, np.ndarray], config: EaseConfig) -> dict[str, ItemStatistics]:
    gathered = {}
    for name, block in dense.items():
        contributor = CooccurrenceMaker(config, _data(block))
        sent = contributor.cooccurrence(np.zeros(M), _ownership(), OWNERS[name])
        columns = contributor.columns(np.zeros(M), _ownership(), OWNERS[name])
        gathered[name] = ItemStatistics(columns, sent.arrays["cooccurrence"])
    return gathered


def _on_vocabulary(dense: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
    rows = []
    for name in names:
        laid_out = np.zeros((len(dense[name]), M))
        laid_out[:, OWNERS[name]] = dense[name]
        rows.append(laid_out)
    return np.concatenate(rows)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.25, 0.5]))
def test_weights_of_a_target_are_ridge_over_its_owners_users_alone(seed: int, weighting: float) -> None:
    config = EaseConfig(regularization=3.0, user_weighting=weighting)
    dense = _interactions(seed)
    solved = transfer_weights(_statistics(dense, config), OWNERS, "a", config)
    assert set(solved.targets.tolist()) == set(range(8, 14))
    for at, target in enumerate(solved.targets):
        names = [name for name in ("b", "c") if target in OWNERS[name]]
        x = _on_vocabulary(dense, names)
        x /= np.maximum(x.sum(axis=1, keepdims=True), 1.0) ** weighting
        # Ridge as ordinary least squares with √λ·I below: another way than normal equations.
        below = np.vstack([x[:, solved.inputs], np.sqrt(3.0) * np.eye(len(solved.inputs))])
        right = np.concatenate([x[:, target], np.zeros(len(solved.inputs))])
        expected, *_ = np.linalg.lstsq(below, right, rcond=None)
        np.testing.assert_allclose(solved.weights[:, at], expected, atol=1e-6)


def test_users_of_a_platform_without_the_target_change_nothing() -> None:
    config = EaseConfig(regularization=3.0)
    dense = _interactions(1)
    before = transfer_weights(_statistics(dense, config), OWNERS, "a", config)
    dense["c"] = np.roll(dense["c"], 1, axis=1)
    dense["a"] = 1.0 - dense["a"]
    after = transfer_weights(_statistics(dense, config), OWNERS, "a", config)
    b_alone = np.isin(before.targets, [8, 9])
    np.testing.assert_array_equal(before.weights[:, b_alone], after.weights[:, b_alone])
    assert not np.allclose(before.weights[:, ~b_alone], after.weights[:, ~b_alone])


def test_an_input_that_a_targets_owners_lack_has_no_weight() -> None:
    config = EaseConfig(regularization=3.0)
    solved = transfer_weights(_statistics(_interactions(2), config), OWNERS, "a", config)
    only_c = solved.weights[np.ix_(np.isin(solved.inputs, [4]), np.isin(solved.targets, [8, 9]))]
    assert (only_c == 0).all()
    assert (solved.weights[np.ix_(np.isin(solved.inputs, [4]), np.isin(solved.targets, [12]))] != 0).any()


def test_scores_are_sums_of_weights_over_the_history() -> None:
    config = EaseConfig(regularization=3.0)
    dense = _interactions(3)
    solved = transfer_weights(_statistics(dense, config), OWNERS, "a", config)
    histories = _matrix(_on_vocabulary(dense, ["a"]))
    users = np.array([5, 0, 59])
    scores = EasePart(solved.inputs, solved.targets, solved.weights, np.arange(histories.n_items)).scores(
        histories, users
    )
    b = np.zeros((M, M))
    b[np.ix_(solved.inputs, solved.targets)] = solved.weights
    np.testing.assert_allclose(scores, histories.csr().toarray()[users] @ b, atol=1e-5)
    assert scores.dtype == np.float32


def test_a_user_without_history_scores_nothing() -> None:
    scorer = EasePart(np.array([0]), np.array([1]), np.ones((1, 1), dtype=np.float32), np.arange(3))
    assert (scorer.scores(_matrix(np.zeros((1, 3))), np.array([0])) == 0).all()


def test_weights_that_are_not_finite_or_misshapen_are_refused() -> None:
    with pytest.raises(ContractError, match="finite"):
        EasePart(np.array([0]), np.array([1]), np.full((1, 1), np.nan, dtype=np.float32), np.arange(3))
    with pytest.raises(ContractError, match="fit"):
        EasePart(np.array([0]), np.array([1]), np.ones((2, 1), dtype=np.float32), np.arange(3))


def test_released_statistics_come_back_in_the_unit_of_exact_ones() -> None:
    dense = _interactions(4, users=400)["b"]
    config = EaseConfig(user_weighting=0.5, privacy=EasePrivacy(history_norm=1.0, share=0.5))
    mechanism = CooccurrenceMechanism(cooccurrence_noise(config, mu=1e6), config)
    contributor = CooccurrenceMaker(config, _data(dense), mechanism)
    sent = contributor.cooccurrence(np.zeros(M), _ownership(), OWNERS["b"])
    columns = contributor.columns(np.zeros(M), _ownership(), OWNERS["b"])
    back = ItemStatistics.released(columns, sent.arrays["cooccurrence"], sent.grid_steps["cooccurrence"])
    x = dense / np.sqrt(np.maximum(dense.sum(axis=1, keepdims=True), 1))
    np.testing.assert_allclose(back.packed, pack_symmetric(x.T @ x), atol=1e-4)


def test_what_noise_leaves_below_zero_counts_as_zero() -> None:
    config = EaseConfig(privacy=EasePrivacy(regularization=100.0))
    # Item 0 with itself −99, with item 8 5: unprojected, (−99 + 100)⁻¹·5 would be 5.
    parts = {"b": ItemStatistics(np.array([0, 8]), np.array([-99.0, 5.0, 1.0]), noisy=True)}
    solved = transfer_weights(parts, OWNERS, "a", config)
    np.testing.assert_allclose(solved.weights, [[0.05]], rtol=1e-6)


def test_a_vocabulary_above_the_limit_is_refused_and_the_mend_named() -> None:
    config = EaseConfig(max_items=10)
    with pytest.raises(ConfigError, match=r"linear\.kept_items"):
        config.columns(np.zeros(M), _ownership(), private=False)
    assert len(config.model_copy(update={"kept_items": 10}).columns(np.zeros(M), _ownership(), private=False)) == 10
    with pytest.raises(ValidationError, match="max_items"):
        EaseConfig(max_items=10, kept_items=11)


def test_pruning_takes_the_most_counted_of_each_owner_group_in_turn() -> None:
    owners = np.array([[1, 1], [1, 1], [1, 0], [1, 0], [0, 1], [0, 1]], dtype=bool)
    counts = np.array([100.0, 200.0, 50.0, 60.0, 1.0, 2.0])
    config = EaseConfig(kept_items=3)
    assert config.columns(counts, owners, private=False).tolist() == [1, 3, 5]
    assert config.model_copy(update={"kept_items": 6}).columns(counts, owners, private=False).tolist() == [*range(6)]


def test_statistics_that_do_not_fit_their_columns_are_refused() -> None:
    with pytest.raises(ContractError, match="disagree"):
        ItemStatistics(np.array([0, 1]), np.zeros(4))
    with pytest.raises(ContractError, match="rise"):
        ItemStatistics(np.array([1, 0]), np.zeros(3))


def test_sums_that_no_users_can_have_are_named_as_such() -> None:
    parts = {"b": ItemStatistics(np.sort(OWNERS["b"]), np.full(36, -1e6))}
    with pytest.raises(ConfigError, match="positive definite"):
        transfer_weights(parts, OWNERS, "a", EaseConfig())


def test_a_platform_alone_gets_no_weights() -> None:
    dense = _interactions(5)
    config = EaseConfig()
    solved = transfer_weights({"a": _statistics(dense, config)["a"]}, OWNERS, "a", config)
    assert isinstance(solved, TransferWeights)
    assert solved.weights.shape == (0, 0)


def _total(statistics: dict[str, ItemStatistics]) -> ItemStatistics:
    everything = np.arange(M)
    block = np.sum([part.block(everything, everything) for part in statistics.values()], axis=0)
    return ItemStatistics(everything, pack_symmetric(block), noisy=True)


def test_an_apportioned_total_goes_to_owners_by_their_users() -> None:
    total = _total(_statistics(_interactions(6), EaseConfig()))
    parts = apportioned(total, _ownership(), {"a": 10.0, "b": 30.0, "c": 60.0})
    everything = np.arange(M)
    dense = {name: part.block(everything, everything) for name, part in parts.items()}
    whole = total.block(everything, everything)
    np.testing.assert_allclose(np.sum(list(dense.values()), axis=0), whole, rtol=1e-12)
    for name, block in dense.items():
        lacking = np.setdiff1d(everything, OWNERS[name])
        assert not block[lacking].any()
    # Items 1 to 3 are everybody's, 0 that of a and b, 8 that of b alone, 10 that of b and c.
    assert dense["c"][1, 2] == pytest.approx(0.6 * whole[1, 2])
    assert dense["a"][0, 1] == pytest.approx(0.25 * whole[0, 1])
    assert dense["b"][8, 2] == pytest.approx(whole[8, 2])
    assert dense["b"][10, 2] == pytest.approx(whole[10, 2] / 3)


def test_weights_from_a_total_match_the_parts_where_tastes_agree() -> None:
    # Every platform has the same users twice, thrice, four times over: what goes together goes together everywhere.
    rng = np.random.default_rng(8)
    people = (rng.random((200, M)) < 0.4) * 1.0
    times = {"a": 2, "b": 3, "c": 4}
    dense = {name: np.tile(people[:, items], (times[name], 1)) for name, items in OWNERS.items()}
    config = EaseConfig(regularization=3.0, privacy=EasePrivacy(regularization=3.0))
    statistics = _statistics(dense, config)
    noisy = {name: ItemStatistics(part.columns, part.packed, noisy=True) for name, part in statistics.items()}
    expected = transfer_weights(noisy, OWNERS, "a", config)
    users = {name: 200.0 * number for name, number in times.items()}
    found = transfer_weights(apportioned(_total(statistics), _ownership(), users), OWNERS, "a", config)
    np.testing.assert_allclose(found.weights, expected.weights, atol=1e-6)
    # Were the total taken as it is, absence would be dislike: targets of c alone would get too little.
    undivided = {name: ItemStatistics(np.arange(M), _total(statistics).packed, noisy=True) for name in ("b",)}
    naive = transfer_weights(undivided, OWNERS, "a", config)
    assert not np.allclose(naive.weights[np.isin(naive.inputs, expected.inputs)], expected.weights, atol=1e-2)


def test_sums_of_products_are_told_from_rubbish() -> None:
    packed = _statistics(_interactions(7), EaseConfig())["b"].packed
    check_sums_of_products(packed, 8, 1e-6)
    for place, value in ((0, -1.0), (1, 1e6)):
        rubbish = packed.copy()
        rubbish[place] = value
        with pytest.raises(ContractError, match="not positive semidefinite"):
            check_sums_of_products(rubbish, 8, 1e-6)
