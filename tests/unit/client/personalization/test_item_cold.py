"""Weights of cross-platform scorers are found on own items, and popularity serves where nothing is surely better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from client.data.dataset import ItemDescriptions, UserItemMatrix
from client.data.described import Described
from client.personalization.cross_parts import (
    FACTORS_BY_LIKENESS,
    TASTES_BY_FACTORS,
    TASTES_BY_LIKENESS,
    CrossParts,
    near_factors,
    users_of_owners,
)
from client.personalization.described import DescribedItems
from client.personalization.item_cold import choose_blend
from client.personalization.leave_out import without_own
from client.personalization.platform_model import CrossVerdict
from client.scoring.blend import Blend
from client.scoring.described.released_counts import ReleasedCounts
from client.scoring.factors import FactorModel
from client.training.factory import make_trainer
from common.config.model import FactorizationConfig

OWN, FOREIGN = 150, 60
M = OWN + FOREIGN
CONFIG = FactorizationConfig(dimension=6, regularization=3.0, unobserved_weight=0.2, backend="numba")


def matrix_of(wanted: np.ndarray) -> UserItemMatrix:
    users, items = np.nonzero(wanted)
    return UserItemMatrix.from_entries(
        users, items, np.ones(len(users)), np.arange(len(users)), n_users=len(wanted), n_items=wanted.shape[1]
    )


def world(seed: int, *, loyal: float, private: bool = False) -> tuple[CrossParts, np.ndarray, np.ndarray, np.ndarray]:
    """Users want what is popular, and ``loyal`` times what the makers make that they like. Everything is on both sides but
    the foreign items; what own users would want of these is known here alone."""
    rng = np.random.default_rng(seed)
    makers = rng.integers(0, 12, M)
    popular = rng.normal(0, 1.0, M)

    def wanted(n: int) -> np.ndarray:
        likes = rng.normal(0, loyal, (n, 12))
        return rng.random((n, M)) < 1 / (1 + np.exp(3.0 - popular - likes[:, makers]))

    here, there = wanted(300), wanted(500)
    own = np.arange(OWN)
    data = CrossParts(
        histories=matrix_of(np.where(np.arange(M) < OWN, here, False)),
        own=own,
        others=np.ones(M, dtype=bool),
        foreign_counts=there.sum(axis=0).astype(float),
        foreign_users=np.full(M, 500.0),
        described=DescribedItems([""] * M, {"maker": [(f"m{maker}",) for maker in makers]}),
        released=ReleasedCounts(
            totals=there.sum(axis=0).astype(float),
            own=np.zeros(M),
            users=np.full(M, 500.0),
            sigma=np.full(M, 60.0),
        )
        if private
        else None,
    )
    return data, here, there, makers


def factors(here: np.ndarray, there: np.ndarray) -> FactorModel:
    """Of everybody together."""
    trainer = make_trainer(CONFIG)
    everybody = matrix_of(np.vstack([here, there]))
    parameters = np.random.default_rng(0).standard_normal((M, 6)).astype(np.float32) * 0.1
    for _ in range(6):
        parameters = trainer.solve_items(everybody, trainer.solve_users(everybody, parameters), parameters)
    return FactorModel(item_parameters=parameters, config=CONFIG)


def chosen(
    data: CrossParts, here: np.ndarray, there: np.ndarray, *, level: float = 0.6
) -> tuple[Blend, CrossVerdict] | None:
    shared = factors(here, there)
    return choose_blend(data, shared, without_own(shared, data), np.random.default_rng(0), level=level)


def test_makers_are_found_to_matter_and_the_hidden_items_agree() -> None:
    data, here, there, _ = world(2, loyal=2.0)
    found = chosen(data, here, there)
    assert found is not None
    blend, verdict = found
    assert verdict.name == "blend"
    assert verdict.interval[0] > 0
    assert blend.weights["maker"] > 0.05
    kept = {part.name: part for part in blend.parts}
    users, foreign = np.arange(300), np.arange(OWN, M)
    scores = sum(
        weight * _z(kept[name].at(foreign).scores(data.histories, users))
        for name, weight in blend.weights.items()
        if name in kept
    )
    popularity = np.broadcast_to(data.log_rate[foreign], (300, FOREIGN))
    assert _recall(scores, here[:, OWN:]) > _recall(popularity, here[:, OWN:]) + 0.05


def test_texts_matter_where_nothing_else_tells_the_makers() -> None:
    data, here, there, makers = world(3, loyal=2.5)
    directions = np.random.default_rng(0).standard_normal((12, 16)).astype(np.float32)
    titles = [f"by {maker} ({1990 + maker})" for maker in makers]

    def vectors(texts: Sequence[str]) -> np.ndarray:
        assert not any("(" in text for text in texts), "a year is a number, not words"
        return directions[[int(text.split()[1]) for text in texts]]

    found = chosen(replace(data, described=DescribedItems(titles, {}, vectors)), here, there)
    assert found is not None
    blend, verdict = found
    assert verdict.name == "blend"
    assert blend.weights["texts"] > 0.1


def test_the_others_words_come_first_and_own_ones_fill_in() -> None:
    cards = ItemDescriptions(keys=("a", ""), titles=("Theirs", ""), genres=(("x",), ()))
    own = ItemDescriptions(keys=("a", "b"), titles=("Mine", "Mine alone"), genres=(("y",), ("z",)))
    described = DescribedItems.of(cards, own, np.array([0, 1], dtype=np.int32))
    assert described.titles == ["Theirs", "Mine alone"]
    assert described.categories == {"genres": [("x",), ("z",)]}


def test_popularity_serves_unless_the_blend_is_surely_better() -> None:
    names = []
    for seed in range(4):
        data, here, there, _ = world(seed, loyal=0.0)
        few = replace(data, histories=data.histories.select_users(np.arange(40)))
        found = chosen(few, here[:40], there, level=0.999)
        assert found is not None
        blend, verdict = found
        assert (verdict.name == "blend") == (verdict.interval[0] > 0)
        assert (verdict.name == "popularity") == (list(blend.weights) == ["popularity"])
        if verdict.name == "popularity":
            assert verdict.chosen_mean == verdict.popularity_mean
        names.append(verdict.name)
    assert names.count("popularity") >= 2


@cache
def of_few_users(level: float) -> tuple[Blend, CrossVerdict]:
    """Choose for a hundred users."""
    data, here, there, _ = world(2, loyal=0.8)
    few = replace(data, histories=data.histories.select_users(np.arange(100)))
    found = chosen(few, here[:100], there, level=level)
    assert found is not None
    return found


def test_a_share_of_a_blend_serves_where_all_of_it_is_unsure() -> None:
    verdicts = [of_few_users(level)[1] for level in (0.1, 0.7, 0.95)]
    assert [verdict.name for verdict in verdicts] == ["blend", "blend", "popularity"]
    shares = [verdict.share for verdict in verdicts]
    assert shares[0] == 1
    assert 0 < shares[1] < 1
    assert shares[2] == 0
    assert verdicts[0].chosen_mean > verdicts[1].chosen_mean > verdicts[2].chosen_mean == verdicts[2].popularity_mean
    assert verdicts[1].interval[0] > 0 > verdicts[2].interval[0]


def test_popularity_as_told_makes_up_the_rest_of_a_share() -> None:
    (whole, _), (part, verdict) = of_few_users(0.1), of_few_users(0.7)
    rest = dict(part.weights)
    assert rest.pop("popularity as told") > 0.1
    assert rest == pytest.approx({name: weight * verdict.share for name, weight in whole.weights.items()})
    (told,) = (prior for prior in part.parts if prior.name == "popularity as told")
    assert np.array_equal(told.items, world(2, loyal=0.8)[0].popularity().items)


def test_few_items_to_come_ask_for_a_surer_blend() -> None:
    data, here, there, _ = world(2, loyal=2.0)
    widths = []
    for foreign in (FOREIGN, 6):
        found = chosen(replace(data, others=np.arange(M) < OWN + foreign), here, there)
        assert found is not None
        widths.append(found[1].interval[1] - found[1].interval[0])
    assert widths[1] > 1.2 * widths[0]


def test_popularity_that_serves_is_what_was_told() -> None:
    data, here, there, _ = world(1, loyal=0.0)
    apart = replace(data, foreign_users=np.where(np.arange(M) % 2 == 0, 500.0, 50.0))
    found = chosen(apart, here, there, level=0.9999)
    assert found is not None
    blend, verdict = found
    assert verdict.name == "popularity"
    (part,) = blend.parts
    scores = part.scores(data.histories, np.arange(1))[0]
    assert np.array_equal(np.argsort(-scores, kind="stable"), np.argsort(-data.foreign_counts, kind="stable"))


def test_who_likes_two_unlike_things_is_near_to_either() -> None:
    one, other = np.eye(2)
    vectors = np.array([one, other, one, (one + other) / 2, -one, one])
    shared = FactorModel(item_parameters=vectors.astype(np.float32), config=CONFIG.model_copy(update={"dimension": 2}))
    history = matrix_of(np.array([[True, True, False, False, False, True]]))
    scores = near_factors(shared, np.array([0, 1])).scores(history, np.arange(1))[0]
    assert scores[2] > scores[3] > scores[4] == 0
    assert scores[2] == pytest.approx(np.log(2.0)), "an item that may not be read adds nothing"


def test_interactions_with_items_the_platform_lacks_are_not_read() -> None:
    data, here, there, _ = world(4, loyal=1.0)
    first = chosen(data, here, there)
    again = chosen(replace(data), here, there)
    assert first is not None
    assert again is not None
    assert dict(first[0].weights) == dict(again[0].weights)
    assert data.histories.indices.max() < OWN


def test_too_little_in_common_says_nothing() -> None:
    data, here, there, _ = world(5, loyal=1.0)
    alone = replace(data, others=np.arange(M) >= OWN - 10)
    assert chosen(alone, here, there) is None
    nobody = replace(data, histories=data.histories.select_entries(np.zeros(data.histories.nnz, dtype=bool)))
    assert chosen(nobody, here, there) is None


def test_noisy_counts_below_zero_are_taken() -> None:
    data, here, there, _ = world(6, loyal=1.0, private=True)
    noisy = data.foreign_counts + np.random.default_rng(1).normal(0, 60, M)
    assert data.released is not None
    released = replace(data.released, totals=np.maximum(noisy, 1.0))
    found = chosen(replace(data, foreign_counts=noisy, released=released), here, there)
    assert found is not None
    assert found[1].name == "blend"
    assert all(np.isfinite(weight) for weight in found[0].weights.values())


def test_an_items_factors_without_own_users_are_those_of_the_others() -> None:
    """Against factors that the others' users alone have made, in a world where they are like the own ones."""
    data, here, there, _ = world(7, loyal=1.5)
    trainer, shared = make_trainer(CONFIG), factors(here, there)
    parameters = shared.item_parameters
    users = trainer.solve_users(matrix_of(np.vstack([here, there])), parameters)
    without = trainer.solve_items(matrix_of(there), users[300:], parameters)
    found = without_own(shared, data)
    assert found is not None
    own = slice(0, OWN)
    assert np.array_equal(found[OWN:], parameters[OWN:])
    error = np.linalg.norm(found[own] - without[own]) / np.linalg.norm(parameters[own] - without[own])
    assert error < 0.6, "most of what own users had added is gone"


