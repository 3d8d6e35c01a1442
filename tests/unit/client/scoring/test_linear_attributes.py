"""Foreign items placed among own tastes by public attributes, and demand that reads further attributes."""

from __future__ import annotations

import numpy as np
import pytest

from client.data.dataset import UserItemMatrix
from client.personalization.described import DescribedItems
from client.scoring.attributes import AttributePart, by_likeness, fit_attribute_transfer, place_among
from client.scoring.demand import expected_demand
from client.scoring.described.profile import ProfilePart
from client.scoring.fold_in import FoldIn
from common.config.model import FactorizationConfig
from common.errors import ContractError


def _matrix(dense: np.ndarray) -> UserItemMatrix:
    users, items = np.nonzero(dense)
    ones = np.ones(len(users), dtype=np.float32)
    return UserItemMatrix.from_entries(
        users, items, ones, np.zeros(len(users), dtype=np.int64), n_users=dense.shape[0], n_items=dense.shape[1]
    )


def _two_tastes(foreign: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interactions (users × items), whether a user is of taste 0, and the items' taste; the last items are foreign."""
    rng = np.random.default_rng(1)
    item_taste = np.arange(60) % 2
    user_taste = np.arange(200) % 2
    dense = (rng.random((200, 60)) < np.where(user_taste[:, None] == item_taste, 0.4, 0.05)) * 1.0
    dense[:, -foreign:] = 0
    return dense, user_taste, item_taste


def test_foreign_items_go_to_the_users_whose_taste_their_genre_tells() -> None:
    dense, user_taste, item_taste = _two_tastes()
    genres = [("drama",) if taste else ("comedy",) for taste in item_taste]
    common = np.arange(50)
    features = DescribedItems([""] * 60, {"genres": genres}).columns(common)
    scorer = fit_attribute_transfer(_matrix(dense), common, features, dimension=4, regularization=1.0)
    scores = scorer.scores(_matrix(dense), np.arange(200))[:, 50:]
    likes_drama = scores[:, item_taste[50:] == 1].mean(axis=1) > scores[:, item_taste[50:] == 0].mean(axis=1)
    assert (likes_drama == (user_taste == 1)).mean() > 0.95


def test_scores_are_those_of_dense_decomposition_and_least_squares() -> None:
    dense, _, _ = _two_tastes()
    rng = np.random.default_rng(2)
    features, common = rng.normal(size=(60, 3)), np.arange(5, 50)
    users = np.array([3, 3, 150])
    scores = fit_attribute_transfer(_matrix(dense), common, features, dimension=5, regularization=7.0).scores(
        _matrix(dense), users
    )
    tastes = np.linalg.svd(dense, full_matrices=False)[2][:5].T
    design = (features - features[common].mean(axis=0)) / features[common].std(axis=0)
    # The intercept is not penalised.
    augmented = np.column_stack([np.ones(60), design])
    below = np.vstack([augmented[common], np.sqrt(7.0) * np.diag([0.0, 1.0, 1.0, 1.0])])
    weights, *_ = np.linalg.lstsq(below, np.vstack([tastes[common], np.zeros((4, 5))]), rcond=None)
    np.testing.assert_allclose(scores, dense[users] @ tastes @ (augmented @ weights).T, atol=1e-4)


def test_a_user_of_unique_items_is_not_ranked_by_rounding() -> None:
    dense, _, _ = _two_tastes()
    dense[:, 40:] = 0
    dense = np.vstack([dense, np.zeros((4, 60))])
    dense[-4:, 40] = 1  # apart from all others
    features, common = np.random.default_rng(2).normal(size=(60, 3)), np.arange(5, 50)
    scorer = fit_attribute_transfer(_matrix(dense), common, features, dimension=5)
    asked = np.zeros((1, 60))
    asked[0, [40, 41]] = 1  # 41 is nobody's
    assert (scorer.scores(_matrix(asked), np.array([0])) == 0).all()
    assert (scorer.scores(_matrix(dense), np.array([0])) != 0).any()


def test_the_same_data_gives_the_same_tastes_every_time() -> None:
    dense = (np.random.default_rng(0).random((9, 60)) < 0.3) * 1.0
    features, common = np.random.default_rng(2).normal(size=(60, 3)), np.arange(5, 50)
    fitted = [fit_attribute_transfer(_matrix(dense), common, features) for _ in range(5)]
    assert len({scorer.item_factors.tobytes() for scorer in fitted}) == 1


def test_a_platform_with_nothing_in_common_scores_nothing() -> None:
    dense, _, _ = _two_tastes()
    scorer = fit_attribute_transfer(_matrix(dense), np.zeros(0, dtype=np.int64), np.ones((60, 2)))
    assert (scorer.scores(_matrix(dense), np.arange(3)) == 0).all()


def test_tastes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ContractError, match="fit"):
        AttributePart(np.zeros((3, 2), dtype=np.float32), np.zeros((3, 1), dtype=np.float32))


