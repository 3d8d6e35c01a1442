"""Every scorer that takes part in a blend keeps one contract; a new one adds a line to :data:`PARTS`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray

import client.scoring
from client.data.dataset import UserItemMatrix
from client.personalization.platform_model import PlatformModel
from client.personalization.store import PlatformStore
from client.recommend.recommender import Recommender
from client.scoring.attributes import AttributePart
from client.scoring.described.counted import category_part
from client.scoring.described.nearest import fit_nearest
from client.scoring.described.prior import PriorPart
from client.scoring.described.profile import fit_profile
from client.scoring.ease import EasePart
from client.scoring.factors import own_factors, shared_on_own, shared_on_vocabulary
from client.scoring.linear_form import LinearScope
from client.scoring.part import Arrays, Carried, DirectPart, Part, UserHistory, stored
from client.scoring.scorer import z
from client.scoring.towers import TowerPart
from simulations.engine.random_model import random_platform_model
from tests.scoring_oracle import cross_oracle
from tests.support.towers import deep

MODEL = random_platform_model(np.random.default_rng(3))
EXPLICIT = random_platform_model(np.random.default_rng(4), feedback="explicit", verdict="shared")
M, RNG = len(MODEL.owners), np.random.default_rng(5)
NOTHING = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)


@stored("toy")
@dataclass(frozen=True, eq=False)
class ToyPart(Part):
    """Likes items whose place is as even as those of the history: all that it takes to add a scorer."""

    parity: NDArray[np.float32]
    name: str = "toy"

    @property
    def items(self) -> NDArray[np.float32]:
        return self.parity[:, None]

    def at(self, rows: NDArray[np.integer]) -> ToyPart:
        return replace(self, parity=self.parity[rows])

    def factor(self, history: UserHistory) -> NDArray[np.float64]:
        return np.array([float((1.0 - 2.0 * (history.columns % 2)).sum())])

    def carried(self, row: int, deviation: NDArray[np.float64], history: UserHistory) -> Carried:
        amounts = (1.0 - 2.0 * (history.columns % 2)) * deviation[0]
        return Carried(np.arange(len(amounts)), amounts, 0.0, {})

    def arrays(self) -> Arrays:
        return {"parity": self.parity}

    @classmethod
    def of_arrays(cls, name: str, arrays: Arrays) -> ToyPart:
        return cls(arrays["parity"].astype(np.float32), name)


@stored("toy_direct")
@dataclass(frozen=True, eq=False)
class ToyDirect(DirectPart):
    """The square of how much a history likes an item: no product."""

    likes: NDArray[np.float64]
    name: str = "toy direct"

    @property
    def items(self) -> NDArray[np.float32]:
        return np.zeros((len(self.likes), 0), dtype=np.float32)

    def at(self, rows: NDArray[np.integer]) -> ToyDirect:
        return replace(self, likes=self.likes[rows])

    def direct(self, history: UserHistory) -> NDArray[np.float64]:
        return np.square(self.likes[:, history.columns].sum(axis=1))

    def added(self, row: int, history: UserHistory) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        amounts = self.likes[row, history.columns]
        return np.arange(len(amounts)), amounts * amounts.sum()

    def arrays(self) -> Arrays:
        return {"likes": self.likes}

    @classmethod
    def of_arrays(cls, name: str, arrays: Arrays) -> ToyDirect:
        return cls(arrays["likes"].astype(np.float64), name)


def linear_part() -> EasePart:
    own, foreign = np.sort(MODEL.own_positions[MODEL.own_positions >= 0]), np.flatnonzero(MODEL.foreign)
    weights = RNG.standard_normal((len(own[::2]), len(foreign[1::3]))).astype(np.float32)
    return EasePart(own[::2], foreign[1::3], weights, np.arange(M))


OF_OWN: dict[str, Callable[[], Part]] = {
    "local": lambda: own_factors("local", MODEL.local),
    "local, explicit": lambda: own_factors("local", EXPLICIT.local),
    "shared on own": lambda: shared_on_own(MODEL.shared, MODEL.own_positions),
    "shared on own, explicit": lambda: shared_on_own(EXPLICIT.shared, EXPLICIT.own_positions),
}


def category(values: int) -> Part:
    """A categorical attribute of so many values, two an item; few are coordinates, many are not."""
    columns = RNG.integers(0, values, (M, 2)).ravel()
    has = sp.csr_array((np.ones(2 * M, dtype=np.float32), (np.repeat(np.arange(M), 2), columns)), shape=(M, values))
    return category_part("maker", has, MODEL.own_positions[MODEL.own_positions >= 0])


def profile() -> Part:
    readable = np.sort(MODEL.own_positions[MODEL.own_positions >= 0])
    return fit_profile(RNG.standard_normal((M, 6)), readable, unobserved_weight=0.1)


STORED: dict[str, Callable[[], Part]] = {
    "prior": lambda: PriorPart("popularity", RNG.standard_normal(M).astype(np.float32)),
    "category of few values": lambda: category(9),
    "category of many values": lambda: category(200),
    "profile": profile,
    "attributes": lambda: AttributePart(*RNG.standard_normal((2, M, 3)).astype(np.float32)),
    "linear": linear_part,
    "nearest texts": lambda: fit_nearest(*RNG.standard_normal((2, M, 6)).astype(np.float32) / 3, neighbours=20),
    "toy": lambda: ToyPart((1.0 - 2.0 * (np.arange(M) % 2)).astype(np.float32)),
    "toy direct": lambda: ToyDirect(RNG.standard_normal((M, M))),
}
PARTS: dict[str, Callable[[], Part]] = {
    **OF_OWN,
    **STORED,
    "shared": lambda: shared_on_vocabulary(MODEL.shared, MODEL.own_positions),
    "towers": lambda: TowerPart.on_vocabulary(deep(1, "mean", personal=False), MODEL.own_positions),
}


def histories_of(name: str) -> UserItemMatrix:
    model = EXPLICIT if "explicit" in name else MODEL
    return model.histories if name in OF_OWN else model.on_vocabulary(model.histories)


@pytest.mark.parametrize("name", PARTS)
def test_scores_are_finite_float32_of_users_by_items(name: str) -> None:
    part, histories = PARTS[name](), histories_of(name)
    scores = part.scores(histories, np.array([2, 0]))
    assert (scores.dtype, scores.shape) == (np.float32, (2, len(part.items)))
    assert np.isfinite(scores).all()
    assert part.scores(histories, np.zeros(0, dtype=np.int64)).shape == (0, len(part.items))


@pytest.mark.parametrize("name", PARTS)
def test_a_block_of_users_scores_as_each_alone(name: str) -> None:
    part, histories = PARTS[name](), histories_of(name)
    scope = LinearScope([part])
    block = scope.scores(histories, np.arange(5))
    for user in range(5):
        entries = slice(histories.indptr[user], histories.indptr[user + 1])
        query = scope.query(histories.indices[entries], histories.values[entries], user)
        np.testing.assert_allclose(scope.scored(query), block[user], atol=2e-5)
        np.testing.assert_allclose(block[user], z(part.scores(histories, np.array([user])))[0], atol=1e-4)


@pytest.mark.parametrize("name", PARTS)
def test_an_empty_history_gives_all_users_the_same_finite_scores(name: str) -> None:
    part, histories = PARTS[name](), histories_of(name)
    empty = histories.select_entries(np.zeros(histories.nnz, dtype=np.bool_))
    scores = part.scores(empty, np.arange(3))
    assert np.isfinite(scores).all()
    assert np.array_equal(scores[0], scores[2])
    query = LinearScope([part]).query(*NOTHING)
    assert np.isfinite(query.vector).all()
    assert np.isfinite(query.offset)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("count", [0, 1])
def test_no_item_and_one_item_can_be_scored(name: str, count: int) -> None:
    part, histories = PARTS[name]().at(np.arange(count)), histories_of(name)
    assert part.scores(histories, np.arange(2)).shape == (2, count)
    scope = LinearScope([part])
    columns, values = histories.row(0), histories.values[: len(histories.row(0))]
    with np.errstate(invalid="ignore"):
        scores = scope.scored(scope.query(columns, values, 0))
    assert np.array_equal(scores, np.zeros(count)), "one item alone has no rank"


@pytest.mark.parametrize("name", PARTS)
def test_some_items_alone_have_the_scores_that_they_had(name: str) -> None:
    part, histories = PARTS[name](), histories_of(name)
    rows = np.array([7, 2, 11])
    some = part.at(rows).scores(histories, np.arange(4))
    np.testing.assert_allclose(some, part.scores(histories, np.arange(4))[:, rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PARTS)
def test_what_carried_a_score_adds_up_to_it(name: str) -> None:
    part, histories = PARTS[name](), histories_of(name)
    scores = part.scores(histories, np.array([1]))[0].astype(np.float64)
    mean = part.items.mean(axis=0, dtype=np.float64)
    history = UserHistory.of(histories, 1)
    for row in (0, 5):
        carried = part.carried(row, part.items[row] - mean, history)
        assert carried.entries.max(initial=0) < len(history.columns)
        assert carried.amounts.sum() + carried.own == pytest.approx(scores[row] - scores.mean(), abs=1e-3)


def served(model: PlatformModel) -> tuple[Recommender, list[dict[str, float]]]:
    recommender = Recommender(model)
    lists = (recommender.recommend(f"user-{u}", 200, "cross", exclude_seen=False) for u in range(4))
    return recommender, [{item.key: item.score for item in listed} for listed in lists]


@pytest.mark.parametrize("beta", [None, 0.3])
@pytest.mark.parametrize("name", STORED)
def test_a_stored_part_serves_and_explains_what_evaluation_measured(name: str, beta: float | None, tmp_path) -> None:
    blend = replace(MODEL.cross.with_part(STORED[name](), 1.7), beta=beta)
    store = PlatformStore(tmp_path)
    store.commit(replace(MODEL, cross=blend))
    model = store.load()
    recommender, lists = served(model)
    users, histories = np.arange(4), model.on_vocabulary(model.histories)
    measured = model.cross_scorer().scores(histories, users)
    by_formula = z(cross_oracle(model).scores(histories, users), model.foreign)
    for user, listed in enumerate(lists):
        for position in np.flatnonzero(model.foreign):
            key = model.vocabulary.keys[position]
            assert listed[key] == pytest.approx(by_formula[user, position], abs=1e-4)
            assert listed[key] == pytest.approx(measured[user, position], abs=1e-4)
        key = max(listed, key=lambda k: listed[k])
        why = recommender.explain(recommender.history_of(f"user-{user}"), key)
        parts = sum(part.amount for part in why.contributions) + why.others + why.item_bias + why.popularity
        assert parts == pytest.approx(listed[key], abs=1e-4)
        assert blend.parts[-1].name in why.models
    assert recommender.mixings == Recommender(model).mixings


def parts_of_the_product(base: type = Part) -> set[type]:
    found = {one for one in base.__subclasses__() if one.__module__.startswith("client.") and one is not DirectPart}
    return found.union(*(parts_of_the_product(one) for one in base.__subclasses__()))


def test_no_part_of_the_product_is_missing_here() -> None:
    for path in sorted(Path(client.scoring.__path__[0]).rglob("*.py")):
        importlib.import_module(
            "client.scoring." + ".".join(path.relative_to(client.scoring.__path__[0]).with_suffix("").parts)
        )
    assert {one.__name__ for one in parts_of_the_product()} <= {type(make()).__name__ for make in PARTS.values()}
