"""The race between settings: who takes part, whose turn it is, and who wins, from the scores alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.model import FactorizationConfig
from server.aggregation.halving import FIRST, LONGEST, Scores, settings, standing, winner

BASE = FactorizationConfig(backend="numba")
MOST_STEPS = 100
Worth = Callable[[FactorizationConfig, int], float]
Raced = tuple[tuple[FactorizationConfig, ...], Scores, list[int]]


def raced(worth: Worth, rounds: int) -> Raced:
    """Settings, scores and the order of turns of a race in which a setting's score is what ``worth`` says."""
    scores = np.full((len(FIRST), rounds + 1), np.nan)
    turns: list[int] = []
    for _ in count():
        taking_part = settings(BASE, scores)
        blank = np.full((len(taking_part) - len(scores), rounds + 1), np.nan)
        scores = np.concatenate([scores, blank])
        _, turn = standing(len(scores), scores)
        if turn is None:
            return taking_part, scores, turns
        place = int(np.flatnonzero(np.isnan(scores[turn]))[0])
        scores[turn, place] = worth(taking_part[turn], place)
        turns.append(turn)
        assert len(turns) <= MOST_STEPS, "a race ends"
    raise AssertionError


def peak_at(d: int, ridge: float, weight: float) -> Worth:
    """Falls with the distance from one setting, and grows with training."""

    def worth(model: FactorizationConfig, rounds: int) -> float:
        ratios = (model.dimension / d, model.regularization / ridge, model.unobserved_weight / weight)
        return 1.0 - 0.05 * float(np.abs(np.log(ratios)).sum()) - 0.5 / (1 + rounds)

    return worth


@pytest.mark.parametrize("target", [(16, 8.0, 0.1), (32, 8.0, 0.1), (64, 25.0, 1.0), (8, 25.0, 0.3), (16, 4.0, 0.4)])
def test_a_setting_at_the_peak_or_beside_it_wins(target: tuple[int, float, float]) -> None:
    taking_part, scores, _ = raced(peak_at(*target), LONGEST)
    best = taking_part[winner(scores)[0]]
    assert (best.dimension, best.regularization, best.unobserved_weight) == target


def test_neighbours_of_the_best_join_and_nobody_twice() -> None:
    taking_part, _, _ = raced(peak_at(16, 8.0, 0.1), LONGEST)
    assert len(taking_part) > len(FIRST)
    assert len(set(taking_part)) == len(taking_part)
    assert {model.backend for model in taking_part} == {"numba"}, "what is not raced for stays"


def test_fewer_and_fewer_settings_are_trained_on() -> None:
    _, scores, _ = raced(peak_at(16, 8.0, 0.1), LONGEST)
    trained = (~np.isnan(scores)).sum(axis=0)
    assert (np.diff(trained) <= 0).all()
    joined = len(scores) - len(FIRST)
    assert (trained[3], trained[4], trained[6], trained[7], trained[-1]) == (len(scores), 3 + joined, 3 + joined, 2, 2)


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
