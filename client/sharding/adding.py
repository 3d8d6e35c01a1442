"""Adds up sums: whole numbers exactly, floats in 64 bits and in the order in which they come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.training.engine import Sums


def added(parts: Iterable[Sums]) -> Sums:
    """The sum of ``parts``, one at a time: memory holds the total and one of them. Arrays keep their types.

    Raises:
        ValueError: there is no part.
    """
    totals: dict[str, NDArray[Any]] = {}
    types: dict[str, np.dtype[Any]] = {}
    for part in parts:
        for name, array in part.items():
            if name not in totals:
                types[name] = array.dtype
                totals[name] = array.astype(np.float64 if array.dtype.kind == "f" else array.dtype)
            else:
                totals[name] += array
    if not totals:
        raise ValueError("nothing to add")
    return {name: total.astype(types[name], copy=False) for name, total in totals.items()}
