from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, ContractError
from common.metrics import METRICS, coverage, judge, mae, novelty, per_user_metrics, rmse
from tests.support.ranx_oracle import ranx_metrics

ALL = [
    f"{kind}@{k}" for kind in ("recall", "plain_recall", "precision", "f1", "ndcg", "hr", "map") for k in (1, 3, 5)
] + ["mrr"]

# Three users: hits at ranks 2 and 4 of five held-back items; no hit; nothing held back.
RANKED = np.array([[9, 4, 0, 2, 8], [1, 2, 3, -1, -1], [5, 6, 7, 8, 9]], dtype=np.int32)
INDPTR = np.array([0, 5, 6, 6])
INDICES = np.array([7, 2, 4, 5, 3, 9], dtype=np.int32)


def evaluated(ranked: np.ndarray, indptr: np.ndarray, indices: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    return per_user_metrics(judge(ranked, indptr, indices), names)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("recall@1", 0.0),
        ("recall@3", 1 / 3),
        ("recall@5", 2 / 5),
        ("plain_recall@3", 1 / 5),
        ("plain_recall@5", 2 / 5),
        ("precision@3", 1 / 3),
        ("precision@5", 2 / 5),
        ("f1@3", 2 * (1 / 3) * (1 / 5) / (1 / 3 + 1 / 5)),
        ("hr@1", 0.0),
        ("hr@3", 1.0),
        ("mrr", 1 / 2),
        ("map@5", (1 / 2 + 2 / 4) / 5),
        ("map@3", (1 / 2) / 5),
        ("ndcg@3", (1 / math.log2(3)) / (1 + 1 / math.log2(3) + 1 / 2)),
        (
            "ndcg@5",
            (1 / math.log2(3) + 1 / math.log2(5))
            / (1 + 1 / math.log2(3) + 1 / math.log2(4) + 1 / math.log2(5) + 1 / math.log2(6)),
        ),
    ],
)
def test_metrics_equal_values_computed_by_hand(name: str, by_hand: float) -> None:
    value = evaluated(RANKED, INDPTR, INDICES, [name])[name]
    assert value[0] == pytest.approx(by_hand, abs=1e-15)
    assert value[1] == 0.0
    assert np.isnan(value[2])


def test_ideal_gain_stops_at_the_number_of_held_back_items() -> None:
    value = evaluated(np.array([[3, 1, 2]]), np.array([0, 1]), np.array([3]), ["ndcg@3"])["ndcg@3"]
    assert value[0] == 1.0


def test_recall_can_reach_1_beyond_k_held_back_and_plain_cannot() -> None:
    values = evaluated(np.array([[0, 1]]), np.array([0, 4]), np.arange(4), ["recall@2", "plain_recall@2"])
    assert values["recall@2"][0] == 1.0
    assert values["plain_recall@2"][0] == 0.5


def test_padding_is_never_a_hit() -> None:
    # With a stride of 3, row 1's −1 has the key of row 0's item 2.
    value = evaluated(np.array([[0, 1], [0, -1]]), np.array([0, 1, 2]), np.array([2, 2]), ["hr@2"])["hr@2"]
    assert value.tolist() == [0.0, 0.0]


def test_no_user_and_no_truth_are_not_errors() -> None:
    empty = evaluated(np.empty((0, 5), dtype=np.int32), np.array([0]), np.array([], dtype=np.int32), ALL)
    assert all(len(value) == 0 for value in empty.values())
    nobody = evaluated(RANKED, np.zeros(4, dtype=np.int64), np.array([], dtype=np.int32), ALL)
    assert all(np.isnan(value).all() for value in nobody.values())


@pytest.mark.parametrize("name", ["recall", "recall@", "recall@0", "recall@-1", "auc@10", "mrr@x", "ndcg@1.5"])
def test_unknown_metric_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no metric"):
        evaluated(RANKED, INDPTR, INDICES, [name])


def test_a_list_shorter_than_k_is_refused() -> None:
    with pytest.raises(ContractError, match="at least 6 ranks and got 5"):
        evaluated(RANKED, INDPTR, INDICES, ["recall@6"])


