from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice
from client.personalization.model_selection import Candidate, choose_verdict
from client.scoring import evaluation
from client.scoring.evaluation import PerUserMetrics, evaluate, evaluate_ratings, gap_closed, sampled_negatives
from client.scoring.scorer import PopularityScorer
from common.errors import ConfigError, ContractError
from common.metrics import METRICS


@dataclass(frozen=True, eq=False)
class TableScorer:
    table: np.ndarray

    def scores(self, histories: UserItemMatrix, users: np.ndarray) -> np.ndarray:
        rows: np.ndarray = self.table[users]
        return rows


def matrix(mask: np.ndarray, values: np.ndarray | None = None) -> UserItemMatrix:
    users, items = np.nonzero(mask)
    weights = np.ones(len(users)) if values is None else values[users, items]
    return UserItemMatrix.from_entries(
        users, items, weights, np.arange(len(users))[::-1], n_users=mask.shape[0], n_items=mask.shape[1]
    )


def random_masks(rng: np.random.Generator, n_users: int, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """History and truth of each user, disjoint; some of either empty."""
    fate = rng.random((n_users, n_items))
    return fate < 0.3, fate > 0.8


def leave_one_out(n_users: int, n_items: int, rng: np.random.Generator) -> EvaluationSlice:
    history = rng.random((n_users, n_items)) < 0.2
    held = rng.integers(n_items, size=n_users)
    truth = np.arange(n_items) == held[:, None]
    return EvaluationSlice(np.arange(n_users), matrix(history & ~truth), matrix(truth))


def worst_ranking(scores: np.ndarray, allowed: np.ndarray, truth: np.ndarray) -> list[int]:
    """Allowed items, best first, any held-back item after all others of its score."""
    return sorted(np.flatnonzero(allowed), key=lambda item: (-scores[item], truth[item], item))


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_full_ranking_equals_sorting_all_candidates_user_by_user(seed: int, scores_at_once: int) -> None:
    rng = np.random.default_rng(seed)
    history, truth = random_masks(rng, 9, 15)
    table = rng.integers(-2, 3, (9, 15)).astype(np.float32)
    candidates = rng.random(15) < 0.8
    users = rng.permutation(9)[:6]
    result = evaluate(
        TableScorer(table),
        EvaluationSlice(users, matrix(history), matrix(truth)),
        metrics=["plain_recall@3", "mrr"],
        depth=5,
        candidates=candidates,
        scores_at_once=scores_at_once,
    )
    expected_users = [user for user in users if (truth[user] & candidates).any()]
    assert result.users.tolist() == expected_users
    assert result.ranked is not None
    for row, user in enumerate(expected_users):
        order = worst_ranking(table[user], candidates & ~history[user], truth[user])
        hits = [truth[user, item] for item in order[:5]]
        assert result.ranked[row].tolist() == (order + [-1] * 5)[:5]
        assert result.values["plain_recall@3"][row] == pytest.approx(sum(hits[:3]) / (truth[user] & candidates).sum())
        assert result.values["mrr"][row] == pytest.approx(1 / (hits.index(True) + 1) if any(hits) else 0)


@pytest.mark.parametrize("constant", [0.0, -0.0, 1.0, -7.5, 1e-45])
def test_constant_scores_earn_nothing_in_either_protocol(constant: float) -> None:
    rng = np.random.default_rng(0)
    held_out = leave_one_out(30, 150, rng)
    scorer = TableScorer(np.full((30, 150), constant, dtype=np.float32))
    names = [name for name in METRICS if name != "mrr"]
    for result in (
        evaluate(scorer, held_out, metrics=names),
        evaluate(scorer, held_out, metrics=names, protocol="sampled-99", rng=rng),
    ):
        assert len(result.users) == 30
        assert all((values == 0).all() for values in result.values.values())


@pytest.mark.parametrize("protocol", ["full", "sampled-99"])
def test_a_scorer_that_knows_the_truth_is_perfect(protocol: evaluation.EvaluationProtocol) -> None:
    rng = np.random.default_rng(0)
    held_out = leave_one_out(20, 150, rng)
    oracle = TableScorer(held_out.truth.csr().toarray())
    result = evaluate(oracle, held_out, metrics=["hr@1", "ndcg@10", "mrr"], protocol=protocol, rng=rng)
    assert all((values == 1).all() for values in result.values.values())


def test_history_is_never_ranked() -> None:
    rng = np.random.default_rng(0)
    history, truth = random_masks(rng, 10, 30)
    result = evaluate(
        TableScorer(history.astype(np.float32)),
        EvaluationSlice(np.arange(10), matrix(history), matrix(truth)),
        depth=30,
    )
    assert result.ranked is not None
    for user, row in zip(result.users, result.ranked, strict=True):
        assert not history[user, row[row >= 0]].any()
        assert (row >= 0).sum() == (~history[user]).sum()


def test_truth_outside_the_candidates_does_not_count() -> None:
    truth = np.array([[True, True, False, False], [True, False, False, False]])
    held_out = EvaluationSlice(np.arange(2), matrix(np.zeros((2, 4), dtype=np.bool_)), matrix(truth))
    scores = TableScorer(np.array([[9, 8, 7, 6]] * 2, dtype=np.float32))
    result = evaluate(scores, held_out, metrics=["recall@1"], candidates=np.array([False, True, True, True]))
    assert result.users.tolist() == [0]
    assert result.values["recall@1"].tolist() == [1.0]


def test_sampled_rank_is_among_99_items_unknown_to_the_user() -> None:
    rng = np.random.default_rng(1)
    held_out = leave_one_out(25, 160, rng)
    candidates = np.arange(160) != 3
    table = rng.integers(0, 50, (25, 160)).astype(np.float32)
    result = evaluate(
        TableScorer(table),
        held_out,
        metrics=["mrr"],
        candidates=candidates,
        protocol="sampled-99",
        rng=np.random.default_rng(7),
    )
    known = (held_out.history.csr() + held_out.truth.csr()).toarray() > 0
    drawn = sampled_negatives(known[result.users], candidates, np.random.default_rng(7))
    for row, user in enumerate(result.users):
        negatives = drawn[row]
        assert len(set(negatives.tolist())) == 99
        assert not known[user, negatives].any()
        assert 3 not in negatives
        held = held_out.truth.row(user)[0]
        # No worse than by hand: the held-back item comes after every negative that scores at least as much.
        rank = 1 + (table[user, negatives] >= table[user, held]).sum()
        assert result.values["mrr"][row] == pytest.approx(1 / rank)
    assert result.ranked is None


def test_every_unknown_item_is_drawn_equally_often() -> None:
    truth = np.zeros((1, 120), dtype=np.bool_)
    truth[0, 7] = True
    history = np.zeros((1, 120), dtype=np.bool_)
    history[0, :5] = True
    users = np.zeros(2000, dtype=np.int64)
    held_out = EvaluationSlice(users, matrix(history), matrix(truth))
    # Item j alone beats the held-back item, so hr@1 is 1 − P(j is drawn) = 1 − 99/114.
    for j in (5, 60, 119):
        table = np.zeros((1, 120), dtype=np.float32)
        table[0, 7], table[0, j] = 1, 2
        result = evaluate(
            TableScorer(table), held_out, metrics=["hr@1"], protocol="sampled-99", rng=np.random.default_rng(j)
        )
        share = 99 / 114
        assert result.values["hr@1"].mean() == pytest.approx(1 - share, abs=4 * np.sqrt(share * (1 - share) / 2000))


def test_draws_average_over_sets_of_negatives() -> None:
    held_out = leave_one_out(40, 300, np.random.default_rng(2))
    table = np.random.default_rng(3).normal(size=(40, 300)).astype(np.float32)

    def run(draws: int, seed: int) -> np.ndarray:
        return evaluate(
            TableScorer(table), held_out, protocol="sampled-99", rng=np.random.default_rng(seed), draws=draws
        ).values["mrr"]

    np.testing.assert_array_equal(run(1, 0), run(1, 0))
    assert (run(1, 0) != run(1, 1)).any()
    spread = [np.std([run(draws, seed).mean() for seed in range(20)]) for draws in (1, 16)]
    assert spread[1] < spread[0] / 2


def test_protocols_are_chosen_by_name_only() -> None:
    held_out = leave_one_out(3, 150, np.random.default_rng(0))
    scorer = TableScorer(np.zeros((3, 150), dtype=np.float32))
    with pytest.raises(ConfigError, match="no evaluation protocol 'sampled'"):
        evaluate(scorer, held_out, protocol="sampled")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="random generator"):
        evaluate(scorer, held_out, protocol="sampled-99")


