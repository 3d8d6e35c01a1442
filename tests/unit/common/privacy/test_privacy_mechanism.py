"""Guarantees of the user-level mechanism on neighbouring data sets, and broken mechanisms that must be caught."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from common.config.privacy import PrivacyConfig
from common.contributions.factors import PlainMechanism, UserLevelMechanism
from common.errors import PrivacyError
from common.privacy import contribution
from common.privacy.contribution import PrivatizedContribution, Release
from common.privacy.plan import calibrate
from common.privacy.postprocess import from_grid, isometric_scale

ITEMS, D = 12, 3


class SeededNoise:
    """Reproducible words, for tests alone: equal seeds give equal noise."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def words(self, count: int) -> np.ndarray:
        return self._rng.integers(0, 2**64, size=count, dtype=np.uint64)


def a_plan(*, platforms: int = 4, rounds: int = 2, **fields):
    config = PrivacyConfig(
        user_bound=1_000,
        **{"max_count_contribution": 3, "clip_norm": 0.3, "weight_total": 5, "release": "item_gram", **fields},
    )
    return calibrate(config, n_users_bound=1_000, rounds=rounds, platforms=platforms)


PLAN = a_plan()


def rows_to_csr(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return indptr, np.array([item for row in rows for item in row], dtype=np.int32)


def release_all(mechanism: UserLevelMechanism, rows, factors, weights) -> dict[str, np.ndarray]:
    indptr, indices = rows_to_csr(rows)
    counts = mechanism.counts(indptr, indices, n_items=ITEMS)
    statistics = mechanism.statistics(1, indptr, indices, factors, weights)
    return {**counts.arrays, **statistics.arrays}


def spent_by_one_user(mechanism_class, rows, factors, weights, plan=PLAN) -> dict[str, float]:
    """L2 distance between releases with and without the last user under equal noise, over the declared sensitivity."""
    with_user = release_all(mechanism_class(plan, SeededNoise()), rows, factors, weights)
    without = release_all(mechanism_class(plan, SeededNoise()), rows[:-1], factors[:-1], weights)
    first = plan.rounds[0]
    noises = {
        "counts": plan.counts,
        "item_vectors": first.item_vectors,
        "user_gram": first.user_gram,
        "item_grams": first.item_grams,
    }
    return {
        name: math.sqrt(sum(int(x) ** 2 for x in (with_user[name] - without[name]).ravel()))
        * noise.grid_step
        / noise.sensitivity
        for name, noise in noises.items()
    }


histories = st.lists(st.lists(st.integers(0, ITEMS - 1), unique=True, max_size=ITEMS), min_size=1, max_size=5)
coordinates = st.one_of(st.floats(-1e6, 1e6, width=32), st.floats(-1, 1, width=32), st.just(0.0))


@st.composite
def neighbours(draw):
    rows = draw(histories)
    factors = draw(st.lists(st.lists(coordinates, min_size=D, max_size=D), min_size=len(rows), max_size=len(rows)))
    weights = draw(st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1)), min_size=ITEMS, max_size=ITEMS))
    return rows, np.array(factors, dtype=np.float32).reshape(len(rows), D), np.array(weights)


@given(neighbours())
@settings(max_examples=300, deadline=None)
def test_no_user_moves_any_release_by_more_than_its_sensitivity(data) -> None:
    assert max(spent_by_one_user(UserLevelMechanism, *data).values()) <= 1.0


def test_the_sensitivities_are_attained_so_none_is_wasted() -> None:
    rows = [[0], list(range(ITEMS))]
    spent = spent_by_one_user(UserLevelMechanism, rows, np.full((2, D), 9, dtype=np.float32), np.ones(ITEMS))
    assert all(0.99 < share <= 1.0 for share in spent.values())


class WithoutClipping(UserLevelMechanism):
    def _clip(self, factors):
        return factors


class HalvedSensitivity(UserLevelMechanism):
    def __init__(self, plan, noise=None) -> None:
        def halve(n):
            return dataclasses.replace(n, sensitivity=n.sensitivity / 2)

        rounds = tuple(
            dataclasses.replace(r, item_vectors=halve(r.item_vectors), user_gram=halve(r.user_gram))
            for r in plan.rounds
        )
        super().__init__(dataclasses.replace(plan, rounds=rounds, counts=halve(plan.counts)), noise)