def test_lists_and_truth_of_different_users_are_refused() -> None:
    with pytest.raises(ContractError, match="3 users"):
        judge(RANKED[:2], INDPTR, INDICES)


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranked lists of five (some padded) and truths of 0 to 8 of 12 items, for 1 to 6 users."""
    n_users = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ranked = np.stack([rng.permutation(12)[:5] for _ in range(n_users)]).astype(np.int32)
    lengths = rng.integers(2, 6, n_users)
    ranked[np.arange(5) >= lengths[:, None]] = -1
    truths = [rng.permutation(12)[: rng.integers(0, 9)] for _ in range(n_users)]
    indptr = np.concatenate([[0], np.cumsum([len(truth) for truth in truths])])
    return ranked, indptr, np.concatenate(truths).astype(np.int32)


def by_definition(ranked: list[int], truth: set[int], k: int) -> dict[str, float]:
    """The textbook formulas for one user, a rank at a time."""
    hits = [item in truth for item in ranked[:k]]
    p, r = sum(hits) / k, sum(hits) / len(truth)
    ideal = sum(1 / math.log2(j + 2) for j in range(min(k, len(truth))))
    return {
        f"recall@{k}": sum(hits) / min(k, len(truth)),
        f"plain_recall@{k}": r,
        f"precision@{k}": p,
        f"f1@{k}": 2 * p * r / (p + r) if p + r else 0.0,
        f"ndcg@{k}": sum(1 / math.log2(j + 2) for j, hit in enumerate(hits) if hit) / ideal,
        f"hr@{k}": float(any(hits)),
        f"map@{k}": sum(sum(hits[: j + 1]) / (j + 1) for j, hit in enumerate(hits) if hit) / len(truth),
        "mrr": next((1 / (j + 1) for j, item in enumerate(ranked) if item in truth), 0.0),
    }


@given(rankings())
def test_metrics_equal_the_definitions_for_every_user(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    ranked, indptr, indices = case
    values = evaluated(ranked, indptr, indices, ALL)
    for user in range(len(ranked)):
        truth = set(indices[indptr[user] : indptr[user + 1]].tolist())
        for k in (1, 3, 5):
            if not truth:
                assert all(np.isnan(values[name][user]) for name in ALL)
                continue
            for name, expected in by_definition(ranked[user].tolist(), truth, k).items():
                assert values[name][user] == pytest.approx(expected, abs=1e-12), name


@given(rankings(), st.randoms(use_true_random=False))
def test_metrics_are_bounded_grow_with_k_and_follow_their_users(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], random: Random
) -> None:
    ranked, indptr, indices = case
    values = evaluated(ranked, indptr, indices, ALL)
    for value in values.values():
        assert ((value >= 0) & (value <= 1) | np.isnan(value)).all()
    for kind in ("plain_recall", "hr", "map"):
        assert (np.nan_to_num(np.diff([values[f"{kind}@{k}"] for k in (1, 3, 5)], axis=0)) >= 0).all()

    order = list(range(len(ranked)))
    random.shuffle(order)
    truths = [indices[indptr[user] : indptr[user + 1]] for user in order]
    shuffled = evaluated(
        ranked[order], np.concatenate([[0], np.cumsum([len(t) for t in truths])]), np.concatenate(truths), ALL
    )
    for name, value in values.items():
        np.testing.assert_array_equal(shuffled[name], value[order])


@given(rankings(), st.integers(0, 3))
def test_moving_a_hit_up_never_lowers_a_metric(case: tuple[np.ndarray, np.ndarray, np.ndarray], rank: int) -> None:
    ranked, indptr, indices = case
    before = judge(ranked, indptr, indices)
    swapped = ranked.copy()
    up = ~before.hits[:, rank] & before.hits[:, rank + 1]
    swapped[up, rank], swapped[up, rank + 1] = ranked[up, rank + 1], ranked[up, rank]
    better, worse = evaluated(swapped, indptr, indices, ALL), per_user_metrics(before, ALL)
    for name in ALL:
        assert (np.nan_to_num(better[name] - worse[name]) >= -1e-15).all(), name


def test_metrics_equal_ranx() -> None:
    rng = np.random.default_rng(3)
    ranked = np.stack([rng.permutation(60)[:20] for _ in range(40)]).astype(np.int32)
    truths = [rng.permutation(60)[: rng.integers(1, 30)] for _ in range(40)]
    indptr = np.concatenate([[0], np.cumsum([len(truth) for truth in truths])])
    # ranx has no recall of Liang et al.; its own is our plain_recall.
    asked = [name.replace("recall@", "plain_recall@") for name in METRICS]
    their_names = {name: name.replace("hr@", "hit_rate@").removeprefix("plain_") for name in asked}
    ours = evaluated(ranked, indptr, np.concatenate(truths), list(their_names))
    theirs = ranx_metrics(
        {f"u{user:02}": {str(item): 1 for item in truth} for user, truth in enumerate(truths)},
        {f"u{user:02}": {str(item): 20.0 - j for j, item in enumerate(row)} for user, row in enumerate(ranked)},
        list(their_names.values()),
    )
    for name, their_name in their_names.items():
        np.testing.assert_allclose(ours[name], theirs[their_name], atol=1e-12, err_msg=name)


def test_coverage_counts_each_item_shown_once() -> None:
    ranked = np.array([[0, 1, 2], [1, 0, -1]])
    assert coverage(ranked, 2, 10) == 0.2
    assert coverage(ranked, 3, 10) == 0.3
    assert coverage(ranked, 3, 0) == 0.0


def test_novelty_is_the_mean_surprise_in_bits() -> None:
    counts = np.array([8, 2, 0])
    assert novelty(np.array([[0, 1], [2, -1]]), 2, counts, 8) == pytest.approx((0 + 2 + 3) / 3)
    assert novelty(np.array([[0], [0]]), 1, counts, 8) == 0.0
    assert math.isnan(novelty(np.array([[-1]]), 1, counts, 8))


@given(st.lists(st.floats(-50, 500), min_size=4, max_size=4), st.integers(1, 100))
def test_novelty_takes_noisy_counts(counts: list[float], n_users: int) -> None:
    value = novelty(np.array([[0, 1, 2, 3]]), 4, np.array(counts), n_users)
    assert 0 <= value <= math.log2(n_users) + 1e-12


def test_rating_errors_equal_values_computed_by_hand() -> None:
    assert rmse([1.0, 4.0], [4.0, 0.0]) == pytest.approx(math.sqrt((9 + 16) / 2))
    assert mae([1.0, 4.0], [4.0, 0.0]) == 3.5
    assert math.isnan(rmse([], []))
    assert math.isnan(mae([], []))


@settings(max_examples=25)
@given(st.lists(st.tuples(st.floats(1, 5), st.floats(1, 5)), min_size=1))
def test_mae_never_exceeds_rmse(pairs: list[tuple[float, float]]) -> None:
    predicted, actual = zip(*pairs, strict=True)
    assert mae(predicted, actual) <= rmse(predicted, actual) + 1e-12