def test_leaks_and_misuse_are_refused() -> None:
    rng = np.random.default_rng(0)
    held_out = leave_one_out(3, 150, rng)
    zeros = np.zeros((3, 150), dtype=np.float32)
    leak = EvaluationSlice(held_out.users, held_out.truth, held_out.truth)
    with pytest.raises(ContractError, match="history and truth at once"):
        evaluate(TableScorer(zeros), leak)
    two = EvaluationSlice(held_out.users, matrix(zeros > 0), matrix(np.tile(np.arange(150) < 2, (3, 1))))
    with pytest.raises(ContractError, match="one held-back item"):
        evaluate(TableScorer(zeros), two, protocol="sampled-99", rng=rng)
    with pytest.raises(ContractError, match="fewer than 99"):
        evaluate(TableScorer(zeros), held_out, candidates=np.arange(150) < 99, protocol="sampled-99", rng=rng)
    with pytest.raises(ContractError, match="scores for 3 users × 150 items"):
        evaluate(TableScorer(zeros[:, :10]), held_out)


@pytest.mark.parametrize("protocol", ["full", "sampled-99"])
def test_a_score_that_is_no_number_is_refused_and_no_hit(protocol: evaluation.EvaluationProtocol) -> None:
    held_out = leave_one_out(3, 150, np.random.default_rng(0))
    table = np.zeros((3, 150), dtype=np.float32)
    table[held_out.truth.entry_users(), held_out.truth.indices] = np.nan
    with pytest.raises(ContractError, match="NaN"):
        evaluate(TableScorer(table), held_out, protocol=protocol, rng=np.random.default_rng(0))


