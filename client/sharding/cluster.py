"""A platform's Ray cluster: connects to it, hands it work, and tells what went wrong there by its kind alone.

The cluster is the platform's own and trusted like its disk: workers see what users did.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from logging import getLogger
from typing import Any, Final, TypeVar

from common.config.platform import EngineConfig
from common.errors import ConfigError, CrossfedError, InternalError

_log = getLogger(__name__)

T = TypeVar("T")

_RETRIES: Final = 5
"""How often the work of lost workers on one shard is begun again."""
_ANSWER_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Machine:
    """A machine of the cluster, as Ray knows it.

    Attributes:
        name: its host's.
        workers: how many tasks it runs at a time.
        memory: bytes that Ray has for them all.
    """

    name: str
    workers: int
    memory: int


class RayCluster:
    """A connection, one for all of a process.

    Args:
        config: where the cluster is.

    Raises:
        ConfigError: Ray is not installed, there is no cluster at the address, or it runs another version of Ray or Python.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._ray = _connected(config)

    def put(self, value: Any) -> Any:
        """Send ``value`` once, for any number of tasks."""
        return self._ray.put(value)

    def get(self, refs: Any) -> Any:
        """Wait for what tasks make; use it within :meth:`told_plainly`."""
        return self._ray.get(refs)

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` on a worker; begun again elsewhere when the worker is lost."""
        remote: Callable[..., Any] = self._ray.remote(num_cpus=1, max_retries=_RETRIES)(function).remote
        return remote

    def on_every_machine(self, function: Callable[..., T], *arguments: Any) -> list[tuple[Machine, T]]:
        """Each machine that has workers, and what ``function`` returns there.

        Raises:
            ConfigError: none has.
        """
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        if not nodes:
            raise ConfigError("training.address: no machine of the Ray cluster has a CPU for workers")
        on = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        task = self._ray.remote(num_cpus=1)(function)
        with self.told_plainly():
            asked = [
                task.options(scheduling_strategy=on(node["NodeID"], soft=False)).remote(*arguments) for node in nodes
            ]
            return list(zip(map(_machine, nodes), self._ray.get(asked), strict=True))

    def few_at_a_time(self, refs: Iterator[Any]) -> Iterator[Any]:
        """``refs``, of which few are under way: results wait in the workers' memory until somebody takes them."""
        most = 2 * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        under_way: list[Any] = []
        for ref in refs:
            under_way.append(ref)
            yield ref
            if len(under_way) >= most:
                _, under_way = self._ray.wait(under_way, num_returns=1, fetch_local=False)

    @contextmanager
    def told_plainly(self) -> Iterator[None]:
        """A worker's error is its own again; Ray's own errors quote what workers wrote, so only their kind is told."""
        try:
            yield
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, CrossfedError) else None
            raise cause or InternalError(f"a worker of the Ray cluster met {type(error.cause).__name__}") from None
        except self._ray.exceptions.RayError as error:
            raise InternalError(f"the Ray cluster failed: {type(error).__name__}; ray status tells more") from None


def _machine(node: dict[str, Any]) -> Machine:
    resources = node["Resources"]
    return Machine(str(node["NodeManagerHostname"]), int(resources["CPU"]), int(resources.get("memory", 0)))


def check_answers(address: str) -> None:
    """Raises: ConfigError where nothing answers at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        with closing(socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS)):
            return
    except OSError as error:
        raise ConfigError(
            f"training.address: nothing answers at {address} ({error.strerror or 'no answer in time'}); start the cluster "
            "with ray start --head, name its address, or open its port to this host"
        ) from None


def _connected(config: EngineConfig) -> Any:
    """The module ``ray``, connected."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # What Ray is going over to, and warns of until then.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise ConfigError("training.engine: ray is not installed; pip install 'crossfed[ray]'") from None
    if not ray.is_initialized():
        check_answers(config.address)
        try:
            ray.init(address=config.address, namespace="crossfed", log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            if "ersion mismatch" in str(error):
                raise ConfigError(
                    f"training.address: the cluster at {config.address} runs another version of Ray or Python than this "
                    f"process (Ray {ray.__version__}, Python {platform.python_version()}); give all machines one environment"
                ) from None
            raise ConfigError(
                f"training.address: there is no Ray cluster at {config.address} ({type(error).__name__}); start it with "
                "ray start --head, or name its address"
            ) from None
        _log.info("connected to the Ray cluster at %s", config.address)
    return ray
