"""The federation is pooled training: every sum that the platforms send is a part of the sum that one place would make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.data.training import TrainingData
from client.personalization.platform_model import PlatformModel
from client.recommend.recommender import Recommender
from common.config.federation import FederationPlan
from simulations.engine.federate import FederationOutcome
from tests.support import (
    SECRET,
    Recorder,
    Watch,
    agents_of,
    factors_by_key,
    federate,
    random_platforms,
    run_platforms,
    small_plan,
    training_data,
)

Factors = dict[str, NDArray[np.float64]]
SKEWED = {1: [60], 3: [50, 9, 2], 10: [40, 12, 9, 7, 5, 3, 2, 2, 1, 1]}


class DensePool:
    """Everybody's data in one dense table, solved in float64 by textbook formulas (no line shared with the product).

    Rows are all users, columns all item keys; ``listed`` says which items a user's platform has.
    """

    def __init__(self, platforms: Mapping[str, TrainingData], plan: FederationPlan) -> None:
        self.keys = sorted({key for data in platforms.values() for key in data.items.keys})
        column = {key: index for index, key in enumerate(self.keys)}
        blocks, listed = [], []
        for data in platforms.values():
            block = np.full((data.train.n_users, len(self.keys)), np.nan)
            for user in range(data.train.n_users):
                for entry in range(data.train.indptr[user], data.train.indptr[user + 1]):
                    block[user, column[data.items.keys[data.train.indices[entry]]]] = data.train.values[entry]
            blocks.append(block)
            own = np.isin(self.keys, data.items.keys)
            listed.append(np.tile(own, (data.train.n_users, 1)))
        self.values, self.listed = np.vstack(blocks), np.vstack(listed)
        self.seen = ~np.isnan(self.values)
        self.model = plan.model
        self.mean = float(np.nanmean(self.values))

    def ridge(self, seen: NDArray[np.bool_], listed: NDArray[np.bool_], weight: float) -> float:
        alpha = self.model.unobserved_weight if self.model.feedback == "implicit" else 0.0
        size = seen.sum() + alpha * listed.sum()
        return float(weight * (size if size > 0 else 1.0) ** self.model.regularization_exponent)

    def implicit_side(self, others: NDArray[np.float64], seen: Any, listed: Any, weight: float) -> NDArray[np.float64]:
        d = self.model.dimension
        solved = np.zeros((len(seen), d))
        for row in range(len(seen)):
            on, has = others[seen[row]], others[listed[row]]
            system = on.T @ on + self.model.unobserved_weight * has.T @ has
            system += self.ridge(seen[row], listed[row], weight) * np.eye(d)
            solved[row] = np.linalg.solve(system, on.sum(axis=0))
        return solved

    def explicit_side(
        self, others: NDArray[np.float64], values: Any, listed: Any, weight: float
    ) -> NDArray[np.float64]:
        """Rows [f, bias] from the others' [g, bias]: least squares of r − μ − bias on [g, 1]."""
        solved = np.zeros((len(values), self.model.dimension + 1))
        for row in range(len(values)):
            rated = ~np.isnan(values[row])
            design = np.column_stack([others[rated, :-1], np.ones(rated.sum())])
            target = values[row, rated] - self.mean - others[rated, -1]
            ridge = self.ridge(rated, listed[row], weight)
            stacked = np.vstack([design, np.sqrt(ridge) * np.eye(design.shape[1])])
            solved[row] = np.linalg.lstsq(stacked, np.concatenate([target, np.zeros(design.shape[1])]), rcond=None)[0]
        return solved

    def users(self, items: NDArray[np.float64]) -> NDArray[np.float64]:
        weight = self.model.regularization
        if self.model.feedback == "implicit":
            return self.implicit_side(items, self.seen, self.listed, weight)
        return self.explicit_side(items, self.values, self.listed, weight)

    def items(self, users: NDArray[np.float64]) -> NDArray[np.float64]:
        weight = self.model.item_regularization or self.model.regularization
        if self.model.feedback == "implicit":
            return self.implicit_side(users, self.seen.T, self.listed.T, weight)
        return self.explicit_side(users, self.values.T, self.listed.T, weight)

    def objective(self, users: NDArray[np.float64], items: NDArray[np.float64]) -> float:
        if self.model.feedback == "implicit":
            scores = users @ items.T
            fit = np.sum((1 - scores[self.seen]) ** 2)
            fit += self.model.unobserved_weight * np.sum(scores[self.listed] ** 2)
        else:
            scores = users[:, :-1] @ items[:, :-1].T + users[:, -1:] + items[:, -1] + self.mean
            fit = np.sum((self.values - scores)[self.seen] ** 2)
        penalty = sum(
            self.ridge(self.seen[row], self.listed[row], self.model.regularization) * np.sum(users[row] ** 2)
            for row in range(len(users))
        )
        weight = self.model.item_regularization or self.model.regularization
        penalty += sum(
            self.ridge(self.seen[:, column], self.listed[:, column], weight) * np.sum(items[column] ** 2)
            for column in range(len(items))
        )
        return float(fit + penalty)

    def train(self, first: NDArray[np.float64], rounds: int) -> tuple[NDArray[np.float64], list[float]]:
        items, objectives = first, []
        for _ in range(rounds):
            users = self.users(items)
            objectives.append(self.objective(users, items))
            items = self.items(users)
        return items, objectives


