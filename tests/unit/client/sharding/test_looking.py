"""The doctor's look at a cluster: what would end a run there is named before one begins, with the machine and the mend."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.deploy.doctor import examine
from client.sharding.cluster import Machine, RayCluster
from client.sharding.looking import WorkerView, bytes_of_worker, examine_cluster, look_around
from client.sharding.platform import catalogue_of, open_shards
from client.sharding.shards import Shard, ShardedUsers
from common.config.platform import EngineConfig
from common.deploy.doctor import Finding
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError, InternalError
from tests.private_support import private_plan
from tests.support import small_plan
from tests.support.sharded import InlineCluster, partitioned, sharded_config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PlatformConfig:
    return partitioned(sharded_config(tmp_path_factory.mktemp("platform")))


def shards_of(config: PlatformConfig) -> ShardedUsers:
    return open_shards(config, catalogue_of(config).items)


class Altered(InlineCluster):
    """A cluster whose second machine sees something else."""

    def __init__(self, alter: Callable[[WorkerView], WorkerView], memory: int = 2**31) -> None:
        super().__init__()
        self._alter, self._memory = alter, memory

    def on_every_machine(self, function: Any, *arguments: Any) -> list[tuple[Machine, Any]]:
        [one, two] = super().on_every_machine(function, *arguments)
        return [
            (replace(one[0], memory=2**31), one[1]),
            (replace(two[0], memory=self._memory), self._alter(two[1])),
        ]


def found(config: PlatformConfig, cluster: Any, users: ShardedUsers | None) -> dict[str, Finding]:
    findings = examine_cluster(config.training, config.plan, users, connect=lambda _: cluster)
    return {finding.what: finding for finding in findings}


def wrong(findings: dict[str, Finding]) -> dict[str, str]:
    return {what: finding.detail for what, finding in findings.items() if finding.level == "wrong"}


def test_a_cluster_that_can_do_its_work_is_found_sound(config: PlatformConfig) -> None:
    findings = found(config, Altered(lambda view: view), shards_of(config))
    assert {finding.level for finding in findings.values()} == {"ok"}
    assert findings["cluster"].detail == "4 workers on 2 machines at auto"
    assert "every machine sees all 5" in findings["cluster's shards"].detail


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"versions": {"Python": "3.10.1"}}, "two has Python 3.10.1"),
        ({"versions": {}}, "two has crossfed not at all"),
    ],
)
def test_a_machine_of_another_environment_is_named(config: PlatformConfig, change: dict[str, Any], named: str) -> None:
    problems = wrong(found(config, Altered(lambda view: replace(view, **change)), None))
    assert named in problems.pop("cluster's versions")
    assert not problems


def test_a_machine_that_rounds_differently_is_found(config: PlatformConfig) -> None:
    problems = wrong(found(config, Altered(lambda view: replace(view, rounding="other")), None))
    assert "machines of one kind" in problems["cluster's rounding"]


def test_a_machine_that_does_not_see_all_shards_is_named(config: PlatformConfig) -> None:
    problems = wrong(found(config, Altered(lambda view: replace(view, shards=3)), shards_of(config)))
    assert "of 5 shards two sees 3; training.shards must be one folder" in problems["cluster's shards"]


def test_a_worker_sees_whole_shards_alone(tmp_path: Path) -> None:
    """One that a slow mount has not got whole yet would end a run."""
    files = [(tmp_path / name, 4) for name in ("whole", "cut", "long", "gone")]
    for (path, _), content in zip(files, (b"PAR1", b"PA", b"PAR1PAR1"), strict=False):
        path.write_bytes(content)
    assert look_around(files).shards == 1


def test_too_little_memory_is_named_with_the_mend(config: PlatformConfig) -> None:
    problems = wrong(found(config, Altered(lambda view: view, memory=2**29), shards_of(config)))
    assert "a worker on two" in problems["cluster's memory"]
    assert "training.block_users" in problems["cluster's memory"]


def test_a_workers_memory_does_not_grow_with_the_users() -> None:
    """The shard of 100 million interactions in docs/scale.md took a worker .65 GiB at most."""
    one = ShardedUsers(Path("x"), (Shard("a", 62_500, 5_900_000),) * 16, 20_000, "")
    plans = private_plan(), small_plan(model={"dimension": 32})
    ten = replace(one, shards=one.shards * 10)
    assert [bytes_of_worker(one, plan, 16_384) for plan in plans] == [
        bytes_of_worker(ten, plan, 16_384) for plan in plans
    ]
    assert 0.5 < bytes_of_worker(one, plans[1], 16_384) / 2**30 < 0.8
    assert bytes_of_worker(one, plans[1], 65_536) > 1.2 * bytes_of_worker(one, plans[1], 16_384)


def test_a_cluster_without_crossfed_is_named(config: PlatformConfig) -> None:
    class Broken(InlineCluster):
        def on_every_machine(self, function: Any, *arguments: Any) -> list[tuple[Machine, Any]]:
            raise InternalError("a worker of the Ray cluster met RuntimeError")

    assert "is the same crossfed installed" in wrong(found(config, Broken(), None))["cluster"]


def test_an_address_where_nothing_answers_is_told_at_once() -> None:
    """Ray itself tries for two minutes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # nobody listens
        with pytest.raises(ConfigError, match=rf"nothing answers at {address} .*ray start --head"):
            RayCluster(EngineConfig(engine="ray", address=address))


def test_the_doctor_looks_at_the_cluster_of_a_platform_that_has_one(config: PlatformConfig, tmp_path: Path) -> None:
    content = config.model_dump(mode="json", exclude_unset=True)
    content["training"]["address"] = "127.0.0.1:1"
    path = tmp_path / "platform.yaml"
    path.write_text(yaml.safe_dump(content))
    finding = next(finding for finding in examine(path, devices=False) if finding.what == "cluster")
    assert finding.level == "wrong"
    assert "nothing answers at 127.0.0.1:1" in finding.detail
