"""Looks at a cluster before a run needs it: versions, shards, memory and rounding of each machine.

What is looked at on a worker comes back as numbers and versions; no id is among it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from client.sharding.cluster import Machine, RayCluster
from client.sharding.shards import ShardedUsers
from client.sharding.worker import ROUND_DIFFERENTLY, rounding, told_by_kind
from common.config.federation import FederationPlan
from common.config.platform import EngineConfig
from common.deploy.doctor import Finding
from common.errors import CrossfedError

_WHAT: Final = "cluster"
_PACKAGES: Final = ("crossfed", "numba", "numpy", "polars", "ray")
_ENTRY_BYTES: Final = 40
_PROCESS_BYTES: Final = 400 * 2**20
"""Of a worker before it reads a shard: the interpreter, numba and polars."""


@dataclass(frozen=True)
class WorkerView:
    """Holds what a worker sees.

    Attributes:
        versions: of Python and of packages, by name; a package that is not there has none.
        shards: how many of the shards it sees, whole.
        rounding: as :func:`client.sharding.worker.rounding`.
    """

    versions: dict[str, str]
    shards: int
    rounding: str


def look_around(files: Sequence[tuple[Path, int]]) -> WorkerView:
    """Runs on a worker; ``files`` are the shards with their sizes in bytes as the agent sees them."""

    def look() -> WorkerView:
        return WorkerView(versions_here(), sum(_size(path) == size for path, size in files), rounding())

    return told_by_kind(look, "look at the cluster")


def versions_here() -> dict[str, str]:
    """Versions of Python and of what rounds, in this process."""
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def examine_cluster(
    config: EngineConfig,
    plan: FederationPlan,
    users: ShardedUsers | None,
    connect: Callable[[EngineConfig], RayCluster] = RayCluster,
) -> Iterator[Finding]:
    """Look at the cluster and all its machines; each finding as it is made.

    Args:
        config: where it is.
        plan: whose sums workers will make.
        users: the shards, as this host sees them; None where there are none.
        connect: to it.
    """
    try:
        seen = connect(config).on_every_machine(look_around, [] if users is None else _files(users))
    except CrossfedError as error:
        hint = "; is the same crossfed installed on all of its machines?" if "a worker" in str(error) else ""
        yield Finding("wrong", _WHAT, f"{error}{hint}")
        return
    workers = sum(machine.workers for machine, _ in seen)
    yield Finding("ok", _WHAT, f"{workers} workers on {_machines(len(seen))} at {config.address}")
    yield _of_versions(seen)
    yield _of_rounding(view for _, view in seen)
    if users is not None:
        yield _of_shards(seen, len(users.shards))
        yield _of_memory((machine for machine, _ in seen), bytes_of_worker(users, plan, config.block_users))


def bytes_of_worker(users: ShardedUsers, plan: FederationPlan, block_users: int) -> int:
    """About how many bytes a worker needs at most: its process, a block of the longest histories, and sums over it."""
    width = plan.row
    entries = max(
        (shard.interactions * min(1.0, block_users / max(1, shard.users)) for shard in users.shards), default=0
    )
    factors = 8 * width * min(block_users, max((shard.users for shard in users.shards), default=0))
    sums = users.n_items * width * (8 if plan.private else 6 * width)
    return _PROCESS_BYTES + int(entries * _ENTRY_BYTES) + factors + 2 * sums


def _files(users: ShardedUsers) -> list[tuple[Path, int]]:
    return [(path, _size(path)) for path in (users.folder / shard.file for shard in users.shards)]


def _size(path: Path) -> int:
    """In bytes; -1 where it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _machines(count: int) -> str:
    return f"{count} machine{'' if count == 1 else 's'}"


def _of_versions(seen: Sequence[tuple[Machine, WorkerView]]) -> Finding:
    here, found = versions_here(), []
    for machine, view in seen:
        found += [
            f"{machine.name} has {name} {view.versions.get(name, 'not at all')}, here it is {ours}"
            for name, ours in here.items()
            if view.versions.get(name) != ours
        ]
    if found:
        return Finding("wrong", "cluster's versions", f"{'; '.join(found)}; give all machines one environment")
    return Finding("ok", "cluster's versions", ", ".join(f"{name} {ours}" for name, ours in here.items()))


def _of_rounding(views: Iterable[WorkerView]) -> Finding:
    if len({view.rounding for view in views}) > 1:
        return Finding("wrong", "cluster's rounding", ROUND_DIFFERENTLY)
    return Finding("ok", "cluster's rounding", "all machines solve known systems alike")


def _of_shards(seen: Sequence[tuple[Machine, WorkerView]], shards: int) -> Finding:
    lacking = [f"{machine.name} sees {view.shards:,}" for machine, view in seen if view.shards < shards]
    if lacking:
        mend = "training.shards must be one folder under the same path on all machines, which workers may read"
        return Finding("wrong", "cluster's shards", f"of {shards:,} shards {', '.join(lacking)}; {mend}")
    return Finding("ok", "cluster's shards", f"every machine sees all {shards:,}")


def _of_memory(machines: Iterable[Machine], needed: int) -> Finding:
    each = [(machine.memory // machine.workers, machine.name) for machine in machines]
    least, name = min(each)
    said = f"{least / 2**30:.2g} GiB a worker on {name}, which has least; about {needed / 2**30:.2g} GiB needed"
    if least >= needed:
        return Finding("ok", "cluster's memory", said)
    mend = "lower training.block_users, partition into more shards, or start Ray with fewer --num-cpus"
    return Finding("wrong", "cluster's memory", f"{said}; {mend}")