def test_users_of_owners_are_found_from_counts_of_common_items() -> None:
    rng = np.random.default_rng(8)
    rate = rng.uniform(0.05, 0.5, 400)
    here = rng.random((500, 400)) < rate
    owners = rng.random((400, 2)) < 0.6
    counts = rng.binomial(1000, rate) * owners[:, 0] + rng.binomial(250, rate) * owners[:, 1]
    users = users_of_owners(owners, counts.astype(float), matrix_of(here))
    assert users[owners[:, 0] & ~owners[:, 1]].mean() == pytest.approx(1000, rel=0.05)
    assert users[~owners[:, 0] & owners[:, 1]].mean() == pytest.approx(250, rel=0.1)
    assert np.all(users[~owners.any(axis=1)] == 0)


def _z(scores: np.ndarray) -> np.ndarray:
    deviation = scores.std(axis=1, keepdims=True)
    return (scores - scores.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1)


def _recall(scores: np.ndarray, truth: np.ndarray, k: int = 10) -> float:
    users = truth.any(axis=1)
    top = np.argsort(-scores[users], axis=1, kind="stable")[:, :k]
    hits = np.take_along_axis(truth[users], top, axis=1).sum(axis=1)
    return float(np.mean(hits / np.minimum(truth[users].sum(axis=1), k)))


