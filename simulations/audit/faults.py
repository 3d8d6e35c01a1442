"""Faults that an audit must catch, as subclasses of the shipped mechanism: production code has no switch for them."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.contributions.factors import UserLevelMechanism
from common.privacy.plan import GaussianNoise
from simulations.audit.world import PLATFORMS

Fault = Literal["halved-sensitivity", "no-clipping", "sigma-over-p", "reused-noise", "skip-ledger"]
FAULTS: tuple[Fault, ...] = get_args(Fault)


class _ScaledNoise(UserLevelMechanism):
    """Adds the share of the noise times a factor."""

    factor = 1.0

    def _add_noise(self, sums: NDArray[np.int64], noise: GaussianNoise) -> NDArray[np.int64]:
        share = super()._add_noise(np.zeros_like(sums), noise)
        scaled: NDArray[np.int64] = sums + np.rint(share * self.factor).astype(np.int64)
        return scaled


class HalvedSensitivity(_ScaledNoise):
    """Noise for half of what a user can change."""

    factor = 0.5


class SigmaOverP(_ScaledNoise):
    """Shares of σ/P where σ/√(P − t) was promised."""

    factor = math.sqrt(PLATFORMS - 1) / PLATFORMS


class NoClipping(UserLevelMechanism):
    """Lets user factors through at any norm."""

    def _clip(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        return factors


class ReusedNoise(UserLevelMechanism):
    """Draws noise once for each shape, and adds it again in every later round."""

    def _add_noise(self, sums: NDArray[np.int64], noise: GaussianNoise) -> NDArray[np.int64]:
        kept = self.__dict__.setdefault("_kept", {})
        # Two of them: one for the round that made it, then thrown away, so that runs stay independent.
        if sums.shape in kept and sums.ndim > 1:
            reused: NDArray[np.int64] = sums + kept.pop(sums.shape)
            return reused
        share = super()._add_noise(np.zeros_like(sums), noise)
        kept[sums.shape] = share
        return sums + share


MECHANISMS: dict[Fault | None, type[UserLevelMechanism]] = {
    None: UserLevelMechanism,
    "halved-sensitivity": HalvedSensitivity,
    "sigma-over-p": SigmaOverP,
    "no-clipping": NoClipping,
    "reused-noise": ReusedNoise,
    "skip-ledger": UserLevelMechanism,
}
