"""Local differential privacy of a profile: whoever reads the passport cannot tell two histories apart by more than ε.

The Gaussian mechanism on a vector of length at most 1. Two profiles lie at most 2 apart, whatever the histories: the unit is
the whole history, not one interaction. The noise is discrete on a fine grid: the digits of floating-point noise would tell
more than ε allows (Mironov 2012, "On significance of the least significant bits"). σ is the smallest that (ε, δ) allow (Balle
& Wang 2018, "Improving the Gaussian mechanism for differential privacy", theorem 8), found by bisection.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from common.privacy.sampler import SystemNoise, discrete_gaussian

DELTA = 1e-6
_SENSITIVITY = 2.0
_BISECTIONS = 200
_LOG2_SIGMA = 20


def noise_deviation(epsilon: float, delta: float = DELTA) -> float:
    """σ of each number of a profile under (ε, δ).

    >>> round(noise_deviation(1.0), 2)
    8.45
    """

    def reached(sigma: float) -> float:
        a, b = _SENSITIVITY / (2 * sigma), epsilon * sigma / _SENSITIVITY
        return float(norm.cdf(a - b) - math.exp(epsilon + float(norm.logcdf(-a - b))))

    low, high = 1e-3, 1e6
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if reached(middle) > delta else (low, middle)
    return high


def noised(profile: NDArray[np.float32], epsilon: float) -> NDArray[np.float32]:
    """float32 ``[d]``: the profile with noise from the operating system's generator."""
    # Rounding to the grid moves a profile by less than d·unit, which 1 % more noise pays for many times over.
    unit = 1.01 * noise_deviation(epsilon) / 2**_LOG2_SIGMA
    values = np.rint(profile.astype(np.float64) / unit).astype(np.int64)
    return np.asarray((values + discrete_gaussian(len(profile), _LOG2_SIGMA, SystemNoise())) * unit, dtype=np.float32)
