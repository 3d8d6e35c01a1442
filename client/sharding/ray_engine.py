"""Sums over users in shards on a Ray cluster: item parameters go out once, sums come back along a tree.

The cluster is the platform's own and trusted like its disk: workers see what users did. What is asked and what leaves, ledger
and noise stay with the agent. A worker that is lost loses a shard's sum, which Ray computes again elsewhere.

The tree depends on the number of shards alone, so floats too are the same to the bit whatever the number of workers and
whichever is done first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import getLogger
from typing import Any, Final

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
from common.config.platform import EngineConfig
from common.errors import ConfigError, CrossfedError, InternalError

_log = getLogger(__name__)

_FAN_IN: Final = 8
_RETRIES: Final = 5
"""How often the work of lost workers on one shard is begun again."""


class RayEngine:
    """An :class:`client.training.engine.Engine` over a cluster.

    Args:
        config: where the cluster is.
        source: the shards, as agent and workers see them.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, config: EngineConfig, source: ShardSource) -> None:
        self._source = source
        self._ray = connect(config)

    @property
    def n_users(self) -> int:
        return self._source.users.n_users

    def solver(self, model: FactorizationConfig) -> str:
        """As the engine's; every machine of the cluster solves known systems first.

        Raises:
            ConfigError: they do not all solve them alike.
        """
        nodes = [node["NodeID"] for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        if not nodes:
            raise ConfigError("training.address: no machine of the Ray cluster has a CPU for workers")
        on = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        with self._told_plainly():
            found = self._ray.get(
                [self._task(rounding).options(scheduling_strategy=on(node, soft=False)).remote() for node in nodes]
            )
        if len(set(found)) > 1:
            raise ConfigError(f"training.address: {ROUND_DIFFERENTLY}")
        return f"numba, on {len(nodes)} machine{'s' if len(nodes) > 1 else ''} of a Ray cluster"

    def sum(self, what: UserSum) -> Sums:
        with self._told_plainly():
            source, told = self._ray.put(self._source), self._ray.put(what)
            leaf, node = self._task(sum_of_shard), self._task(sum_of_sums)
            shards = (leaf.remote(source, told, shard) for shard in range(len(self._source.users.shards)))
            found: PartialSum = self._ray.get(tree(self._few_at_a_time(shards), node.remote))
        return found.sums

    def _few_at_a_time(self, refs: Iterator[Any]) -> Iterator[Any]:
        """``refs``, of which few are under way: results wait in the workers' memory until they are added."""
        most = 2 * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        under_way: list[Any] = []
        for ref in refs:
            under_way.append(ref)
            yield ref
            if len(under_way) >= most:
                _, under_way = self._ray.wait(under_way, num_returns=1, fetch_local=False)

    def _task(self, function: Callable[..., Any]) -> Any:
        return self._ray.remote(num_cpus=1, max_retries=_RETRIES)(function)

    @contextmanager
    def _told_plainly(self) -> Iterator[None]:
        """A worker's error is its own again; Ray's own errors quote what workers wrote, so only their kind is told."""
        try:
            yield
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, CrossfedError) else None
            raise cause or InternalError(f"a worker of the Ray cluster met {type(error.cause).__name__}") from None
        except self._ray.exceptions.RayError as error:
            raise InternalError(f"the Ray cluster failed: {type(error).__name__}; ray status tells more") from None


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


def connect(config: EngineConfig) -> Any:
    """The module ``ray``, connected.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # what Ray is going over to, and warns of until then
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise ConfigError("training.engine: ray is not installed; pip install 'crossfed[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(address=config.address, namespace="crossfed", log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"training.address: there is no Ray cluster at {config.address} ({type(error).__name__}); start it with "
                "ray start --head, or name its address"
            ) from None
        _log.info("connected to the Ray cluster at %s", config.address)
    return ray