class WithoutCountLimit(UserLevelMechanism):
    def _count_weights(self, lengths):
        return np.ones(len(lengths))


class WeightsNotNormalised(UserLevelMechanism):
    def _weighted_entries(self, indices, lengths, item_weights):
        entries = super()._weighted_entries(indices, lengths, item_weights)
        return dataclasses.replace(entries, weights=np.full(len(entries.weights), 5.0))


@pytest.mark.parametrize(
    ("broken", "releases"),
    [
        (WithoutClipping, {"item_vectors", "user_gram", "item_grams"}),
        (WithoutCountLimit, {"counts"}),
        (WeightsNotNormalised, {"item_vectors", "item_grams"}),
    ],
)
def test_a_mechanism_without_a_bound_exceeds_its_sensitivity(broken, releases) -> None:
    rows = [[0], list(range(ITEMS))]
    spent = spent_by_one_user(broken, rows, np.full((2, D), 9, dtype=np.float32), np.ones(ITEMS))
    assert {name for name, share in spent.items() if share > 1.0} == releases


def noise_in_plan_units(mechanism_class, seed: int) -> dict[str, np.ndarray]:
    """Noise of an empty platform's releases, divided by the σ of a share that the plan promises."""
    plan = a_plan(release="shared_gram")
    mechanism = mechanism_class(plan, SeededNoise(seed))
    empty = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32)
    counts = mechanism.counts(*empty, n_items=30_000)
    statistics = mechanism.statistics(1, *empty, np.zeros((0, 60), dtype=np.float32), np.ones(300))
    noises = {
        "counts": plan.counts,
        "item_vectors": plan.rounds[0].item_vectors,
        "user_gram": plan.rounds[0].user_gram,
    }
    return {
        name: from_grid(released.arrays[name], released.grid_steps[name]).ravel() / (n.sigma / math.sqrt(n.shares))
        for (name, n), released in zip(noises.items(), [counts, statistics, statistics], strict=True)
    }


def test_every_entry_carries_its_noise_share_even_if_nobody_has_it() -> None:
    for noise in noise_in_plan_units(UserLevelMechanism, 1).values():
        assert stats.kstest(noise, "norm").pvalue > 1e-4


def test_halved_noise_is_caught() -> None:
    for noise in noise_in_plan_units(HalvedSensitivity, 1).values():
        assert stats.kstest(noise, "norm").pvalue < 1e-9


def test_the_sum_over_platforms_less_the_colluders_carries_one_sigma() -> None:
    plan = a_plan(platforms=5, colluders=2)
    empty = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32)
    honest = [UserLevelMechanism(plan, SeededNoise(k)).counts(*empty, n_items=40_000) for k in range(3)]
    total = sum(from_grid(share.arrays["counts"], share.grid_steps["counts"]) for share in honest)
    assert stats.kstest(total / plan.counts.sigma, "norm").pvalue > 1e-4
    assert stats.kstest(total / plan.counts.sigma * 0.95, "norm").pvalue < 1e-4


