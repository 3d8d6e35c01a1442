from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.contributions.factors import PlainContributor, PrivateContributor, make_contributor
from client.data.dataset import UserItemMatrix
from client.data.training import TrainingData
from client.training.engine import LocalEngine
from client.training.factory import make_trainer
from common.config.model import FactorizationConfig
from common.contributions.factor_kinds import StatisticsKind
from common.contributions.factors import UserLevelMechanism
from common.contributions.protocol import plan_sizes, request_contract
from common.contributions.registry import kinds_of
from common.contributions.run_plan import RunPlan
from common.errors import ContractError, PrivacyError
from common.privacy.plan import GaussianNoise
from common.wire.exchange import AgentRequest
from tests.private_support import by_hand, private_plan, private_platforms
from tests.support import matrix, random_matrix, small_plan, training_data

KEYS = [f"imdb:{index}" for index in range(8)]
PLAN = private_plan(noise="per_platform")


class Noiseless(UserLevelMechanism):
    def _add_noise(self, sums: NDArray[np.int64], noise: GaussianNoise) -> NDArray[np.int64]:
        return sums


def data_of(rows: list[list[int]]) -> TrainingData:
    return training_data(KEYS, matrix(rows, len(KEYS)))


def contributor_of(rows: list[list[int]], plan: Any = PLAN) -> PrivateContributor:
    return PrivateContributor(plan, LocalEngine(data_of(rows)), Noiseless(RunPlan.of(plan).release_plan()))


class Everything:
    """A vocabulary of the own items alone."""

    shared_positions = np.arange(len(KEYS), dtype=np.int32)
    owners = np.ones((len(KEYS), 1), dtype=bool)

    def on_vocabulary(self, shared: UserItemMatrix) -> UserItemMatrix:
        return shared


def request(server_round: int = 1, seed: int = 0, **changes: Any) -> AgentRequest:
    rng = np.random.default_rng(seed)
    arrays = {
        "item_parameters": rng.normal(size=(len(KEYS), 3)).astype(np.float32),
        "item_counts": rng.uniform(1, 30, len(KEYS)),
    }
    kind = "statistics" if server_round else "counts"
    return AgentRequest(kind=kind, run_id="run", server_round=server_round, arrays=arrays | changes)


