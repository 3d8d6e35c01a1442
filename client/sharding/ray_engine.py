"""Sums over users in shards on a Ray cluster: item parameters go out once, sums come back along a tree.

What is asked and what leaves, ledger and noise stay with the agent. A worker that is lost loses a shard's sum, which Ray
computes again elsewhere.

The tree depends on the number of shards alone, so floats too are the same to the bit whatever the number of workers and
whichever is done first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from client.sharding.cluster import RayCluster
from client.sharding.worker import (
    ROUND_DIFFERENTLY,
    PartialSum,
    ShardSource,
    rounding,
    sum_of_shard,
    sum_of_sums,
)
from client.training.engine import Sums, UserSum
from common.config.model import FactorizationConfig
from common.errors import ConfigError

_FAN_IN: Final = 8


class RayEngine:
    """An :class:`client.training.engine.Engine` over a cluster.

    Args:
        cluster: the platform's.
        source: the shards, as agent and workers see them.
    """

    def __init__(self, cluster: RayCluster, source: ShardSource) -> None:
        self._cluster, self._source = cluster, source

    @property
    def n_users(self) -> int:
        return self._source.users.n_users

    def solver(self, model: FactorizationConfig) -> str:
        """As the engine's; every machine of the cluster solves known systems first.

        Raises:
            ConfigError: they do not all solve them alike, or there is none.
        """
        found = [digest for _, digest in self._cluster.on_every_machine(rounding)]
        if len(set(found)) > 1:
            raise ConfigError(f"training.address: {ROUND_DIFFERENTLY}")
        return f"numba, on {len(found)} machine{'s' if len(found) > 1 else ''} of a Ray cluster"

    def sum(self, what: UserSum) -> Sums:
        cluster, leaf = self._cluster, self._cluster.task(sum_of_shard)
        with cluster.told_plainly():
            source, told = cluster.put(self._source), cluster.put(what)
            shards = (leaf(source, told, shard) for shard in range(len(self._source.users.shards)))
            found: PartialSum = cluster.get(tree(cluster.few_at_a_time(shards), cluster.task(sum_of_sums)))
        return found.sums


def tree(leaves: Iterator[Any], join: Callable[..., Any]) -> Any:
    """``leaves`` joined in order, :data:`_FAN_IN` at a time, as soon as so many of one height are there."""
    heights: list[list[Any]] = []
    for leaf in leaves:
        one, height = leaf, 0
        while True:
            if height == len(heights):
                heights.append([])
            heights[height].append(one)
            if len(heights[height]) < _FAN_IN:
                break
            one, heights[height] = join(*heights[height]), []
            height += 1
    top: list[Any] = []
    for waiting in heights:
        rest = [*waiting, *top]
        top = [rest[0] if len(rest) == 1 else join(*rest)] if rest else []
    return top[0]