def test_rounds_get_fresh_noise() -> None:
    plan = a_plan(release="shared_gram")
    mechanism = UserLevelMechanism(plan)
    empty = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32), np.zeros((0, 50), dtype=np.float32), np.ones(200)
    first, second = (mechanism.statistics(t, *empty).arrays["item_vectors"].ravel() for t in (1, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(first.size)


def test_the_production_mechanism_takes_its_noise_from_the_system() -> None:
    empty = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32)
    once, again = (UserLevelMechanism(PLAN).counts(*empty, n_items=9).arrays["counts"] for _ in range(2))
    assert not np.array_equal(once, again)


def test_released_sums_are_the_statistics_up_to_noise_and_grid() -> None:
    rng = np.random.default_rng(4)
    rows = [rng.permutation(ITEMS)[: rng.integers(0, ITEMS)].tolist() for _ in range(40)]
    factors = rng.normal(size=(40, D)).astype(np.float32)
    weights = rng.random(ITEMS) * (np.arange(ITEMS) != 2)
    plan = a_plan(epsilon=1.0)
    noiseless = release_all(UserLevelMechanism(plan, SeededNoise()), rows, factors, weights)
    noise_alone = release_all(UserLevelMechanism(plan, SeededNoise()), [[]] * 40, factors, weights)
    sums = {name: noiseless[name] - noise_alone[name] for name in noiseless}

    clipped = factors * np.minimum(1, 0.3 / np.linalg.norm(factors, axis=1))[:, None]
    vectors, grams, gram = np.zeros((ITEMS, D)), np.zeros((ITEMS, D, D)), np.zeros((D, D))
    counts = np.zeros(ITEMS)
    for u, row in enumerate(rows):
        norm = math.sqrt(sum(weights[i] ** 2 for i in row))
        gram += np.outer(clipped[u], clipped[u]) * (norm > 0)
        for i in row:
            counts[i] += min(1, math.sqrt(3 / len(row)))
            if norm > 0:
                w = math.sqrt(5) * weights[i] / norm
                vectors[i] += w * clipped[u]
                grams[i] += w * np.outer(clipped[u], clipped[u])
    upper = np.triu_indices(D)
    first = plan.rounds[0]
    for name, expected, noise in [
        ("item_vectors", vectors, first.item_vectors),
        ("user_gram", gram[upper] * isometric_scale(D), first.user_gram),
        ("item_grams", grams[:, upper[0], upper[1]] * isometric_scale(D), first.item_grams),
    ]:
        assert from_grid(sums[name], noise.grid_step) == pytest.approx(expected, abs=40 * noise.grid_step, rel=1e-6)
    # The noise-alone run has the same number of users, so only the item counts differ.
    assert from_grid(sums["counts"], plan.counts.grid_step) == pytest.approx(
        np.append(counts, 0), abs=40 * plan.counts.grid_step
    )


def test_the_number_of_users_is_released_with_noise_too() -> None:
    indptr, indices = rows_to_csr([[0], [], [1, 2]])
    one = UserLevelMechanism(PLAN, SeededNoise()).counts(indptr, indices, n_items=ITEMS).arrays["counts"]
    none = UserLevelMechanism(PLAN, SeededNoise()).counts(indptr[:1], indices[:0], n_items=ITEMS).arrays["counts"]
    users = from_grid(one - none, PLAN.counts.grid_step)[-1]
    assert 3 * (1 - PLAN.counts.grid_step) < users <= 3


def test_sums_too_large_for_exact_floats_are_added_as_integers() -> None:
    from common.contributions.user_sums import _exact_sums

    steps = np.array([2**52, 2**52, 1], dtype=np.int64)
    assert _exact_sums(np.zeros(3, dtype=np.int32), steps, 1).tolist() == [2**53 + 1]


def test_only_a_mechanism_makes_a_contribution() -> None:
    fields = {
        "kind": "counts",
        "server_round": 0,
        "private": True,
        "arrays": {"counts": np.zeros(1)},
        "grid_steps": {},
        "masked": frozenset(),
        "releases": (),
    }
    with pytest.raises(PrivacyError, match="mechanism"):
        PrivatizedContribution(**fields)
    real = PlainMechanism().release("counts", 0, {"counts": np.zeros(3)})
    for forge in (
        lambda: dataclasses.replace(real, private=True),
        lambda: PrivatizedContribution(**fields, _mint=None),
    ):
        with pytest.raises(PrivacyError, match="mechanism"):
            forge()
    for copier in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(PrivacyError, match="pickled"):
            copier(real)
    assert real._mint is not contribution._MINT


def test_a_contribution_cannot_be_changed_afterwards() -> None:
    original, view = np.zeros(3), np.zeros(6)[:3]
    released = PlainMechanism().release("counts", 0, {"counts": original, "view": view})
    with pytest.raises(ValueError, match="read-only"):
        original[0] = 1
    view.base[0] = 1
    assert released.arrays["view"][0] == 0
    with pytest.raises(ValueError, match="read-only"):
        released.arrays["counts"][0] = 1
    with pytest.raises(TypeError):
        released.arrays["counts"] = original
    with pytest.raises(dataclasses.FrozenInstanceError):
        released.private = True


def test_exact_contributions_say_that_they_are_not_private() -> None:
    released = PlainMechanism().release("statistics", 3, {"item_vectors": np.ones((2, 2))})
    assert not released.private
    assert [r.mechanism for r in released.releases] == ["none"]
    assert released.arrays["item_vectors"].tolist() == [[1, 1], [1, 1]]


def test_arrays_with_a_noise_share_alone_are_marked_for_masking() -> None:
    indptr, indices = rows_to_csr([[0]])
    shared = UserLevelMechanism(PLAN).statistics(1, indptr, indices, np.ones((1, D), np.float32), np.ones(ITEMS))
    assert shared.masked == {"item_vectors", "item_grams"}
    assert [r.kind for r in shared.releases] == ["item_vectors", "user_gram", "item_grams"]
    alone = UserLevelMechanism(a_plan(noise="per_platform")).counts(indptr, indices, n_items=ITEMS)
    assert alone.masked == frozenset()


@pytest.mark.parametrize("server_round", [0, 3])
def test_a_round_beyond_the_plan_is_refused(server_round: int) -> None:
    indptr, indices = rows_to_csr([[0]])
    with pytest.raises(PrivacyError, match="server_round"):
        UserLevelMechanism(PLAN).statistics(server_round, indptr, indices, np.ones((1, D), np.float32), np.ones(ITEMS))


@pytest.mark.parametrize(
    ("indptr", "indices", "match"),
    [
        ([0, 2], [1, 1], "twice"),
        ([0, 1], [ITEMS], "items must lie"),
        ([0, 1], [-1], "items must lie"),
        ([1, 1], [0], "indptr"),
        ([0, 2, 1], [0, 1], "indptr"),
        ([0, 1], [0, 1], "indptr"),
    ],
)
def test_rows_that_would_break_the_sensitivity_are_refused(indptr, indices, match) -> None:
    with pytest.raises(PrivacyError, match=match):
        UserLevelMechanism(PLAN).counts(np.array(indptr), np.array(indices, dtype=np.int32), n_items=ITEMS)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_not_finite_and_factors_of_another_form_are_refused(bad: float) -> None:
    indptr, indices = rows_to_csr([[0]])
    with pytest.raises(PrivacyError, match="item_weights"):
        UserLevelMechanism(PLAN).statistics(1, indptr, indices, np.ones((1, D), np.float32), np.full(ITEMS, bad))
    for shape in ((2, D), (D,)):
        with pytest.raises(PrivacyError, match="user_factors"):
            UserLevelMechanism(PLAN).statistics(1, indptr, indices, np.ones(shape, np.float32), np.ones(ITEMS))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_factor_that_broke_down_adds_zero_and_shows_nowhere(bad: float) -> None:
    """A refusal would tell, at any ε, that this user is there."""
    indptr, indices = rows_to_csr([[0, 1], [1, 2]])
    factors = np.full((2, D), 0.1, np.float32)
    factors[1, -1] = bad
    broken = UserLevelMechanism(PLAN, SeededNoise()).statistics(1, indptr, indices, factors, np.ones(ITEMS)).arrays
    alone = (
        UserLevelMechanism(PLAN, SeededNoise())
        .statistics(1, *rows_to_csr([[0, 1]]), factors[:1], np.ones(ITEMS))
        .arrays
    )
    assert all(np.array_equal(broken[name], alone[name]) for name in alone)


@pytest.mark.parametrize(
    "fields",
    [
        {"mechanism": "gaussian", "noise_multiplier": 0.0},
        {"mechanism": "gaussian", "noise_multiplier": math.inf},
        {"mechanism": "none", "noise_multiplier": 1.0},
        {"mechanism": "gaussian", "noise_multiplier": 1.0, "sampling_rate": 0.0},
        {"mechanism": "gaussian", "noise_multiplier": 1.0, "steps": 0},
    ],
)
def test_an_impossible_release_cannot_be_charged(fields) -> None:
    with pytest.raises(PrivacyError):
        Release(kind="counts", **fields)