def test_factors_that_own_users_cannot_be_taken_out_of_are_left_out() -> None:
    data, *_ = world(9, loyal=1.0)
    chance = np.random.default_rng(0).standard_normal((M, 6)).astype(np.float32) * 30
    shared = FactorModel(item_parameters=chance, config=CONFIG)
    assert without_own(shared, data) is None
    found = choose_blend(data, shared, None, np.random.default_rng(0), level=0.6)
    assert found is not None
    assert not {"shared", "near factors"} & set(found[0].weights)
    assert found[1].name == "blend"


def test_regressions_read_what_is_told_of_foreign_items() -> None:
    rows = np.arange(10)
    further = Described(
        {"maker": "category", "blurb": "text", "pages": "number"},
        {
            "maker": tuple("ab" if item < 6 else None for item in range(12)),
            "blurb": tuple("words" if item > 5 else None for item in range(12)),
            "pages": tuple(float(item) for item in range(12)),
        },
    )
    described = DescribedItems([""] * 12, {"genres": [("x",)] * 12, **dict(further.categories())}, further=further)
    told = described.well_told(rows)
    assert set(told.categories) == {"genres", "maker"}
    assert set(told.further.kinds) == {"maker", "pages"}
    assert described.well_told(np.arange(8)) is not described
    assert described.well_told(np.arange(4, 8)) is described
    assert described.well_told(np.arange(0)) is described


