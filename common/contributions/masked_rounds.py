"""The rounds of a run's secure sum, as every party computes them from the plan and the vocabulary's size alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from common.contributions.kind import ContributionKind
from common.contributions.registry import kinds_of
from common.errors import ContractError, SecureSumError
from common.privacy.plan import LOG2_SHARE_STEPS, GaussianNoise
from common.privacy.secure_sum import RingBits, RingConfig, RoundSpec, noise_tail

if TYPE_CHECKING:
    from common.config.federation import FederationPlan

SHARE_STD = 2.0**LOG2_SHARE_STEPS
"""Standard deviation, in grid steps, of the noise share that each platform adds."""
_RINGS: tuple[RingBits, ...] = (32, 40, 48, 56)
_MOST_ITEMS = 1 << 32
"""Of any vocabulary; the noise's tail grows with the root of its logarithm only."""


def secure_rounds(plan: FederationPlan, *, platforms: int, n_items: int) -> tuple[RoundSpec, ...]:
    """One specification a round: what is summed, in the smallest ring that its public bounds fit.

    Args:
        plan: the run's.
        platforms: P.
        n_items: m, the vocabulary's size.

    Raises:
        SecureSumError: the bounds fit no ring; lower ``privacy.user_bound``.
    """
    return tuple(
        RoundSpec(
            label=kind.label(plan, number),
            ring=_ring(plan, kind.noises(plan, number), platforms, kind.masked_length(plan, n_items)),
            noise_std=SHARE_STD,
        )
        for kind, number in _places(plan)
    )


def round_index(plan: FederationPlan, kind: ContributionKind, server_round: int) -> int:
    """Where a contribution of ``kind`` to ``server_round`` stands among :func:`secure_rounds`.

    Raises:
        ContractError: the plan has no such round.
    """
    before = 0
    for other in kinds_of(plan):
        rounds = other.rounds(plan)
        if other.name == kind.name and server_round in rounds:
            return before + rounds.index(server_round)
        before += len(rounds)
    raise ContractError(f"{kind.name}: the plan has no such round as {server_round}")


def check_sums_fit(plan: FederationPlan, *, platforms: int) -> None:
    """Refuse a plan whose sums fit no ring, or no 64 bits, before anything is known of items and users.

    Raises:
        SecureSumError, PrivacyError: names the setting to change, and to what.
    """
    for kind in kinds_of(plan):
        for noises in kind.checked_noises(plan) if plan.secure_sum else ():
            _ring(plan, noises, platforms, _MOST_ITEMS * len(noises))
    for kind in kinds_of(plan):
        kind.check_plan(plan)


def _places(plan: FederationPlan) -> Iterator[tuple[ContributionKind, int]]:
    for kind in kinds_of(plan):
        for number in kind.rounds(plan):
            yield kind, number


def _ring(plan: FederationPlan, noises: tuple[GaussianNoise, ...], platforms: int, length: int) -> RingConfig:
    per_user = max(math.ceil(noise.sensitivity / noise.grid_step) for noise in noises)
    users = plan.privacy.user_bound
    for bits in _RINGS:
        try:
            return RingConfig.from_public_bounds(
                bits=bits,
                platforms=platforms,
                users_per_platform=users,
                max_abs_per_user=per_user,
                noise_std=SHARE_STD,
                coordinates=length,
            )
        except SecureSumError:
            continue
    most = ((1 << (_RINGS[-1] - 2)) // platforms - noise_tail(SHARE_STD, platforms * length)) // per_user
    raise SecureSumError(
        f"privacy.user_bound: sums over {platforms} platforms of up to {users:,} users each do not fit the secure "
        f"sum's widest ring ({_RINGS[-1]} bits) at this epsilon; lower user_bound to at most {most:,}, if no platform has more"
    )