def first_parameters(recorder: Recorder, keys: list[str]) -> NDArray[np.float64]:
    """Return what the aggregator sent in round 1, in order of ``keys``."""
    digests = recorder.requests("vocabulary")[0].arrays["digests"]
    place = {digest.tobytes(): row for row, digest in enumerate(digests)}
    rows = [place[SECRET.digests([key])[0].tobytes()] for key in keys]
    return recorder.requests("statistics")[0].arrays["item_parameters"][rows].astype(np.float64)


def difference(left: NDArray[Any], right: NDArray[Any]) -> float:
    return float(np.linalg.norm(left - right) / np.linalg.norm(right))


MODELS = {
    "implicit": {},
    "implicit-scaled": {"regularization_exponent": 0.5, "regularization": 0.4, "item_regularization": 0.7},
    "explicit": {"feedback": "explicit", "regularization": 1.5},
    "explicit-scaled": {"feedback": "explicit", "regularization": 0.3, "regularization_exponent": 1.0},
}


@pytest.mark.parametrize("n_platforms", SKEWED)
@pytest.mark.parametrize("model", MODELS)
def test_federated_factors_equal_a_dense_pooled_solve(tmp_path: Path, model: str, n_platforms: int) -> None:
    plan = small_plan(rounds=5, model=MODELS[model])
    platforms = random_platforms(n_platforms, SKEWED[n_platforms], explicit=model.startswith("explicit"))
    recorders = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    outcome = federate(recorders, plan, tmp_path)

    pool = DensePool(platforms, plan)
    pooled, objectives = pool.train(first_parameters(recorders[0], pool.keys), plan.rounds)
    federated = factors_by_key(outcome, platforms)
    assert difference(np.array([federated[key] for key in pool.keys]), pooled) <= 1e-4
    assert outcome.state.objectives == pytest.approx(objectives, rel=1e-5)
    assert np.all(np.diff(outcome.state.objectives) < 0), "the objective falls in every round"


def test_averaging_separate_solutions_is_not_pooled_training(tmp_path: Path) -> None:
    """The equality above can fail: what FedAvg would do with the same statistics misses by more than a few percent."""
    plan = small_plan(rounds=5)
    platforms = random_platforms(3, SKEWED[3])
    recorders = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    federate(recorders, plan, tmp_path)
    pool = DensePool(platforms, plan)
    first = first_parameters(recorders[0], pool.keys)
    pooled, _ = pool.train(first, plan.rounds)

    averaged = first
    for _ in range(plan.rounds):
        total, weight = np.zeros_like(first), np.zeros(len(first))
        for name, data in platforms.items():
            alone = DensePool({name: data}, plan)
            rows = np.searchsorted(pool.keys, alone.keys)
            total[rows] += data.train.n_users * alone.items(alone.users(averaged[rows]))
            weight[rows] += data.train.n_users
        averaged = total / weight[:, None]
    assert difference(averaged, pooled) > 0.02


def test_ignoring_who_lists_what_is_not_the_federation(tmp_path: Path) -> None:
    """Absence is not dislike: were absent items counted as unobserved, the factors would be others."""
    plan = small_plan(rounds=5)
    platforms = random_platforms(3, SKEWED[3])
    recorders = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    outcome = federate(recorders, plan, tmp_path)
    pool = DensePool(platforms, plan)
    pool.listed[:] = True
    ignored, _ = pool.train(first_parameters(recorders[0], pool.keys), plan.rounds)
    federated = factors_by_key(outcome, platforms)
    assert difference(np.array([federated[key] for key in pool.keys]), ignored) > 0.02


def shared_by(platforms: Mapping[str, TrainingData], name: str, **changes: Any) -> dict[str, TrainingData]:
    return dict(platforms) | {name: replace(platforms[name], **changes)}


def store_of(outcome: FederationOutcome, name: str) -> PlatformModel:
    return next(agent for agent in outcome.agents if agent.name == name).store.load()