def test_near_factors_that_tell_nothing_are_not_admitted() -> None:
    data, *_ = world(10, loyal=1.0)
    chance = np.random.default_rng(0).standard_normal((M, 6)).astype(np.float32)
    found = choose_blend(
        data, FactorModel(item_parameters=chance, config=CONFIG), chance, np.random.default_rng(0), level=0.6
    )
    assert found is not None
    assert "near factors" not in found[0].weights


@pytest.mark.parametrize("name", [TASTES_BY_FACTORS[0], TASTES_BY_LIKENESS, FACTORS_BY_LIKENESS])
def test_tastes_by_factors_place_items_that_nothing_is_told_of(name: str) -> None:
    data, here, there, _ = world(11, loyal=2.0)
    untold = replace(data, described=DescribedItems([""] * M, {}))
    shared = factors(here, there)
    parts = {part.name: part for part in untold.fitted(data.own, data.histories, shared, without_own(shared, data))}
    assert not set(TASTES_BY_FACTORS) & {part.name for part in untold.fitted(data.own, data.histories, shared)}
    users, foreign = np.arange(300), np.arange(OWN, M)
    by_factors, without = (
        _recall(parts[scorer].at(foreign).scores(data.histories, users), here[:, OWN:])
        for scorer in (name, "tastes 200")
    )
    assert by_factors > without + 0.05


def test_noisy_factors_reckoned_at_home_place_no_tastes() -> None:
    data, here, there, _ = world(11, loyal=2.0, private=True)
    shared = factors(here, there)

    def names(crossed: CrossParts) -> set[str]:
        fitted = crossed.fitted(data.own, data.histories, shared, without_own(shared, data))
        return {part.name for part in fitted}

    assert set(TASTES_BY_FACTORS) <= names(data)
    at_home = names(replace(data, factors_told=False))
    assert names(data) - at_home == set(TASTES_BY_FACTORS)
    exact = replace(data, factors_told=False, released=None)
    assert set(TASTES_BY_FACTORS) <= names(exact), "without noise what is reckoned at home lacks own users' part alone"
