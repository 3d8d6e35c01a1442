from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import SecureSumError
from common.privacy.rounds import SHARE_STD, masked_lengths, secure_rounds
from tests.private_support import private_plan


def test_lengths_are_counts_and_a_user_number_then_vectors_a_round() -> None:
    assert masked_lengths(private_plan().release_plan(), n_items=7, row=3) == (8, 21, 21)


def test_with_item_grams_each_item_has_a_triangle_more() -> None:
    assert masked_lengths(private_plan(release="item_gram").release_plan(), n_items=7, row=3) == (8, 63, 63)


def test_every_round_is_named_and_promises_the_mechanisms_noise() -> None:
    rounds = secure_rounds(private_plan().release_plan(), platforms=3, n_items=7, row=3)
    assert [spec.label for spec in rounds] == ["counts", "statistics 1", "statistics 2"]
    assert {spec.noise_std for spec in rounds} == {2.0**16} == {SHARE_STD}


@settings(deadline=None, max_examples=60)
@given(
    # The widest ring holds a few hundred thousand users at ε = 10.
    st.integers(3, 40),
    st.integers(100, 5_000),
    st.sampled_from([0.5, 1.0, 3.0, 10.0]),
    st.sampled_from(["shared_gram", "item_gram"]),
)
def test_no_honest_sum_leaves_the_ring(platforms: int, users: int, epsilon: float, release: Any) -> None:
    plan = private_plan(platforms, user_bound=users, epsilon=epsilon, release=release).release_plan()
    rounds = secure_rounds(plan, platforms=platforms, n_items=50, row=3)
    noises: list[list[Any]] = [[plan.counts]]
    noises += [[n for n in (part.item_vectors, part.item_grams) if n is not None] for part in plan.rounds]
    for spec, released in zip(rounds, noises, strict=True):
        largest = max(users * noise.sensitivity / noise.grid_step for noise in released) + 6 * SHARE_STD
        assert largest <= spec.ring.max_abs_per_platform
        assert platforms * spec.ring.max_abs_per_platform < 2 ** (spec.ring.bits - 1)


def test_the_smallest_ring_that_fits_is_taken() -> None:
    bits = []
    for users in (100, 10_000, 1_000_000):
        plan = private_plan(user_bound=users, epsilon=3.0, delta=1e-7).release_plan()
        bits.append({spec.ring.bits for spec in secure_rounds(plan, platforms=3, n_items=10, row=3)})
    assert bits[0] == {32}
    assert bits[-1] == {40}
    assert all(min(a) <= min(b) for a, b in pairwise(bits))


def test_bounds_that_fit_no_ring_are_refused_with_the_setting_to_change() -> None:
    plan = private_plan(user_bound=2**40, epsilon=10.0).release_plan()
    with pytest.raises(SecureSumError, match=r"privacy\.user_bound: .* lower user_bound"):
        secure_rounds(plan, platforms=3, n_items=10, row=3)


def test_both_sides_compute_the_same_rounds_from_public_values_alone() -> None:
    one, two = (secure_rounds(private_plan().release_plan(), platforms=3, n_items=7, row=3) for _ in range(2))
    assert one == two
    assert math.isfinite(one[0].ring.max_abs_per_platform)