MEMBERSHIP: Any = Everything()
histories = st.lists(st.lists(st.integers(0, len(KEYS) - 1), max_size=8, unique=True), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(histories, st.lists(st.integers(0, len(KEYS) - 1), max_size=8, unique=True), st.integers(0, 5))
def test_one_user_more_changes_a_round_within_its_sensitivity(
    rows: list[list[int]], added: list[int], seed: int
) -> None:
    """Solver, weights, clipping, quantisation and all: the whole way from a history to what is released."""
    releases = RunPlan.of(PLAN).release_plan()
    without, within = contributor_of(rows), contributor_of([*rows, added])
    counts = [part.counts(request(0), MEMBERSHIP).arrays["counts"] for part in (without, within)]
    assert np.linalg.norm((counts[1] - counts[0]) * releases.counts.grid_step) <= releases.counts.sensitivity
    sums = [part.statistics(request(1, seed), MEMBERSHIP).arrays for part in (without, within)]
    for name, noise in (
        ("item_vectors", releases.rounds[0].item_vectors),
        ("user_gram", releases.rounds[0].user_gram),
    ):
        assert np.linalg.norm((sums[1][name] - sums[0][name]) * noise.grid_step) <= noise.sensitivity


@settings(deadline=None, max_examples=40)
@given(histories, histories, st.integers(0, 5))
def test_what_users_contribute_adds_up_to_the_last_grid_step(
    left: list[list[int]], right: list[list[int]], seed: int
) -> None:
    """So a user's part depends on no other user, in any order."""
    for server_round in (0, 1):
        name = "item_vectors" if server_round else "counts"
        parts = []
        for rows in (left, right, [*right, *left]):
            contributor = contributor_of(rows)
            make = contributor.statistics if server_round else contributor.counts
            parts.append(make(request(server_round, seed), MEMBERSHIP).arrays[name])
        assert np.array_equal(parts[0] + parts[1], parts[2])


@pytest.mark.parametrize("backend", ["tensorflow", "auto"])
def test_users_are_solved_one_at_a_time_on_every_backend(backend: str) -> None:
    plan = PLAN.model_copy(update={"model": PLAN.model.model_copy(update={"backend": backend, "device": "auto"})})
    assert LocalEngine(data_of([[0, 1], [2]])).solver(plan.training) == "numba"


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([3, 17, 44]))
def test_a_users_factor_is_the_same_to_the_bit_whoever_else_is_there(seed: int, others: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    everyone = random_matrix(rng, others + 1, 120)
    trainer = make_trainer(FactorizationConfig(dimension=d, backend="numba"))
    items = rng.normal(size=(120, d)).astype(np.float32)
    chosen = np.sort(rng.permutation(others + 1)[: rng.integers(1, others + 2)])
    alone = trainer.solve_users(everyone.select_users(chosen), items)
    assert alone.tobytes() == trainer.solve_users(everyone, items)[chosen].tobytes()


def test_a_single_user_can_reach_the_sensitivity() -> None:
    """The bound above is no vacuous one."""
    releases = RunPlan.of(PLAN).release_plan()
    none, one = contributor_of([[]]), contributor_of([[], list(range(8))])
    sums = [part.statistics(request(), MEMBERSHIP).arrays for part in (none, one)]
    change = np.linalg.norm(sums[1]["item_vectors"] - sums[0]["item_vectors"])
    noise = releases.rounds[0].item_vectors
    assert change * noise.grid_step > 0.99 * noise.sensitivity


@pytest.mark.parametrize("seed", range(40))
def test_no_parameters_make_an_answer_depend_on_one_user(seed: int) -> None:
    """Cholesky factorisation of a user's system breaks down at wild parameters; that refusal would tell of the user.

    Before such parameters were refused for all, three of sixty of these draws answered otherwise for a neighbour.
    """
    rng = np.random.default_rng(seed)
    wild = rng.normal(size=(len(KEYS), 3)) * 0.1
    wild[0] *= 10.0 ** rng.uniform(2, 12)
    outcomes = []
    for rows in ([[1], [2, 3]], [[1], [2, 3], [0]]):
        try:
            contributor_of(rows).statistics(request(item_parameters=wild.astype(np.float32)), MEMBERSHIP)
            outcomes.append("ok")
        except (ContractError, PrivacyError) as error:
            outcomes.append(error.code)
    assert outcomes[0] == outcomes[1]


def test_parameters_no_aggregator_makes_are_outside_the_contract() -> None:
    plan = private_plan()
    # Σ‖v‖² ≤ 1e9·λ with λ = 0.3, over a vocabulary of 8 items in 3 dimensions.
    edge = np.sqrt(1e9 * 0.3 / 24)
    sizes = plan_sizes(plan, catalogue=8, vocabulary=8)
    spec = request_contract(plan)["masked_statistics"]
    for factor, refused in ((0.99, False), (1.01, True), (-1.01, True)):
        parameters = np.full((8, 3), edge * factor, dtype=np.float32)
        arrays = {"item_parameters": parameters, "item_counts": np.ones(8)}
        if refused:
            with pytest.raises(ContractError, match=r"item_parameters.*norm above"):
                spec.check(arrays, sizes)
        else:
            spec.check(arrays, sizes)


@pytest.mark.parametrize("weight", [2.7e-162, 3.8e-162, 1e-160, 1e-155, 1e-120, 1e-99])
def test_no_counts_make_a_user_weigh_more_than_the_sensitivity(weight: float) -> None:
    """The square of 2.7e-162 is 7.3e-324, and the nearest float is two thirds of that: the weights' norm would grow."""
    plan = private_plan(noise="per_platform", popularity_exponent=0.58)
    noise = RunPlan.of(plan).release_plan().rounds[0].item_vectors
    counts = np.full(len(KEYS), weight ** (-1 / 0.58))
    try:
        parts = [
            contributor_of(rows, plan).statistics(request(item_counts=counts), MEMBERSHIP).arrays["item_vectors"]
            for rows in ([[]], [[], [3]])
        ]
    except PrivacyError:
        assert weight < 1e-100
        return
    assert np.linalg.norm(parts[1] - parts[0]) * noise.grid_step <= noise.sensitivity


def test_items_that_are_not_kept_have_no_say() -> None:
    """An aggregator that gives them factors all the same changes nothing."""
    plan = private_plan(noise="per_platform", kept_items=4)
    counts = np.array([9.0, 8, 7, 6, 1, 1, 1, 1])
    parameters = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    other = parameters.copy()
    other[4:] += 5
    parts = [
        contributor_of([[0, 1, 5], [2, 3, 6, 7]], plan).statistics(
            request(item_parameters=values, item_counts=counts), MEMBERSHIP
        )
        for values in (parameters, other)
    ]
    for name in ("item_vectors", "user_gram"):
        assert np.array_equal(parts[0].arrays[name], parts[1].arrays[name])


@pytest.mark.parametrize("users", [1, 49, 50, 51, 100, 101])
def test_making_a_contributor_does_not_depend_on_the_number_of_users(users: int) -> None:
    plan = private_plan(minimum_users=50, user_bound=100)
    contributor = make_contributor(plan, LocalEngine(data_of([[0, 1]] * users)))
    assert contributor.counts(request(0), MEMBERSHIP).arrays["counts"].shape == (len(KEYS) + 1,)


def test_a_delta_above_one_over_the_public_bound_is_refused() -> None:
    plan = private_plan()
    loose = replace(RunPlan(plan).release_plan(), delta=0.011)
    with pytest.raises(PrivacyError, match=r"privacy\.delta: is above 1/user_bound"):
        PrivateContributor(plan, LocalEngine(data_of([[0]] * 10)), UserLevelMechanism(loose))
    assert PrivateContributor(plan, LocalEngine(data_of([[0]] * 10)), UserLevelMechanism(replace(loose, delta=0.01)))


def test_a_platform_that_shares_nothing_is_never_too_small() -> None:
    plan = private_plan(minimum_users=50)
    data = replace_shared(data_of([[0, 1]] * 3), np.zeros(len(KEYS), dtype=bool))
    contributor = PrivateContributor(plan, LocalEngine(data), Noiseless(RunPlan.of(plan).release_plan()))
    assert contributor.counts(request(0), reader()).arrays["counts"].tolist() == [0] * 9
    released = contributor.statistics(request(1), reader())
    assert not any(array.any() for array in released.arrays.values())
    assert released.releases == RunPlan.of(plan).release_plan().rounds[0].releases()


class Reader(Everything):
    shared_positions = np.zeros(0, dtype=np.int32)

    def on_vocabulary(self, shared: UserItemMatrix) -> UserItemMatrix:
        return replace(shared, n_items=len(KEYS))


def reader() -> Any:
    return Reader()


def replace_shared(data: TrainingData, shared: NDArray[np.bool_]) -> TrainingData:
    return replace(data, shared=shared)


@pytest.mark.parametrize("server_round", [-1, 0, 3, 99])
def test_rounds_beyond_the_plan_are_refused_before_any_computation(server_round: int) -> None:
    with pytest.raises(ContractError, match="the plan has no such round"):
        StatisticsKind().releases(PLAN, server_round)


def test_the_releases_of_all_requests_are_those_of_the_run() -> None:
    for plan in (PLAN, private_plan(), private_plan(release="item_gram")):
        contributor = contributor_of([[0]], plan)
        counts, statistics = kinds_of(plan)
        charged = [counts.releases(plan, 0), *(statistics.releases(plan, t) for t in (1, 2))]
        assert tuple(r for one in charged for r in one) == counts.run_releases(plan) + statistics.run_releases(plan)
        made = [contributor.counts(request(0), MEMBERSHIP)]
        made += [contributor.statistics(request(t), MEMBERSHIP) for t in (1, 2)]
        assert [part.releases for part in made] == charged


def test_only_training_interactions_and_shared_items_count() -> None:
    shared = np.array([True] * 4 + [False] * 4)
    data = replace_shared(data_of([[0, 5, 6], [7], [1, 2]]), shared)
    contributor = PrivateContributor(PLAN, LocalEngine(data), Noiseless(RunPlan.of(PLAN).release_plan()))

    class Half(Everything):
        shared_positions = np.arange(4, dtype=np.int32)

    half: Any = Half()
    counts = contributor.counts(request(0), half).arrays["counts"] * RunPlan.of(PLAN).release_plan().counts.grid_step
    assert counts == pytest.approx([1, 1, 1, 0, 3], abs=1e-3)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32 - 1))
