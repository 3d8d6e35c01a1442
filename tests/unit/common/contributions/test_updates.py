"""The deep models' mechanism on neighbouring data sets: no user moves a sum by more than the clip norm."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from common.contributions.tower_variables import SharedVariable
from common.contributions.updates import UpdateLayout, UpdateMechanism, UpdatePlan, UserGradients, decoded
from common.errors import PrivacyError
from common.privacy.sampler import SystemNoise, bernoulli

ITEMS, D, DENSE, TOUCHED = 7, 3, 5, 4
LAYOUT = UpdateLayout(
    (
        SharedVariable(name="kernel", shape=(2, 2), initializer="zeros"),
        SharedVariable(name="item_rows", shape=(D,), initializer="normal", rows=True),
        SharedVariable(name="bias", shape=(1,), initializer="zeros"),
    ),
    ITEMS,
)


class Unbroken:
    """Words of one value: noise comes out the same at every call, whatever the data."""

    def words(self, count: int) -> np.ndarray:
        return np.random.default_rng(1).integers(0, 2**64, size=count, dtype=np.uint64)


def a_plan(**changes) -> UpdatePlan:
    fields = {"clip_norm": 0.5, "noise_multiplier": 1.3, "sampling_rate": 1.0, "rounds": 2, "shares": 2, "masked": True}
    return UpdatePlan.of(epsilon=3.0, delta=1e-3, **(fields | changes))


def gradients_of(dense, positions, rows) -> UserGradients:
    users = len(dense)
    return UserGradients(
        np.asarray(dense, dtype=np.float32).reshape(users, DENSE),
        np.asarray(positions, dtype=np.int32).reshape(users, -1),
        np.asarray(rows, dtype=np.float32).reshape(users, -1, D),
    )


def of_users(part: UserGradients, chosen) -> UserGradients:
    return UserGradients(part.dense[chosen], part.positions[chosen], part.rows[chosen])


def sums(part: UserGradients, plan: UpdatePlan | None = None, mechanism=UpdateMechanism) -> np.ndarray:
    """The integer sum of all users, without its noise, in chunks of two."""
    made = mechanism(plan or a_plan(), Unbroken())
    chunks = [of_users(part, slice(start, start + 2)) for start in range(0, len(part.dense), 2)]
    noisy = made.update(1, n_users=len(part.dense), layout=LAYOUT, gradients=lambda drawn: chunks)
    return noisy.arrays["update"] - made.noise_alone(1, LAYOUT).arrays["update"]


values = st.one_of(
    st.just(0.0), st.floats(-1, 1, width=32), st.floats(-(2.0**100), 2.0**100, width=32), st.just(math.nan)
)


@st.composite
def users_gradients(draw) -> UserGradients:
    count = draw(st.integers(1, 5))
    dense = draw(st.lists(st.lists(values, min_size=DENSE, max_size=DENSE), min_size=count, max_size=count))
    positions = np.full((count, TOUCHED), -1)
    rows = np.zeros((count, TOUCHED, D))
    for user in range(count):
        own = draw(st.lists(st.integers(0, ITEMS - 1), unique=True, max_size=TOUCHED))
        positions[user, : len(own)] = own
        for place in range(len(own)):
            rows[user, place] = draw(st.lists(values, min_size=D, max_size=D))
    return gradients_of(dense, positions, rows)


def moved(part: UserGradients, plan: UpdatePlan, mechanism=UpdateMechanism) -> float:
    """L2 distance between the sums with and without the last user, over the declared sensitivity; in whole numbers."""
    difference = sums(part, plan, mechanism) - sums(of_users(part, slice(0, -1)), plan, mechanism)
    return math.sqrt(sum(int(x) ** 2 for x in difference)) * plan.noise.grid_step / plan.noise.sensitivity


@given(users_gradients(), st.sampled_from([1e-3, 0.5, 40.0]))
@settings(max_examples=200)
def test_a_user_more_or_less_moves_the_sum_by_at_most_the_clip_norm(part: UserGradients, clip_norm: float) -> None:
    assert moved(part, a_plan(clip_norm=clip_norm)) <= 1.0


def test_the_bound_is_attained_over_rows_and_dense_variables_together() -> None:
    part = gradients_of(np.full((1, DENSE), 9), [[0, 6, -1, -1]], [[[9] * D, [9] * D, [0] * D, [0] * D]])
    assert 0.999 < moved(part, a_plan()) <= 1.0


class ClipsVariablesApart(UpdateMechanism):
    """The usual fault: each variable has the whole norm to itself."""

    def _quantised(self, part):
        nothing = np.zeros_like(part.rows)
        dense, _ = super()._quantised(dataclasses.replace(part, rows=nothing))
        _, rows = super()._quantised(dataclasses.replace(part, dense=np.zeros_like(part.dense)))
        return dense, rows


class NeverClips(UpdateMechanism):
    def _quantised(self, part):
        step = self.plan.noise.grid_step
        return (part.dense / step).astype(np.int64), (part.rows / step).astype(np.int64)


@pytest.mark.parametrize("broken", [ClipsVariablesApart, NeverClips])
def test_a_mechanism_without_the_bound_is_caught(broken) -> None:
    part = gradients_of(np.full((1, DENSE), 9), [[0, 6, -1, -1]], [[[9] * D, [9] * D, [0] * D, [0] * D]])
    assert moved(part, a_plan(), broken) > 1.2


def test_the_sum_is_that_of_the_clipped_gradients_to_the_grid() -> None:
    rng = np.random.default_rng(0)
    part = gradients_of(rng.normal(size=(6, DENSE)) * 0.2, [[0, 3, -1]] * 6, rng.normal(size=(6, 3, D)) * 0.1)
    part.rows[:, 2] = 0
    plan = a_plan()
    kernel, bias, rows = np.zeros(4), np.zeros(1), np.zeros((ITEMS, D))
    for user in range(6):
        whole = np.concatenate([part.dense[user], part.rows[user].ravel()]).astype(float)
        scale = min(1, 0.5 / np.linalg.norm(whole))
        kernel += scale * part.dense[user, :4]
        bias += scale * part.dense[user, 4:]
        for place in (0, 1):
            rows[part.positions[user, place]] += scale * part.rows[user, place]
    found = decoded(sums(part, plan), plan, LAYOUT)
    close = {"abs": 7 * plan.noise.grid_step, "rel": 0}
    assert found["kernel"] == pytest.approx(kernel.reshape(2, 2), **close)
    assert found["bias"] == pytest.approx(bias, **close)
    assert found["item_rows"] == pytest.approx(rows, **close)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_broke_down_adds_zero_and_shows_nowhere(bad: float) -> None:
    healthy = gradients_of([[0.1] * DENSE], [[1]], [[[0.1] * D]])
    in_dense = gradients_of([[0.1] * DENSE, [bad, *[0.1] * (DENSE - 1)]], [[1], [2]], [[[0.1] * D]] * 2)
    in_rows = gradients_of([[0.1] * DENSE] * 2, [[1], [2]], [[[0.1] * D], [[0.1, bad, 0.1]]])
    for broken in (in_dense, in_rows):
        assert np.array_equal(sums(broken), sums(healthy))


def test_a_user_without_any_gradient_adds_zero_under_any_clip_norm() -> None:
    part = gradients_of(np.zeros((1, DENSE)), [[-1]], [[[0] * D]])
    for clip_norm in (1e-9, 0.5, 1e6):
        assert not sums(part, a_plan(clip_norm=clip_norm)).any()


@pytest.mark.parametrize(
    ("positions", "rows", "match"),
    [
        ([[2, 2]], [[[1] * D] * 2], "an item twice"),
        ([[ITEMS, -1]], [[[1] * D, [0] * D]], "outside the vocabulary"),
        ([[-2, -1]], [[[0] * D] * 2], "outside the vocabulary"),
        ([[1, -1]], [[[1] * D] * 2], "padding must be zero"),
        ([[1, -1]], [[[1] * D, [math.nan] * D]], "padding must be zero"),
        ([[1, 2, 3]], [[[1] * D] * 2], "row gradients: expected"),
    ],
)
def test_gradients_that_would_break_the_sensitivity_are_refused(positions, rows, match) -> None:
    with pytest.raises(PrivacyError, match=match):
        sums(gradients_of(np.zeros((1, DENSE)), positions, rows))


def test_gradients_of_others_than_were_drawn_are_refused() -> None:
    part = gradients_of(np.zeros((3, DENSE)), [[-1]] * 3, np.zeros((3, 1, D)))
    with pytest.raises(PrivacyError, match="gradients of 3 users for 2"):
        UpdateMechanism(a_plan()).update(1, n_users=2, layout=LAYOUT, gradients=lambda drawn: [part])
    short = UserGradients(np.zeros((2, DENSE - 1), np.float32), part.positions[:2], part.rows[:2])
    with pytest.raises(PrivacyError, match="dense gradients"):
        UpdateMechanism(a_plan()).update(1, n_users=2, layout=LAYOUT, gradients=lambda drawn: [short])


def test_users_are_drawn_one_by_one_and_others_are_never_looked_at() -> None:
    seen: list[np.ndarray] = []

    def gradients(drawn):
        seen.append(drawn)
        yield gradients_of(np.zeros((len(drawn), DENSE)), [[-1]] * len(drawn), np.zeros((len(drawn), 1, D)))

    mechanism = UpdateMechanism(a_plan(sampling_rate=0.2))
    for _ in range(40):
        mechanism.update(1, n_users=250, layout=LAYOUT, gradients=gradients)
    times = np.bincount(np.concatenate(seen), minlength=250)
    assert stats.binomtest(int(times.sum()), 40 * 250, 0.2).pvalue > 1e-6
    # Independent coins: both how often each user is drawn and how many are drawn vary as binomials do.
    assert stats.chisquare(times).statistic == pytest.approx(0.8 * 250, rel=0.5)
    assert np.var([len(drawn) for drawn in seen]) == pytest.approx(250 * 0.2 * 0.8, rel=0.8)


def test_a_coin_is_exact_to_its_last_bit() -> None:
    class Given:
        def words(self, count: int) -> np.ndarray:
            return np.array([0, 2**62 - 1, 2**62, 2**64 - 1], dtype=np.uint64)[:count]

    assert bernoulli(4, 0.25, Given()).tolist() == [True, True, False, False]
    assert bernoulli(4, 1.0, Given()).all()
    assert not bernoulli(4, 0.0, Given()).any()
    assert bernoulli(4, 2.0**-64, Given()).tolist() == [True, False, False, False]
    assert bernoulli(4, math.nextafter(1, 0), Given()).tolist() == [True, True, True, False]
    heads = int(bernoulli(200_000, 0.1, SystemNoise()).sum())
    assert stats.binomtest(heads, 200_000, 0.1).pvalue > 1e-9


def test_the_noise_of_all_shares_is_one_sigma_on_every_entry() -> None:
    plan = a_plan(shares=3)
    wide = UpdateLayout((SharedVariable(name="w", shape=(40_000,), initializer="zeros"),), 0)
    total = sum(UpdateMechanism(plan).noise_alone(1, wide).arrays["update"] for _ in range(3))
    noise = decoded(total, plan, wide)["w"] / (1.3 * 0.5)
    assert stats.kstest(noise, "norm").pvalue > 1e-6
    assert stats.kstest(noise / 0.9, "norm").pvalue < 1e-6


@pytest.mark.parametrize("masked", [True, False])
def test_a_contribution_says_what_it_costs_and_how_it_may_leave(masked: bool) -> None:
    plan = a_plan(masked=masked, sampling_rate=0.3)
    made = UpdateMechanism(plan).noise_alone(4, LAYOUT)
    assert (made.kind, made.server_round, made.private) == ("update", 4, True)
    assert made.masked == ({"update"} if masked else frozenset())
    (release,) = made.releases
    assert (release.mechanism, release.noise_multiplier, release.sampling_rate) == ("subsampled-gaussian", 1.3, 0.3)
    assert plan.releases() == (release, release)


def test_the_layout_puts_rows_first_and_finds_every_variable_again() -> None:
    assert (LAYOUT.row, LAYOUT.dense_size, LAYOUT.size) == (D, DENSE, ITEMS * D + DENSE)
    parts = LAYOUT.split(np.arange(LAYOUT.size))
    assert parts["item_rows"].tolist() == np.arange(ITEMS * D).reshape(ITEMS, D).tolist()
    assert parts["kernel"].tolist() == [[21, 22], [23, 24]]
    assert parts["bias"].tolist() == [25]
    rows = SharedVariable(name="other_rows", shape=(2,), initializer="zeros", rows=True)
    with pytest.raises(PrivacyError, match="at most one variable"):
        UpdateLayout((*LAYOUT.variables, rows), ITEMS)
