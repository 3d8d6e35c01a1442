"""Runs on a worker: streams a shard, solves its users, and gives back their sums. Knows neither noise nor aggregator.

Nothing here logs, and an error is told by its kind alone: Ray keeps workers' logs and errors on disk, where no id belongs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from client.data.reading.exclusions import Exclusions
from client.sharding.adding import added
from client.sharding.shards import ShardedUsers
from client.training.engine import Sums, UserBlock, UserSum
from client.training.kernels.systems import Entries, Kernels, RowSystems
from common.config.model import FactorizationConfig
from common.errors import CrossfedError, DataError, InternalError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ShardSource:
    """Holds what a worker needs to read users; sent once.

    Attributes:
        users: the shards.
        shared_columns: int64 ``[m_p]``.
        excluded: who is left out.
        block_users: how many users are in memory at a time.
    """

    users: ShardedUsers
    shared_columns: NDArray[np.int64]
    excluded: Exclusions
    block_users: int


@dataclass(frozen=True, eq=False)
class PartialSum:
    """A sum over some shards, and how whoever made it rounds."""

    sums: Sums
    rounding: str


def sum_of_shard(source: ShardSource, what: UserSum, shard: int) -> PartialSum:
    """``what`` over the users of one shard, block by block."""

    def blocks() -> Any:
        for rows in source.users.blocks(shard, source.block_users, source.excluded):
            yield what.of(UserBlock(*rows.split(), source.shared_columns, cpu_kernels))

    return told_by_kind(lambda: PartialSum(added(blocks()), rounding()), f"shard {shard}")


def sum_of_sums(*parts: PartialSum) -> PartialSum:
    """The sum of sums, in order.

    Raises:
        InternalError: they were made by machines that round differently.
    """
    if len({part.rounding for part in parts}) > 1:
        raise InternalError(ROUND_DIFFERENTLY)
    return PartialSum(told_by_kind(lambda: added(part.sums for part in parts), "sum"), parts[0].rounding)


ROUND_DIFFERENTLY = (
    "the cluster's machines round differently, or have different versions of crossfed: under privacy a user's contribution "
    "must not depend on which machine solves it; use machines of one kind, with one environment"
)


def cpu_kernels(model: FactorizationConfig, alone: bool) -> Kernels:
    """Kernels that solve each row by itself, on one core: a cluster has a worker for each."""
    import numba

    from client.training.kernels.numba_kernels import NumbaKernels

    numba.set_num_threads(1)
    return NumbaKernels()


def rounding() -> str:
    """Hex digest of crossfed's version and of known systems' solutions, which another kind of machine rounds otherwise."""
    return _rounding()


@lru_cache(maxsize=1)
def _rounding() -> str:
    kernels, rng = cpu_kernels(FactorizationConfig(), True), np.random.default_rng(0)
    found = hashlib.sha256(version("crossfed").encode())
    for width in (8, 33, 64):
        factors = rng.normal(size=(200, width)).astype(np.float32)
        indptr = np.arange(0, 1001, 50, dtype=np.int64)
        ones = np.ones(1000, dtype=np.float32)
        entries = Entries(indptr, rng.integers(0, 200, 1000, dtype=np.int32), ones, ones)
        exact = factors.astype(np.float64)
        systems = RowSystems(entries, factors, exact.T @ exact, np.full(20, 0.1), np.ones(width))
        found.update(kernels.solve_cholesky(systems).tobytes())
        found.update(kernels.solve_cg(systems, np.zeros((20, width), dtype=np.float32), 4).tobytes())
    return found.hexdigest()


def told_by_kind(make: Callable[[], T], of: str) -> T:
    """Return what ``make`` makes; whatever it meets besides crossfed's own errors is told by its kind, and of what."""
    try:
        return make()
    except CrossfedError as error:
        # Its own messages hold no id.
        raise type(error)(str(error)) from None
    except MemoryError:
        raise DataError(f"{of}: {os.uname().nodename} is out of memory; lower training.block_users") from None
    except Exception as error:
        raise InternalError(f"{of}: a worker met {type(error).__name__}") from None
