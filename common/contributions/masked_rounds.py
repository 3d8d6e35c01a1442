"""The rounds of a run's secure sum, as every party computes them from the plan and the vocabulary's size alone."""

from __future__ import annotations

import math

from common.contributions.updates import UpdatePlan
from common.errors import SecureSumError
from common.linalg import packed_size
from common.privacy.plan import LOG2_SHARE_STEPS, GaussianNoise, ReleasePlan
from common.privacy.secure_sum import RingBits, RingConfig, RoundSpec, noise_tail

SHARE_STD = 2.0**LOG2_SHARE_STEPS
"""Standard deviation, in grid steps, of the noise share that each platform adds."""
_RINGS: tuple[RingBits, ...] = (32, 40, 48, 56)
_MOST_ITEMS = 1 << 32
"""Of any vocabulary; the noise's tail grows with the root of its logarithm only."""


def masked_lengths(plan: ReleasePlan, *, n_items: int, row: int) -> tuple[int, ...]:
    """How many values each round masks: first the counts, then each server round's statistics."""
    with_grams = plan.rounds[0].item_grams is not None
    statistics = n_items * (row + (packed_size(row) if with_grams else 0))
    return (n_items + 1, *(statistics for _ in plan.rounds))


def secure_rounds(
    plan: ReleasePlan,
    *,
    platforms: int,
    n_items: int,
    row: int,
    linear: GaussianNoise | None = None,
    linear_size: int = 0,
    updates: UpdatePlan | None = None,
    update_size: int = 0,
) -> tuple[RoundSpec, ...]:
    """One specification a round: what is summed, in the smallest ring that its public bounds fit.

    Args:
        plan: the run's releases of the factorisation.
        platforms: P.
        n_items: m, the vocabulary's size.
        row: d.
        linear: noise of the item-item statistics, in the round after the counts; None where the run gathers none.
        linear_size: values of them.
        updates: the deep model's releases, in the rounds after those of the factorisation.
        update_size: values of one of them.

    Raises:
        SecureSumError: the bounds fit no ring; lower ``privacy.user_bound``.
    """
    lengths = masked_lengths(plan, n_items=n_items, row=row)
    noises: list[tuple[GaussianNoise, ...]] = [(plan.counts,)]
    noises += [
        (part.item_vectors,) if part.item_grams is None else (part.item_vectors, part.item_grams)
        for part in plan.rounds
    ]
    labels = ["counts", *(f"statistics {index}" for index in range(1, len(plan.rounds) + 1))]
    specs = tuple(
        RoundSpec(label=label, ring=_ring(plan, noise, platforms, length), noise_std=SHARE_STD)
        for label, noise, length in zip(labels, noises, lengths, strict=True)
    )
    if linear is not None:
        ring = _ring(plan, (linear,), platforms, linear_size)
        specs = (specs[0], RoundSpec(label="cooccurrence", ring=ring, noise_std=SHARE_STD), *specs[1:])
    if updates is None:
        return specs
    ring = _ring(plan, (updates.noise,), platforms, update_size)
    numbers = range(1, updates.rounds + 1)
    return (*specs, *(RoundSpec(label=f"update {number}", ring=ring, noise_std=SHARE_STD) for number in numbers))


def check_sums_fit(plan: ReleasePlan, *, platforms: int, linear: GaussianNoise | None = None) -> None:
    """Refuse a plan whose sums fit no ring, before anything is known of items.

    Raises:
        SecureSumError: names the setting to change, and to what.
    """
    secure_rounds(plan, platforms=platforms, n_items=_MOST_ITEMS, row=1, linear=linear, linear_size=_MOST_ITEMS)


def _ring(plan: ReleasePlan, noises: tuple[GaussianNoise, ...], platforms: int, length: int) -> RingConfig:
    per_user = max(math.ceil(noise.sensitivity / noise.grid_step) for noise in noises)
    for bits in _RINGS:
        try:
            return RingConfig.from_public_bounds(
                bits=bits,
                platforms=platforms,
                users_per_platform=plan.user_bound,
                max_abs_per_user=per_user,
                noise_std=SHARE_STD,
                coordinates=length,
            )
        except SecureSumError:
            continue
    most = ((1 << (_RINGS[-1] - 2)) // platforms - noise_tail(SHARE_STD, platforms * length)) // per_user
    raise SecureSumError(
        f"privacy.user_bound: sums over {platforms} platforms of up to {plan.user_bound:,} users each do not fit the secure "
        f"sum's widest ring ({_RINGS[-1]} bits) at this epsilon; lower user_bound to at most {most:,}, if no platform has more"
    )
