"""Whole grid steps from real numbers, such that no user's contribution grows: what every mechanism's bound rests on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SHRINK = 1 - 2.0**-30
"""Taken off a bound before quantising: far above the error of 64-bit floats, far below the noise."""


def toward_zero(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """``values``, in units of the grid step, as whole steps: each one's magnitude rounded down."""
    return values.astype(np.int64)