def test_nobody_with_truth_gives_no_users() -> None:
    nothing = matrix(np.zeros((4, 150), dtype=np.bool_))
    for protocol in ("full", "sampled-99"):
        result = evaluate(
            PopularityScorer(np.ones(150)),
            EvaluationSlice(np.arange(4), nothing, nothing),
            protocol=protocol,
            rng=np.random.default_rng(0),
        )
        assert all(values.shape == (0,) for values in result.values.values())


def test_rating_errors_are_over_held_out_ratings() -> None:
    truth = np.array([[True, False, True], [False, False, False], [False, True, False]])
    stars = np.array([[5, 0, 1], [0, 0, 0], [0, 3, 0]], dtype=np.float32)
    guesses = np.array([[4, 9, 3], [9, 9, 9], [9, 3, 9]], dtype=np.float32)
    history = matrix(np.zeros((3, 3), dtype=np.bool_))
    errors = evaluate_ratings(TableScorer(guesses), EvaluationSlice(np.arange(3), history, matrix(truth, stars)))
    assert errors.rmse == pytest.approx(np.sqrt(5 / 3))
    assert errors.mae == pytest.approx(1.0)
    assert errors.squared.tolist() == [5.0, 0.0], "of the two users who have a rating"
    assert errors.absolute.tolist() == [3.0, 0.0]
    assert errors.ratings.tolist() == [2, 1]
    nothing = evaluate_ratings(TableScorer(guesses), EvaluationSlice(np.arange(3), history, history))
    assert (nothing.rmse, nothing.mae, len(nothing.ratings)) == (None, None, 0)


def validated(values: np.ndarray, users: np.ndarray | None = None) -> PerUserMetrics:
    return PerUserMetrics(np.arange(len(values)) if users is None else users, {"ndcg@10": values}, None)