def test_no_weight_of_an_interaction_makes_a_round_fail(seed: int) -> None:
    """A refusal that one user's history can cause tells the aggregator, at any ε, that this user is there."""
    rng = np.random.default_rng(seed)
    data = data_of([[0, 1], list(range(len(KEYS)))])
    weights = 10.0 ** np.where(rng.random(10) < 0.5, rng.uniform(-30, -20, 10), rng.uniform(30, 38.4, 10))
    weights *= rng.choice([1.0, 1.0, -1.0, 0.0, np.nan], 10)
    heavy = replace(data.train, values=weights.astype(np.float32))
    engine = LocalEngine(replace(data, train=heavy))
    contributor = PrivateContributor(PLAN, engine, Noiseless(RunPlan.of(PLAN).release_plan()))
    trained = engine.users.bounded.values
    assert trained.min() >= np.float32(1e-3)
    assert trained.max() <= np.float32(1e3)
    # The largest parameters that are admitted, nearly on one line.
    items = rng.normal(size=(len(KEYS), 3))
    items[:, 1] = items[:, 0] * (1 + rng.choice([0.0, 1e-7, 1e-4]))
    items *= np.sqrt(0.99e9 * PLAN.training.regularization) / np.linalg.norm(items)
    assert contributor.statistics(request(item_parameters=items.astype(np.float32)), MEMBERSHIP).arrays


