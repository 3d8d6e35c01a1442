from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.personalization.model_selection import Candidate, choose_verdict, only_users
from client.personalization.own_models import Trials
from client.personalization.personalize import Personalizer
from client.scoring.evaluation import PerUserMetrics, evaluate
from client.scoring.scorer import PopularityScorer
from common.config.platform import PersonalizationConfig
from tests.support.tuned import MODEL, training_data, view_of


@dataclass
class Told:
    """Stands for the validation users: says what it was told, candidate by candidate."""

    rows: Iterator[np.ndarray]

    def values(self, scorer: object, *, alone: bool) -> np.ndarray:
        return next(self.rows)


def trials_of(values: np.ndarray) -> Trials:
    trials = Trials(Told(iter(values)))
    for _ in values:
        trials(np.zeros((1, 1), dtype=np.float32), np.zeros((1, 1), dtype=np.float32))
    return trials


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 25))
def test_nobody_has_a_say_in_the_candidate_that_counts_for_them(seed: int, users: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random((6, users))
    plain = trials_of(values).cross_fitted(np.random.default_rng(1))
    user = int(rng.integers(users))
    marked = values.copy()
    marked[:, user] = np.arange(6) * 100.0  # says which candidate was taken
    taken = int(trials_of(marked).cross_fitted(np.random.default_rng(1))[user] // 100)
    assert values[taken, user] == plain[user]


def test_candidates_of_pure_luck_count_what_they_are_worth() -> None:
    rng = np.random.default_rng(0)
    best, counted = [], []
    for _ in range(60):
        values = rng.random((40, 60))  # all candidates are worth 0.5
        best.append(values.mean(axis=1).max())
        counted.append(trials_of(values).cross_fitted(rng).mean())
    assert np.mean(best) > 0.57
    assert np.mean(counted) == pytest.approx(0.5, abs=0.015)


def test_a_candidate_that_is_better_for_everybody_counts_in_full() -> None:
    values = np.random.default_rng(0).random((5, 30)) * 0.5
    values[3] += 0.5
    np.testing.assert_array_equal(trials_of(values).cross_fitted(np.random.default_rng(1)), values[3])


def test_one_validation_user_and_none_are_no_errors() -> None:
    assert trials_of(np.array([[0.3], [0.4]])).cross_fitted(np.random.default_rng(0)).shape == (1,)
    assert trials_of(np.empty((3, 0))).cross_fitted(np.random.default_rng(0)).shape == (0,)


def test_the_validation_users_rows_alone_measure_the_same() -> None:
    data = training_data(np.random.default_rng(3))
    scorer = PopularityScorer(data.train.item_counts())
    whole, alone = evaluate(scorer, data.validation), evaluate(scorer, only_users(data.validation))
    for name, values in whole.values.items():
        np.testing.assert_array_equal(values, alone.values[name])


@pytest.mark.parametrize("quality", ["good", "useless"])
def test_shared_factors_are_used_only_where_they_help(quality: str) -> None:
    data = training_data(np.random.default_rng(7))
    factors = np.eye(6)[np.arange(125) % 6] * np.random.default_rng(5).uniform(0.4, 0.6, (125, 1))  # no ties
    if quality == "useless":
        factors = np.random.default_rng(5).standard_normal((125, 6)) * 1e-3
    config = PersonalizationConfig(tuning_candidates=3, anchored=False, blend_weights=(1.0,))
    verdict = Personalizer("here", data, MODEL, config).build(view_of(data, factors)).verdict
    assert (verdict.name != "local") == (quality == "good")


def test_uncorrected_foreign_popularity_keeps_its_order() -> None:
    data = training_data(np.random.default_rng(6))
    config = PersonalizationConfig(tuning_candidates=1, anchored=False, blend_weights=(1.0,))
    build = Personalizer("here", data, MODEL, config).build
    factors = np.random.default_rng(7).standard_normal((125, 6))
    foreign = slice(120, 125)
    corrected = build(view_of(data, factors)).foreign_popularity[foreign]
    assert (np.diff(corrected) > 0).all()
    np.testing.assert_array_equal(
        build(view_of(data, factors, private=True)).foreign_popularity[foreign], np.arange(1.0, 6.0)
    )


def test_a_worse_candidate_is_seldom_chosen_at_the_default_level() -> None:
    rng = np.random.default_rng(8)
    level = PersonalizationConfig().verdict_level
    chosen = 0
    for _ in range(200):
        local = rng.random(80)
        other = local + rng.normal(-0.02, 0.15, 80)
        users = np.arange(80)
        verdict = choose_verdict(
            PerUserMetrics(users, {"ndcg@10": local}, None),
            [Candidate("shared", None, PerUserMetrics(users, {"ndcg@10": other}, None))],
            metric="ndcg@10",
            rng=rng,
            level=level,
        )
        chosen += verdict.name != "local"
    assert chosen < 20
