"""A platform whose users are in shards: what they are made from, the sample that the agent holds, and the engine."""

from __future__ import annotations

from client.data.dataset import ItemTable, PlatformData
from client.data.items import Catalogue, catalogue_from_file
from client.data.reading.exclusions import Exclusions, read_exclusions
from client.data.report import CleaningReport
from client.data.training import TrainingData
from client.sharding.cluster import RayCluster
from client.sharding.ray_engine import RayEngine
from client.sharding.shards import ShardedUsers, digest_of_source
from client.sharding.worker import ShardSource
from client.training.engine import Engine
from common.deploy.roles import PlatformConfig


def catalogue_of(config: PlatformConfig) -> Catalogue:
    """The catalogue, from the items file alone.

    Raises:
        DataError: the file cannot be used.
    """
    return catalogue_from_file(config.data.items, config.name, config.catalogue.described_columns)


def source_of(config: PlatformConfig, items: ItemTable) -> str:
    """Digest of all that decides what stands in shards, but for the interactions themselves."""
    data = config.data.model_dump(mode="json")
    held_back = [config.name, config.seed, config.validation_users, config.validation_share]
    if config.validation_entries != "random":
        # Not said in shards from before there was a choice.
        held_back.append(config.validation_entries)
    return digest_of_source(items.keys, [data, held_back])


def open_shards(config: PlatformConfig, items: ItemTable) -> ShardedUsers:
    """The platform's shards.

    Raises:
        DataError: there are none, or they were made from something else.
    """
    return ShardedUsers.open(config.training.shards, source_of(config, items))


def sampled_platform_data(config: PlatformConfig, excluded: Exclusions) -> PlatformData:
    """The catalogue, and a sample of the users: what the platform's own models are built and judged on.

    Args:
        config: the platform's, with ``training.engine: ray``.
        excluded: who is left out.

    Raises:
        DataError: the items file or the shards cannot be used.
    """
    items = catalogue_of(config).items
    users = open_shards(config, items)
    rows = users.sample(config.training.sample_users, excluded)
    report = CleaningReport.of_dict(users.report)
    if rows.known.n_users < users.n_users:
        note = f"this process holds a sample of {rows.known.n_users:,} users; the cluster sums over all of them"
        report = report.with_notes([note])
    return PlatformData(rows.user_ids, items, rows.known, config.data.feedback, None, report)


def make_engine(config: PlatformConfig, data: TrainingData) -> Engine:
    """The engine over all users in the shards, but for those who are left out now.

    Raises:
        ConfigError: there is no cluster.
        DataError: the shards cannot be used.
    """
    return RayEngine(RayCluster(config.training), source_of_shards(config, data))


def source_of_shards(config: PlatformConfig, data: TrainingData) -> ShardSource:
    """Tell workers what to read: the shards, what is shared, and who is left out now.

    Raises:
        DataError: the shards cannot be used.
    """
    return ShardSource(
        users=open_shards(config, data.items),
        shared_columns=data.shared_columns,
        excluded=read_exclusions(config.state / "store"),
        block_users=config.training.block_users,
    )
