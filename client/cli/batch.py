"""The part of ``crossfed-client recommend`` that writes many lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from client.batch.outputs import ListOutputs, parts_of
from client.batch.run import BatchDone, BatchJob, recommend_to_file
from client.data.recorded import EventRules
from client.recommend.answers import Scope
from common.config.loader import load_yaml_model
from common.config.serving import SteeringConfig
from common.deploy.console import PlainConsole, say
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError


def write_lists(
    store: Path | None, config: Path | None, output: Path, users: Path | None, k: int, scope: Scope
) -> None:
    """Write the lists and say how many; exactly one of ``store`` and ``config`` names the model."""
    if (store is None) == (config is None):
        raise ConfigError("--store, --config: give one of them")
    steering, rules, platform = SteeringConfig(), EventRules(), None
    if config is not None:
        platform = load_yaml_model(config, PlatformConfig)
        store, steering, rules = platform.state / "store", platform.steering, EventRules.of(platform.data)
    assert store is not None
    if ListOutputs(store).unnoted:
        say(
            f"{store} is read-only, so no erasure of the platform can find {output}, nor its parts ({parts_of(output).name}) "
            "if this is cut short: delete them yourself when a person is erased",
            err=True,
        )
    job = BatchJob(store=store, output=output, users=users, k=k, scope=scope, steering=steering, rules=rules)
    try:
        with PlainConsole(stderr=True).stages() as tell:
            if platform is not None and platform.training.engine == "ray":
                done = _by_shards(job, platform, tell)
            else:
                done = recommend_to_file(job, tell)
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on where it was, and until then {output} is as it was", err=True)
        raise
    unknown = f"; {done.unknown:,} of those asked for are not known" if done.unknown else ""
    say(f"{output}: lists of {done.users:,} users by version {done.version}{unknown}")


def _by_shards(job: BatchJob, platform: PlatformConfig, tell: Callable[[str], None]) -> BatchDone:
    """On the platform's cluster: the model knows a sample of the users alone."""
    from client.sharding.cluster import RayCluster
    from client.sharding.lists import recommend_by_shards
    from client.sharding.platform import catalogue_of, open_shards

    if job.users is not None:
        raise ConfigError(
            "--users: with training.engine: ray lists are of all users; choose from those that --all writes"
        )
    shards = open_shards(platform, catalogue_of(platform).items)
    return recommend_by_shards(job, shards, RayCluster(platform.training), platform.training.block_users, tell)