def test_demand_learns_from_further_attributes_what_is_wanted_here() -> None:
    rng = np.random.default_rng(3)
    wanted = rng.integers(0, 2, 400).astype(np.float64)
    foreign = rng.integers(5, 50, 400).astype(np.float64)
    here = np.round(foreign * np.where(wanted > 0, 8.0, 0.5))
    common = np.arange(300)
    blind = expected_demand(here[:300], foreign, common, np.zeros((400, 0)))
    told = expected_demand(here[:300], foreign, common, wanted[:, None])
    errors = [np.abs(np.log(one[300:]) - np.log1p(here[300:])).mean() for one in (blind, told)]
    assert errors[1] < 0.3 * errors[0]


def _corners(n: int, fitted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two features of ±1, tastes that their product tells and their sum does not, and the first ``fitted`` items."""
    features = np.random.default_rng(4).choice([-1.0, 1.0], (n, 2))
    tastes = np.column_stack([features.prod(axis=1), 0.5 * features[:, 0]])
    return features, tastes, np.arange(fitted)


@pytest.mark.parametrize("n", [120, 2600], ids=["all-are-examples", "some-are"])
def test_likeness_learns_what_features_say_together(n: int) -> None:
    features, tastes, common = _corners(n, n - 20)
    known = np.where(np.arange(n)[:, None] < n - 20, tastes, 0.0)
    together = by_likeness(known, common, features, regularization=0.3)[-20:]
    by_sum = place_among(known, common, features, regularization=0.3).item_factors[-20:]
    assert np.abs(together - tastes[-20:]).max() < 0.1
    assert np.abs(by_sum[:, 0] - tastes[-20:, 0]).max() > 0.5, "a sum of what each feature says cannot"


def test_likeness_is_kernel_ridge_regression() -> None:
    rng = np.random.default_rng(6)
    features, tastes, common = rng.normal(size=(60, 3)), rng.normal(size=(60, 4)), np.arange(5, 45)
    placed = by_likeness(tastes, common, features, regularization=0.5)
    design = (features - features[common].mean(axis=0)) / features[common].std(axis=0)
    squares = np.square(design[:, None] - design[None]).sum(axis=2)
    kernel = np.exp(-squares / 6.0) + 0.1 * (design @ design.T) / 3.0
    mean = tastes[common].mean(axis=0)
    dual = np.linalg.solve(kernel[np.ix_(common, common)] + 0.5 * np.eye(40), tastes[common] - mean)
    np.testing.assert_allclose(placed, mean + kernel[:, common] @ dual, atol=1e-4)


def test_likeness_of_nothing_places_nothing() -> None:
    assert by_likeness(np.zeros((5, 0)), np.arange(3), np.ones((5, 2)), regularization=0.3).shape == (5, 0)
    assert not by_likeness(np.ones((5, 2)), np.arange(0), np.ones((5, 2)), regularization=0.3).any()
    tastes = np.arange(10.0).reshape(5, 2)
    alike = by_likeness(tastes, np.arange(3), np.ones((5, 2)), regularization=0.3)
    np.testing.assert_allclose(alike, np.tile(tastes[:3].mean(axis=0), (5, 1)), atol=1e-6)


def test_factors_told_of_items_come_back_from_the_store() -> None:
    rng = np.random.default_rng(3)
    catalogue = rng.normal(size=(40, 4)).astype(np.float32)
    config = FactorizationConfig(dimension=4, regularization=2.0, unobserved_weight=0.3, regularization_exponent=0.7)
    items = rng.normal(size=(60, 4)).astype(np.float32)
    part = ProfilePart(
        "told", FoldIn(catalogue, config), np.append(np.arange(40), np.full(20, -1)).astype(np.int32), items
    )
    kept = dict(part.arrays())
    histories = _matrix(np.pad(rng.random((5, 40)) < 0.2, ((0, 0), (0, 20))) * 1.0)
    scores = part.scores(histories, np.arange(5))
    np.testing.assert_array_equal(ProfilePart.of_arrays("told", kept).scores(histories, np.arange(5)), scores)
    kept["settings"] = kept["settings"][:2]  # as written before the exponent was kept
    assert not np.array_equal(ProfilePart.of_arrays("told", kept).scores(histories, np.arange(5)), scores)
