"""The race between settings: who takes part, whose turn it is, and who wins, from the scores alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.model import FactorizationConfig
from server.aggregation.halving import FIRST, LONGEST, Scores, Sizes, standing, winner

BASE = FactorizationConfig(backend="numba")
SIZES = Sizes(history=20.0, items=500.0, validated=2000.0)
MOST_STEPS = 250
Worth = Callable[[FactorizationConfig, int], float]
Raced = tuple[tuple[FactorizationConfig, ...], Scores, list[int]]


def raced(worth: Worth, rounds: int, sizes: Sizes = SIZES) -> Raced:
    """Settings, scores and the order of turns of a race in which a setting's score is what ``worth`` says."""
    scores = np.full((len(FIRST), rounds + 1), np.nan)
    turns: list[int] = []
    for _ in count():
        stands = standing(BASE, sizes, scores)
        taking_part, turn = stands.settings, stands.turn
        blank = np.full((len(taking_part) - len(scores), rounds + 1), np.nan)
        scores = np.concatenate([scores, blank])
        if turn is None:
            return taking_part, scores, turns
        assert turn in stands.left, "factors of the one whose turn it is are kept"
        place = int(np.flatnonzero(np.isnan(scores[turn]))[0])
        scores[turn, place] = worth(taking_part[turn], place)
        turns.append(turn)
        assert len(turns) <= MOST_STEPS, "a race ends"
    raise AssertionError


def mean_ridge(model: FactorizationConfig) -> float:
    """λ of a user with a mean history."""
    mean = SIZES.history + model.unobserved_weight * SIZES.items
    return round(model.regularization * float(mean**model.regularization_exponent), 6)


def peak_at(d: int, ridge: float, weight: float, exponent: float = 0.0) -> Worth:
    """Falls with the distance from one setting, and grows with training."""

    def worth(model: FactorizationConfig, rounds: int) -> float:
        ratios = (model.dimension / d, mean_ridge(model) / ridge, model.unobserved_weight / weight)
        off = float(np.abs(np.log(ratios)).sum()) + float(model.regularization_exponent != exponent)
        return 1.0 - 0.05 * off - 0.5 / (1 + rounds)

    return worth


@pytest.mark.parametrize(
    "target",
    [
        (16, 8.0, 0.1, 0.0),
        (32, 8.0, 0.1, 0.0),
        (64, 25.0, 1.0, 0.0),
        (8, 25.0, 0.3, 0.0),
        (16, 4.0, 0.4, 0.0),
        (64, 12.5, 0.5, 0.5),
        (8, 8.0, 0.1, 0.5),
        (64, 16.0, 0.4, 0.0),
    ],
)
def test_a_setting_at_or_next_to_the_peak_wins(target: tuple[int, float, float, float]) -> None:
    taking_part, scores, _ = raced(peak_at(*target), LONGEST)
    best = taking_part[winner(scores)[0]]
    d, ridge, weight, exponent = target
    assert (best.dimension, best.regularization_exponent) == (d, exponent)
    assert max(abs(np.log([mean_ridge(best) / ridge, best.unobserved_weight / weight]))) < np.log(1.5)


def test_lambda_and_weight_reach_together_what_neither_does() -> None:
    def worth(model: FactorizationConfig, rounds: int) -> float:
        off = abs(np.log(model.regularization / model.unobserved_weight / 25.0))
        return 1.0 - 0.2 * float(off) - 0.05 * float(np.log(model.unobserved_weight / 0.25)) ** 2 - 0.5 / (1 + rounds)

    taking_part, scores, _ = raced(worth, LONGEST)
    best = taking_part[winner(scores)[0]]
    assert best.regularization / best.unobserved_weight == pytest.approx(25.0, rel=0.25)
    assert best.unobserved_weight in (0.2, 0.25), "where each alone is a step down, on either side"


