"""The noise of what leaves a platform: on every entry, of the declared size and shape, had or not had by anybody.

Two runs of the same data with the production generator differ by noise alone: the difference of two shares, whose standard
deviation is √2 shares whatever the sums are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from simulations.audit.audited.platforms import PLATFORMS, SHARE_STEPS, TARGET, Draws, ReplayedNoise, without_noise
from simulations.audit.audited.protocol import ByHand, Transcript
from simulations.audit.path.neighbours import World
from simulations.audit.statistics.checks import Check, noise_p_value, row_p_value, statistical

PAIRS = 2
"""Pairs of runs that are compared."""


def noise_checks(world: World) -> list[Check]:
    """Test the noise of every release of ``world``; its mechanisms must still have the production generator."""
    own = Draws(world.target.own_noise)
    world.target.take_noise_from(own)
    with without_noise():
        still = _run(world, own, "still")
    pairs = [[_run(world, own, f"noise-{pair}-{side}") for side in "ab"] for pair in range(PAIRS)]
    placement = world.plan.privacy.noise
    return [
        check
        for name, sums in still.released.items()
        for check in _of_release(
            f"{placement}, {name}",
            np.stack([_standardised(one.released[name], other.released[name]) for one, other in pairs]),
            sums.ravel() == 0,
            world.plan.row if name.startswith("item_vectors") else 1,
        )
    ]


def _run(world: World, own: Draws, run_id: str) -> Transcript:
    # The partners' shares repeat, and cancel.
    noise: dict[str, ReplayedNoise | Draws] = {name: ReplayedNoise(place) for place, name in enumerate(PLATFORMS)}
    for name, platform in world.partners.items():
        platform.take_noise_from(noise[name])
    noise[TARGET] = own
    run = ByHand(world.plan, world.target, world.partners, run_id=run_id, noise=noise)
    run.join()
    run.gather()
    return run.transcript


def _standardised(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
    return (one - other).ravel() / (math.sqrt(2) * SHARE_STEPS)


def _of_release(title: str, noise: NDArray[np.float64], untouched: NDArray[np.bool_], row: int) -> Iterator[Check]:
    """Checks of one release.

    Args:
        title: of it.
        noise: float64 ``[pairs, n]``, standardised.
        untouched: bool ``[n]``: entries to which nobody adds anything.
        row: values of one item.
    """
    for values, whose in ((noise[:, ~untouched], "touched"), (noise[:, untouched], "untouched")):
        if values.size:
            yield statistical(
                f"noise of {whose} entries: {title}",
                noise_p_value(values.ravel()),
                f"{title}: the noise of {whose} entries is not the declared one",
            )
    by_item = noise.reshape(len(noise), -1, row).transpose(1, 0, 2).reshape(noise.shape[1] // row, -1)
    yield statistical(
        f"noise of every item: {title}", row_p_value(by_item), f"{title}: an entry has too little noise, or too much"
    )
