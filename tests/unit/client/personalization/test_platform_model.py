from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.personalization.platform_model import foreign_items, on_vocabulary
from client.scoring.factors import shared_on_own, shared_on_vocabulary
from client.scoring.scorer import z
from tests.scoring_oracle import cross_oracle
from tests.support import matrix
from tests.support.stores import model_of

USERS = np.arange(3)


def test_foreign_items_are_those_the_platform_does_not_have() -> None:
    assert foreign_items(np.array([3, -1, 0]), 5).tolist() == [False, True, True, False, True]
    model = model_of()
    assert np.flatnonzero(~model.foreign).tolist() == [0, 3, 5, 8]


def test_histories_move_to_the_vocabularys_columns_in_order_of_time() -> None:
    moved = on_vocabulary(matrix([{2: 2.0, 1: 1.0, 0: 3.0}, {1: 5.0}], 3), np.array([3, -1, 0], dtype=np.int32), 5)
    assert (moved.n_users, moved.n_items) == (2, 5)
    assert moved.row(0).tolist() == [0, 3]
    assert moved.values.tolist() == [2.0, 3.0]
    assert moved.row(1).tolist() == [], "nobody shares that item"


def test_shared_factors_score_own_items_as_the_whole_catalogue() -> None:
    model = model_of(2)
    shared = [column for column, position in enumerate(model.own_positions) if position >= 0]
    items = model.shared.item_parameters[model.own_positions[shared]].astype(float)
    scores = shared_on_own(model.shared, model.own_positions).scores(model.histories, USERS)
    alpha, ridge = model.shared.config.unobserved_weight, model.shared.config.regularization
    for user in range(3):
        own = [shared.index(column) for column in model.histories.row(user) if column in shared]
        system = items[own].T @ items[own] + alpha * items.T @ items + ridge * np.eye(4)
        expected = items @ np.linalg.solve(system, items[own].sum(axis=0))
        assert scores[user, shared] == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert scores[user, 1] == pytest.approx(expected.mean(), rel=1e-3, abs=1e-5), (
            "of it the federation knows nothing"
        )


def test_what_the_platform_has_not_is_not_held_against_an_item() -> None:
    model = model_of(2)
    scorer = shared_on_vocabulary(model.shared, model.own_positions)
    scores = scorer.scores(model.on_vocabulary(model.histories), USERS)
    assert scores.shape == (3, 9)
    # Foreign items do not enter the users' systems: with other foreign rows the own items score as before.
    parameters = model.shared.item_parameters.copy()
    parameters[model.foreign] *= 7
    other = shared_on_vocabulary(replace(model.shared, item_parameters=parameters), model.own_positions)
    changed = other.scores(model.on_vocabulary(model.histories), USERS)
    own = ~model.foreign
    assert np.array_equal(changed[:, own], scores[:, own])
    assert changed[:, ~own] == pytest.approx(7 * scores[:, ~own], rel=1e-4, abs=1e-6)


def test_a_platform_without_a_shared_item_scores_all_items_alike() -> None:
    model = model_of(2)
    nothing = np.full(5, -1, dtype=np.int32)
    assert np.all(shared_on_own(model.shared, nothing).scores(model.histories, USERS) == 0)
    histories = on_vocabulary(model.histories, nothing, 9)
    assert np.all(shared_on_vocabulary(model.shared, nothing).scores(histories, USERS) == 0)


def test_the_verdict_names_the_model_that_ranks_own_items() -> None:
    model = model_of(3, "blend")
    local = model.own_scorer("local").scores(model.histories, USERS)
    shared = model.own_scorer("shared").scores(model.histories, USERS)
    blend = model.own_scorer().scores(model.histories, USERS)
    assert blend == pytest.approx(z(z(local) + np.float32(0.5) * z(shared)), abs=1e-5)
    for name in ("local", "shared", "anchored"):
        chosen = replace(model, verdict=replace(model.verdict, name=name, weight=None))
        assert np.array_equal(
            chosen.own_scorer().scores(model.histories, USERS), model.own_scorer(name).scores(model.histories, USERS)
        )


def test_popularity_is_the_number_of_users() -> None:
    model = model_of()
    assert model.own_popularity().scores(model.histories, USERS)[0].tolist() == model.histories.item_counts().tolist()


def test_cross_scores_add_log_popularity_by_beta() -> None:
    model = model_of(4)
    histories = model.on_vocabulary(model.histories)
    by_formula = z(cross_oracle(model).scores(histories, USERS), model.foreign)[:, model.foreign]
    scores = model.cross_scorer().scores(histories, USERS)
    assert scores[:, model.foreign] == pytest.approx(by_formula, abs=1e-5)
    assert np.all(scores[:, ~model.foreign] == 0), "own items are no candidates"
    plain = model.cross_scorer(replace(model.cross, beta=0.0)).scores(histories, USERS)[:, model.foreign]
    assert not np.allclose(plain, by_formula, atol=1e-2)
