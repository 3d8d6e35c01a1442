"""A platform whose users are in shards: what they are made from, the sample that the agent holds, and the engine."""

from __future__ import annotations

from client.data.dataset import ItemTable
from client.data.describe import describe_items
from client.data.items import Catalogue, catalogue_from_file
from client.data.reading.exclusions import read_exclusions
from client.data.training import TrainingData, shared_items
from client.sharding.shards import ShardedUsers, digest_of_source
from client.training.engine import Engine
from common.deploy.roles import PlatformConfig
from common.errors import DataError


def catalogue_of(config: PlatformConfig) -> Catalogue:
    """The catalogue, from the items file alone.

    Raises:
        DataError: the file cannot be used.
    """
    return catalogue_from_file(config.data.items, config.name)


def source_of(config: PlatformConfig, items: ItemTable) -> str:
    """Digest of all that decides what stands in shards, but for the interactions themselves."""
    data = config.data.model_dump(mode="json")
    held_back = [config.name, config.seed, config.validation_users, config.validation_share]
    return digest_of_source(items.keys, [data, held_back])


def open_shards(config: PlatformConfig, items: ItemTable) -> ShardedUsers:
    """The platform's shards.

    Raises:
        DataError: there are none, or they were made from something else.
    """
    return ShardedUsers.open(config.training.shards, source_of(config, items))


def sampled_training_data(config: PlatformConfig, hidden: frozenset[str] = frozenset()) -> TrainingData:
    """The catalogue, and a sample of the users: what the platform's own models are built and judged on.

    Args:
        config: the platform's, with ``training.engine: ray``.
        hidden: keys of items that are not shared.

    Raises:
        DataError: the items file or the shards cannot be used.
    """
    items, _ = describe_items(catalogue_of(config).items, config.catalogue.describe)
    rows = open_shards(config, items).sample(config.training.sample_users, read_exclusions(config.state / "store"))
    if rows.train.nnz == 0:
        raise DataError(f"{config.training.shards}: no interaction is left to train on")
    return TrainingData(
        user_ids=rows.user_ids,
        items=items,
        train=rows.train,
        validation=rows.validation,
        shared=shared_items(items, config.catalogue, hidden),
        cards_shared=config.catalogue.cards,
    )


def make_engine(config: PlatformConfig, data: TrainingData) -> Engine:
    """The engine over all users in the shards, but for those who are left out now.

    Raises:
        ConfigError: there is no cluster.
        DataError: the shards cannot be used.
    """
    from client.sharding.ray_engine import RayEngine
    from client.sharding.worker import ShardSource

    source = ShardSource(
        users=open_shards(config, data.items),
        shared_columns=data.shared_columns,
        excluded=read_exclusions(config.state / "store"),
        block_users=config.training.block_users,
    )
    return RayEngine(config.training, source)