def test_verdict_is_the_best_of_the_sure_gains() -> None:
    rng = np.random.default_rng(0)
    local = rng.random(200)
    gains = {("shared", np.inf): 0.05, ("blend", 0.5): 0.08, ("anchored", None): 0.02}
    candidates = [
        Candidate(name, weight, validated(local + gain + rng.normal(0, 0.02, 200)))
        for (name, weight), gain in gains.items()
    ]
    verdict = choose_verdict(validated(local), candidates, metric="ndcg@10", rng=np.random.default_rng(1))
    assert (verdict.name, verdict.weight, verdict.metric) == ("blend", 0.5, "ndcg@10")
    assert verdict.local_mean == pytest.approx(local.mean())
    assert verdict.chosen_mean == pytest.approx(local.mean() + verdict.interval.mean)
    assert 0 < verdict.interval.lower < 0.08 < verdict.interval.upper


def test_a_higher_mean_that_may_be_chance_leaves_the_verdict_local() -> None:
    rng = np.random.default_rng(0)
    local = rng.random(100)
    lucky = local + rng.normal(0, 1, 100)
    lucky += 0.1 - (lucky - local).mean()
    verdict = choose_verdict(
        validated(local), [Candidate("shared", np.inf, validated(lucky))], metric="ndcg@10", rng=rng
    )
    assert (verdict.name, verdict.weight, verdict.interval.lower) == ("local", None, 0.0)
    assert verdict.chosen_mean == verdict.local_mean


def test_the_sure_smaller_gain_is_taken_over_the_unsure_larger_one() -> None:
    rng = np.random.default_rng(0)
    local = rng.random(100)
    noise = rng.normal(0, 1, 100)
    unsure = Candidate("shared", np.inf, validated(local + 0.1 + noise - noise.mean()))
    sure = Candidate("blend", 0.1, validated(local + 0.02))
    verdict = choose_verdict(validated(local), [unsure, sure], metric="ndcg@10", rng=rng)
    assert verdict.name == "blend"


def test_verdict_without_candidates_gain_or_users_is_local() -> None:
    rng = np.random.default_rng(0)
    local = validated(rng.random(10))
    nobody = validated(np.empty(0))
    assert choose_verdict(local, [], metric="ndcg@10", rng=rng).name == "local"
    assert choose_verdict(local, [Candidate("shared", np.inf, local)], metric="ndcg@10", rng=rng).name == "local"
    assert choose_verdict(nobody, [Candidate("shared", np.inf, nobody)], metric="ndcg@10", rng=rng).name == "local"


def test_verdict_of_equal_models_is_seldom_wrong() -> None:
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(200):
        local, shared = rng.random((2, 80))
        candidates = [Candidate("shared", np.inf, validated(shared))]
        wrong += choose_verdict(validated(local), candidates, metric="ndcg@10", rng=rng).name != "local"
    # The lower end of a two-sided 95 % interval errs once in 40: Binomial(200, .025) exceeds 14 once in ten thousand.
    assert wrong <= 14


def test_verdict_refuses_what_cannot_be_compared() -> None:
    rng = np.random.default_rng(0)
    local = validated(np.zeros(3))
    other = validated(np.zeros(3), np.array([0, 1, 3]))
    with pytest.raises(ContractError, match="shared was evaluated on other users"):
        choose_verdict(local, [Candidate("shared", np.inf, other)], metric="ndcg@10", rng=rng)
    with pytest.raises(ContractError, match="local has no hr@10"):
        choose_verdict(local, [], metric="hr@10", rng=rng)


def test_gap_closed() -> None:
    assert gap_closed(0.4, 0.3, 0.7) == pytest.approx(0.25)
    assert gap_closed(0.2, 0.3, 0.7) == pytest.approx(-0.25)
    assert gap_closed(0.4, 0.3, 0.3) is None
    assert gap_closed(0.4, 0.3, 0.2) is None
    assert gap_closed(0.4, None, 0.7) is None
    assert gap_closed(None, 0.3, 0.7) is None
    assert gap_closed(0.4, 0.3, None) is None
