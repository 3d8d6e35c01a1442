"""Results of cold and active users, of rare and popular items: against ranx and by hand."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice
from client.scoring.evaluation import PerUserMetrics
from common.metrics import judge, per_user_metrics
from simulations.evaluation.groups import METRICS, beyond_accuracy, group_blocks, popular_items
from tests.support.ranx_oracle import ranx_metrics

USERS, ITEMS, DEPTH = 60, 40, 30


def matrix(pairs: Iterable[tuple[int, int]]) -> UserItemMatrix:
    users, items = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
    ones = np.ones(len(users), dtype=np.float32)
    return UserItemMatrix.from_entries(users, items, ones, np.zeros(len(users)), n_users=USERS, n_items=ITEMS)


@pytest.fixture(scope="module")
def world() -> tuple[EvaluationSlice, PerUserMetrics, np.ndarray]:
    rng = np.random.default_rng(4)
    order = [rng.permutation(ITEMS) for _ in range(USERS)]
    kept = [order[user][: 1 + user % 10] for user in range(USERS)]
    held = [order[user][10 : 13 + user % 4] for user in range(USERS)]
    history = matrix((user, item) for user in range(USERS) for item in kept[user])
    truth = matrix((user, item) for user in range(USERS) for item in held[user])
    ranked = np.stack([rng.permutation(order[user][10:])[:DEPTH] for user in range(USERS)]).astype(np.int32)
    users = np.arange(USERS, dtype=np.int64)
    measured = PerUserMetrics(users, per_user_metrics(judge(ranked, truth.indptr, truth.indices), METRICS), ranked)
    return EvaluationSlice(users, history, truth), measured, history.item_counts()


def test_rare_items_are_found_as_ranx_counts_them(world: tuple[EvaluationSlice, PerUserMetrics, np.ndarray]) -> None:
    held_out, measured, counts = world
    assert measured.ranked is not None
    blocks = group_blocks({"final": measured}, held_out, counts, (1, 2))
    popular = popular_items(counts)
    for name, chosen in (("rare", ~popular), ("popular", popular)):
        truth = {
            str(user): {str(item): 1 for item in held_out.truth.row(user) if chosen[item]} for user in range(USERS)
        }
        truth = {user: items for user, items in truth.items() if items}
        lists = {
            user: {str(item): DEPTH - rank for rank, item in enumerate(measured.ranked[int(user)])} for user in truth
        }
        theirs = ranx_metrics(truth, lists, METRICS)
        expected = {metric: float(np.mean(values)) for metric, values in theirs.items()}
        # No user holds back more than 20, so both definitions of recall are one.
        assert blocks[name]["final"]["recall@20"] == pytest.approx(expected["recall@20"])
        assert blocks[name]["final"]["ndcg@10"] == pytest.approx(expected["ndcg@10"])
        assert blocks[name]["final"]["users"] == len(truth)
        assert blocks[name]["items"] == chosen.sum()


def test_cold_and_active_users_are_thirds_apart(world: tuple[EvaluationSlice, PerUserMetrics, np.ndarray]) -> None:
    held_out, measured, counts = world
    blocks = group_blocks({"final": measured}, held_out, counts, (1, 2))
    lengths = held_out.history.row_lengths
    cold, active = lengths <= blocks["cold"]["at_most"], lengths >= blocks["active"]["at_least"]
    assert not (cold & active).any()
    assert blocks["cold"]["final"]["users"] == cold.sum() >= USERS / 3
    assert blocks["active"]["final"]["users"] == active.sum() >= USERS / 3
    assert blocks["cold"]["final"]["recall@20"] == pytest.approx(measured.values["recall@20"][cold].mean())


def test_popular_items_are_the_fewest_with_half_of_all() -> None:
    assert popular_items(np.array([5, 1, 4, 2])).tolist() == [True, False, True, False]
    assert popular_items(np.array([6, 1, 4, 1])).tolist() == [True, False, False, False]
    assert popular_items(np.array([0.0, -2.5, 0.0])).tolist() == [False, False, False]


def test_equal_histories_make_cold_users_and_no_active() -> None:
    history = matrix((user, user % ITEMS) for user in range(USERS))
    truth = matrix((user, (user + 1) % ITEMS) for user in range(USERS))
    users = np.arange(USERS, dtype=np.int64)
    none = PerUserMetrics(users, {metric: np.ones(USERS) for metric in METRICS}, None)
    blocks = group_blocks({"final": none}, EvaluationSlice(users, history, truth), history.item_counts(), (1,))
    assert blocks["cold"]["final"]["users"] == USERS
    assert blocks["active"]["final"] == {"recall@20": None, "ndcg@10": None, "users": 0, "ci95": {}}
    assert blocks["rare"]["final"] is None
    assert beyond_accuracy(none, history.item_counts(), USERS) == {}


def test_coverage_is_of_the_items_that_were_ranked(world: tuple[EvaluationSlice, PerUserMetrics, np.ndarray]) -> None:
    _, measured, counts = world
    assert measured.ranked is not None
    candidates = np.zeros(ITEMS, dtype=np.bool_)
    candidates[np.unique(measured.ranked[:, :20])] = True
    assert beyond_accuracy(measured, counts, USERS, candidates)["coverage@20"] == 1.0