def test_a_user_without_a_kept_item_contributes_to_no_statistic() -> None:
    plan = private_plan(noise="per_platform", kept_items=2)
    counts = np.array([9.0, 8.0, 1, 1, 1, 1, 1, 1])
    released = contributor_of([[5, 6], [7]], plan).statistics(request(item_counts=counts), MEMBERSHIP)
    assert not any(array.any() for array in released.arrays.values())


@pytest.mark.parametrize("model", [{}, {"solver": "cg", "cg_steps": 1}, {"feedback": "explicit"}], ids=str)
def test_exact_sums_depend_on_data_and_request_alone(model: dict[str, Any]) -> None:
    def asked(seed: int, value_mean: float) -> AgentRequest:
        row = 4 if "feedback" in model else 3
        rng = np.random.default_rng(seed)
        arrays = {"item_parameters": rng.normal(size=(len(KEYS), row)).astype(np.float32), "item_counts": np.ones(8)}
        return replace(request(seed), config={"value_mean": value_mean}, arrays=arrays)

    plan = small_plan(model={"dimension": 3} | model, evaluate_rounds=False)
    rows = [[0, 1, 2, 5], [2, 3], [], [7, 1]]
    used = PlainContributor(plan, LocalEngine(data_of(rows)))
    used.statistics(asked(1, 3.0), MEMBERSHIP)
    for seed, mean in ((2, 3.0), (3, 2.5)):
        mine = used.statistics(asked(seed, mean), MEMBERSHIP).arrays
        theirs = PlainContributor(plan, LocalEngine(data_of(rows))).statistics(asked(seed, mean), MEMBERSHIP).arrays
        assert {name: array.tobytes() for name, array in mine.items()} == {
            name: array.tobytes() for name, array in theirs.items()
        }


def test_the_mode_of_privacy_decides_who_contributes() -> None:
    assert type(make_contributor(small_plan(), LocalEngine(data_of([[0]])))) is PlainContributor
    assert type(make_contributor(private_plan(), LocalEngine(data_of([[0]])))) is PrivateContributor
    for plan, mechanism in ((small_plan(), "none"), (private_plan(), "gaussian")):
        released = [release for kind in kinds_of(plan) for release in kind.run_releases(plan)]
        assert {release.mechanism for release in released} == {mechanism}


def test_noise_comes_from_the_operating_system_and_is_new_every_time() -> None:
    contributor = make_contributor(PLAN, LocalEngine(data_of([[0, 1], [2]])))
    one, two = (contributor.statistics(request(), MEMBERSHIP).arrays["item_vectors"] for _ in range(2))
    assert np.count_nonzero(one == two) < 3


def test_a_platform_answers_from_its_own_items_positions(tmp_path: Path) -> None:
    """Rows of the aggregator's parameters are looked up by position, not taken in the own order."""
    asked = by_hand(private_platforms(), PLAN, tmp_path)
    agent = asked.agents["platform-1"]
    assert agent._told is not None
    positions = agent._told[1].shared_positions
    assert not np.array_equal(positions, np.arange(len(positions)))
    digests = asked.vocabulary.digests[positions]
    assert np.array_equal(digests, agent._secret.digests(agent.data.items.keys))
