"""Keeps each user's figure of merit in a file beside ``result.json``: runs of the same users are compared user by user.

    RUN/measured.npz    PLATFORM/SCOPE/users: int64 [k], rows of the users; PLATFORM/SCOPE/SCORER: float32 [k], Recall@20

Users are numbers of rows, no ids; the file is of the same worth as the stores beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.scoring.evaluation import PerUserMetrics
from common.errors import StoreError
from common.files import archive, read_archive, write_atomically
from common.metrics import paired_bootstrap

MEASURED: Final = "measured.npz"
MERIT: Final = "recall@20"
SCOPES: Final = ("own", "cross")


class Measured:
    """Collects what every user reached."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def keep(self, platform: str, scope: str, measured: Mapping[str, PerUserMetrics]) -> None:
        """Take in what some scorers reached on one slice."""
        for scorer, one in measured.items():
            self._arrays[f"{platform}/{scope}/users"] = one.users
            self._arrays[f"{platform}/{scope}/{scorer}"] = one.values[MERIT].astype(np.float32)

    def write(self, run: Path) -> None:
        """Write the file.

        Raises:
            StoreError: it cannot be written.
        """
        write_atomically(run / MEASURED, archive(self._arrays))


def paired_difference(
    runs: tuple[Path, Path], platform: str, scope: str, scorer: str = "final"
) -> tuple[float, float, float] | None:
    """Mean of the second run's figure less the first's over the same users, and its 95 % bootstrap interval.

    None where the runs did not measure the same users, or an earlier release wrote one of them.
    """
    try:
        first, second = (read_archive(run / MEASURED) for run in runs)
    except StoreError:
        return None
    name = f"{platform}/{scope}"
    if f"{name}/{scorer}" not in first or f"{name}/{scorer}" not in second:
        return None
    users = first[f"{name}/users"]
    if not len(users) or not np.array_equal(users, second[f"{name}/users"]):
        return None
    pair = (second[f"{name}/{scorer}"].astype(np.float64), first[f"{name}/{scorer}"].astype(np.float64))
    found = paired_bootstrap(*pair, np.random.default_rng(0))
    return found.mean, found.lower, found.upper