@pytest.mark.parametrize(("validated", "widest"), [(100_000.0, 256), (100.0, 64)])
def test_a_climb_needs_more_than_chance(validated: float, widest: int) -> None:
    def worth(model: FactorizationConfig, rounds: int) -> float:
        return 0.3 + 0.004 * float(np.log2(model.dimension)) + 0.001 * (model.unobserved_weight == 1.0)

    taking_part, _, _ = raced(worth, LONGEST, SIZES._replace(validated=validated))
    assert max(model.dimension for model in taking_part) == widest


def test_turns_of_an_older_race_are_those_of_this_one() -> None:
    """Where six neighbours had joined, and all had been trained to six rounds, the race goes on."""
    taking_part, _, _ = raced(peak_at(16, 8.0, 0.1), LONGEST)
    names = [(model.dimension, model.regularization, model.unobserved_weight) for model in taking_part[5:11]]
    assert names == [
        (32, 8.0, 0.1),
        (8, 8.0, 0.1),
        (16, 16.0, 0.1),
        (16, 4.0, 0.1),
        (16, 8.0, 0.2),
        (16, 8.0, 0.05),
    ], "rows that a checkpoint holds mean what they meant"


def test_neighbours_of_the_best_join_and_nobody_twice() -> None:
    taking_part, _, _ = raced(peak_at(16, 8.0, 0.1), LONGEST)
    assert len(taking_part) > len(FIRST)
    assert len(set(taking_part)) == len(taking_part)
    assert {model.backend for model in taking_part} == {"numba"}, "what is not raced for stays"


def test_with_many_items_the_race_climbs_no_further_than_sums_allow() -> None:
    for items, widest in ((500.0, 256), (10_000.0, 64), (100_000.0, 32)):
        taking_part, _, _ = raced(peak_at(256, 8.0, 0.1), LONGEST, SIZES._replace(items=items))
        assert max(model.dimension for model in taking_part) == widest


def test_fewer_and_fewer_settings_are_trained_on() -> None:
    _, scores, _ = raced(peak_at(16, 8.0, 0.1), LONGEST)
    trained = (~np.isnan(scores)).sum(axis=0)
    assert (np.diff(trained) <= 0).all()
    assert (trained[3], trained[4], trained[6], trained[7], trained[-1]) == (len(scores), 6, 6, 2, 2), (
        "three of each group"
    )


def test_slow_starters_do_not_win_as_popularity() -> None:
    def worth(model: FactorizationConfig, rounds: int) -> float:
        return 0.5 if model.regularization >= 12 else 0.1 * rounds

    taking_part, scores, _ = raced(worth, LONGEST)
    number, rounds = winner(scores)
    assert (taking_part[number].regularization, rounds) == (8.0, LONGEST)


def test_a_setting_that_overfits_wins_with_few_rounds() -> None:
    def worth(model: FactorizationConfig, rounds: int) -> float:
        return float(model.dimension == 32) + 0.1 * min(rounds, 6) - 0.3 * (rounds > 6)

    _, scores, _ = raced(worth, LONGEST)
    assert winner(scores)[1] == 6


@given(seed=st.integers(0, 2**32), rounds=st.integers(1, 15))
def test_any_scores_end_in_a_setting_that_took_part(seed: int, rounds: int) -> None:
    rng = np.random.default_rng(seed)
    taking_part, scores, _ = raced(lambda model, place: float(rng.integers(0, 3)), rounds)
    number, after = winner(scores)
    assert 0 <= number < len(taking_part)
    assert 1 <= after <= rounds
    means = [scores[:, max(at - 1, 1) : at + 1].mean(axis=1) for at in (min(6, rounds), rounds)]
    assert scores[number, max(after - 1, 1) : after + 1].mean() == np.nanmax(means)


def test_the_same_scores_make_the_same_race() -> None:
    one, other = (raced(peak_at(32, 4.0, 0.2), LONGEST) for _ in range(2))
    assert one[2] == other[2]
    assert np.array_equal(one[1], other[1], equal_nan=True)
