from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.config.federation import FederationPlan
from common.contributions.masked_rounds import SHARE_STD, round_index, secure_rounds
from common.contributions.registry import kinds_of
from common.contributions.run_plan import RunPlan, read_plan
from tests.private_support import private_plan


def masked_lengths(plan: FederationPlan, n_items: int) -> list[int]:
    return [kind.masked_length(plan, n_items) for kind in kinds_of(plan)]


def test_lengths_are_counts_and_a_user_number_then_vectors_a_round() -> None:
    assert masked_lengths(private_plan(), n_items=7) == [8, 21]


def test_with_item_grams_each_item_has_a_triangle_more() -> None:
    assert masked_lengths(private_plan(release="item_gram"), n_items=7) == [8, 63]


def test_every_round_is_named_and_promises_the_mechanisms_noise() -> None:
    rounds = secure_rounds(private_plan(), platforms=3, n_items=7)
    assert [spec.label for spec in rounds] == ["counts", "statistics 1", "statistics 2"]
    assert {spec.noise_std for spec in rounds} == {2.0**16} == {SHARE_STD}


@settings(deadline=None, max_examples=60)
@given(
    st.integers(3, 40),
    st.integers(100, 1_000_000),
    st.sampled_from([0.5, 1.0, 3.0, 10.0]),
    st.sampled_from(["shared_gram", "item_gram"]),
)
def test_no_honest_sum_leaves_the_ring(platforms: int, users: int, epsilon: float, release: Any) -> None:
    plan = private_plan(platforms, user_bound=users, epsilon=epsilon, release=release)
    rounds, releases = secure_rounds(plan, platforms=platforms, n_items=50), RunPlan.of(plan).release_plan()
    noises: list[list[Any]] = [[releases.counts]]
    noises += [[n for n in (part.item_vectors, part.item_grams) if n is not None] for part in releases.rounds]
    for spec, released in zip(rounds, noises, strict=True):
        largest = max(users * noise.sensitivity / noise.grid_step for noise in released) + 6 * SHARE_STD
        assert largest <= spec.ring.max_abs_per_platform
        assert platforms * spec.ring.max_abs_per_platform < 2 ** (spec.ring.bits - 1)


def test_the_smallest_ring_that_fits_is_taken() -> None:
    bits = []
    for users in (100, 10_000, 1_000_000, 100_000_000):
        plan = private_plan(user_bound=users, epsilon=3.0, delta=1e-9)
        bits.append({spec.ring.bits for spec in secure_rounds(plan, platforms=3, n_items=10)})
    assert bits[0] == {32}
    assert bits[-1] == {48}
    assert all(min(a) <= min(b) for a, b in pairwise(bits))


@pytest.mark.parametrize(("platforms", "epsilon"), [(10, 10.0), (100, 10.0), (100, 1.0)])
def test_the_default_user_bound_fits_federations_of_many_platforms(platforms: int, epsilon: float) -> None:
    plan = read_plan({"platforms": platforms, "privacy": {"epsilon": epsilon}})
    assert plan.privacy.user_bound == 100_000
    rounds = secure_rounds(plan, platforms=platforms, n_items=1_000_000)
    assert max(spec.ring.bits for spec in rounds) <= 48


def test_a_default_federation_of_ten_needs_few_bits_over_float32() -> None:
    plan = FederationPlan(platforms=10)
    rounds = secure_rounds(plan, platforms=10, n_items=40_000)
    assert max(spec.ring.bytes_per_value for spec in rounds) == 5


def test_a_plan_whose_sums_fit_no_ring_is_told_a_bound_that_fits() -> None:
    def plan(users: int, noise: str = "secure_sum") -> FederationPlan:
        return private_plan(user_bound=users, epsilon=10.0, noise=noise)

    with pytest.raises(
        ValidationError, match=r"privacy\.user_bound: .* lower user_bound to at most ([\d,]+)"
    ) as caught:
        plan(2**40)
    [most] = re.findall(r"at most ([\d,]+)", str(caught.value))
    # δ = 1/(10·user_bound) moves with the bound, and less noise a user lets fewer users fit: a tenth surely does.
    plan(int(most.replace(",", "")) // 10)
    with pytest.raises(ValidationError, match="widest ring"):
        plan(int(most.replace(",", "")) * 10)
    plan(2**40, noise="per_platform")


def test_an_agreement_that_protects_nobody_is_refused_when_it_is_read() -> None:
    with pytest.raises(ValidationError, match="leave nobody whose noise protects the sum"):
        private_plan(3, colluders=2, dropouts=1)


def test_both_sides_compute_the_same_rounds_from_public_values_alone() -> None:
    one, two = (secure_rounds(private_plan(), platforms=3, n_items=7) for _ in range(2))
    assert one == two
    assert math.isfinite(one[0].ring.max_abs_per_platform)


def test_item_item_statistics_have_a_ring_of_their_own_after_counts() -> None:
    linear = {"linear": {"privacy": {"kept_items": 5}}}
    plan = FederationPlan.model_validate(private_plan().model_dump() | linear)
    labels = [spec.label for spec in secure_rounds(plan, platforms=3, n_items=7)]
    assert labels == ["counts", "cooccurrence", "statistics 1", "statistics 2"]
    counts, cooccurrence, statistics = kinds_of(plan)
    asked = [(counts, 0), (cooccurrence, 0), (statistics, 1), (statistics, 2)]
    assert [round_index(plan, kind, number) for kind, number in asked] == [0, 1, 2, 3]
    assert cooccurrence.masked_length(plan, 7) == 15 + 3


@pytest.mark.parametrize(("users", "bits"), [(100, 32), (10_000, 40), (100_000, 40)])
def test_the_ring_of_item_item_statistics_is_the_smallest_that_fits(users: int, bits: int) -> None:
    linear = {"linear": {"privacy": {"kept_items": 5, "share": 0.5}}}
    plan = FederationPlan.model_validate(private_plan(user_bound=users).model_dump() | linear)
    noise, ring = RunPlan.of(plan).item_item_noise(), secure_rounds(plan, platforms=3, n_items=7)[1].ring
    assert ring.bits == bits
    assert 3 * users * noise.sensitivity / noise.grid_step < 2 ** (bits - 2)
    if bits > 32:
        assert 3 * users * noise.sensitivity / noise.grid_step > 2 ** (32 - 2)