def test_only_shared_items_enter_the_vocabulary_and_the_sums(tmp_path: Path) -> None:
    plan = small_plan(rounds=5)
    platforms = random_platforms(3, SKEWED[3])
    shared = np.arange(len(platforms["platform-1"].items)) % 2 == 0
    platforms = shared_by(platforms, "platform-1", shared=shared)
    recorders = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    outcome = federate(recorders, plan, tmp_path)
    assert len(recorders[1].replies("join")[0].arrays["digests"]) == shared.sum()
    # The same as if the platform had no other items at all.
    columns = np.flatnonzero(shared)
    reduced = training_data(
        [platforms["platform-1"].items.keys[column] for column in columns],
        platforms["platform-1"].train.select_items(columns),
    )
    pool = DensePool(dict(platforms) | {"platform-1": reduced}, plan)
    pooled, _ = pool.train(first_parameters(recorders[0], pool.keys), plan.rounds)
    federated = factors_by_key(outcome, platforms)
    assert sorted(federated) == pool.keys
    assert difference(np.array([federated[key] for key in pool.keys]), pooled) <= 1e-4


def test_a_platform_that_shares_nothing_contributes_nothing(tmp_path: Path) -> None:
    plan = small_plan()
    platforms = random_platforms(3, SKEWED[3])
    reader = shared_by(platforms, "platform-1", shared=np.zeros(len(platforms["platform-1"].items), dtype=bool))
    watch = Watch()
    outcome = run_platforms(reader, plan, tmp_path / "with", observer=watch)
    assert watch.failures == []
    without = run_platforms(
        {name: data for name, data in platforms.items() if name != "platform-1"}, plan, tmp_path / "without"
    )
    assert outcome.state.item_parameters.tobytes() == without.state.item_parameters.tobytes()
    assert not outcome.state.vocabulary.ownership()[:, 1].any()
    model = store_of(outcome, "platform-1")
    assert (model.own_positions >= 0).any(), "it still knows which of its items the others have"
    listed = Recommender(model).recommend(model.user_ids[0], 5, "cross")
    assert len(listed) == 5
    assert all("platform-1" not in item.platforms for item in listed)


def test_if_nobody_shares_anything_each_ends_with_its_own_model(tmp_path: Path) -> None:
    platforms = random_platforms(3, (6, 4))
    for name, data in platforms.items():
        platforms = shared_by(platforms, name, shared=np.zeros(len(data.items), dtype=bool))
    watch = Watch()
    outcome = run_platforms(platforms, small_plan(), tmp_path, observer=watch)
    assert watch.failures == []
    model = store_of(outcome, "platform-0")
    assert model.verdict.name == "local"
    assert Recommender(model).recommend(model.user_ids[0], 5, "cross") == []


def test_cards_can_stay_at_home_while_the_items_are_shared(tmp_path: Path) -> None:
    plan = small_plan()
    platforms = random_platforms(3, SKEWED[3])
    silent = shared_by(platforms, "platform-0", cards_shared=False)
    outcome = run_platforms(silent, plan, tmp_path / "silent")
    open_cards = run_platforms(platforms, plan, tmp_path / "open")
    assert outcome.state.item_parameters.tobytes() == open_cards.state.item_parameters.tobytes()
    alone = set(platforms["platform-0"].items.keys)
    for name in ("platform-1", "platform-2"):
        alone -= set(platforms[name].items.keys)
    assert alone
    seen, told = store_of(outcome, "platform-1").vocabulary, store_of(open_cards, "platform-1").vocabulary
    assert not alone & set(seen.keys)
    assert alone <= set(told.keys)
    assert sum(key == "" for key in seen.keys) == len(alone)


def test_titles_and_genres_reach_the_others_through_cards(tmp_path: Path) -> None:
    platforms = random_platforms(3, SKEWED[3])
    model = store_of(run_platforms(platforms, small_plan(), tmp_path), "platform-2")
    described = dict(
        zip(model.vocabulary.keys, zip(model.vocabulary.titles, model.vocabulary.genres, strict=True), strict=True)
    )
    for data in platforms.values():
        for key in data.items.keys:
            assert described[key][0] == f"Title of {key}"
            assert described[key][1] in (("Drama",), ("Comedy", "War"))


def test_nothing_that_the_aggregator_is_sent_holds_a_key_or_a_title(tmp_path: Path) -> None:
    platforms = random_platforms(3, SKEWED[3])
    plan = small_plan()
    recorders = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    federate(recorders, plan, tmp_path)
    for recorder in recorders:
        for _, reply in recorder.seen:
            sent = repr(reply.config).encode() + b"".join(array.tobytes() for array in reply.arrays.values())
            for forbidden in (b"imdb:", b"Title of", b"Drama", b"person-"):
                assert forbidden not in sent
