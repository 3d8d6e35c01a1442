"""Everybody's list where users are in shards: a Parquet file a shard, each written by the worker that has read it.

.NAME.parts/job.json         what the parts were made from; parts of anything else are made anew
.NAME.parts/00000.parquet    whole or not there
NAME/                        the folder of all of them, once the last is there
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from client.batch.blocks import BatchLists
from client.batch.outputs import ListOutputs, StillTheSame, old_of, parts_of
from client.batch.run import BatchDone, BatchJob, job_digest, part_of_lists, recorded_of
from client.batch.users import SomeUsers
from client.data.reading.exclusions import Exclusions
from client.data.recorded import Event
from client.personalization.store import PlatformStore
from client.recommend.lists import ListMaker
from client.recommend.recommender import Recommender
from client.sharding.cluster import RayCluster
from client.sharding.shards import ShardedUsers
from client.sharding.worker import told_by_kind
from client.steering.hidden import HiddenItems
from common.deploy.locks import held
from common.errors import StoreError
from common.files import make_folder, write_atomically

_JOB: Final = "job.json"


@dataclass(frozen=True, eq=False)
class ListSource:
    """Holds what a worker needs to make lists; sent once.

    Attributes:
        users: the shards.
        job: what is asked for.
        version: of the model.
        folder: where parts go.
        events: what users did since training, by user id.
        excluded: who is left out.
        block_users: how many users are in memory at a time.
    """

    users: ShardedUsers
    job: BatchJob
    version: int
    folder: Path
    events: Mapping[str, tuple[Event, ...]]
    excluded: Exclusions
    block_users: int


def recommend_by_shards(
    job: BatchJob, users: ShardedUsers, cluster: RayCluster, block_users: int, tell: Callable[[str], None]
) -> BatchDone:
    """Write everybody's list into the folder ``job.output``; interrupted, the same job goes on where it was.

    Args:
        job: what is asked for; of all users.
        users: the shards.
        cluster: whose workers see the same folders as this process.
        block_users: how many users a worker has in memory at a time.
        tell: told how far it is.

    Raises:
        StoreError: there is no model, the folder cannot be written, or there is something else under its name.
    """
    if job.output.is_file():
        raise StoreError(f"{job.output}: is a file; where users are in shards, lists are a folder of Parquet files")
    version, parts, same = PlatformStore(job.store).current(), parts_of(job.output), StillTheSame(job.store)
    ListOutputs(job.store).note(job.output)
    make_folder(parts, mode=0o700)
    lock = parts.with_suffix(".lock")
    with held(lock, "crossfed-client recommend", mend="wait for its end, or name another folder", mode=0o600):
        events = recorded_of(job.store, job.rules, same.excluded)
        _begin(parts, _made_from(job, users, events, same.excluded))
        source = ListSource(users, job, version, parts, events, same.excluded, block_users)
        with cluster.told_plainly():
            told, task = cluster.put(source), cluster.task(lists_of_shard)
            under_way = cluster.few_at_a_time(task(told, shard) for shard in range(len(users.shards)))
            asked = []
            for ref in under_way:
                asked.append(ref)
                same.check()
                tell(f"shard {len(asked):,} of {len(users.shards):,}")
            count = sum(cluster.get(asked))
        same.check()
        _publish(parts, job.output)
    return BatchDone(count, 0, version)


def lists_of_shard(source: ListSource, shard: int) -> int:
    """Write the lists of one shard's users, unless they are there from before; how many rows they have."""
    return told_by_kind(lambda: _write_lists(source, shard), f"shard {shard}")


def _write_lists(source: ListSource, shard: int) -> int:
    path, job = source.folder / f"{shard:05d}.parquet", source.job
    model = _recommender(job.store, source.version, PlatformStore(job.store).signature())
    rules = job.rules
    if rules.meaning is None:
        rules = replace(rules, meaning="weight" if model.implicit else "rating")
    steered, frames, count = ListMaker(job.steering, HiddenItems(job.store)), [], 0
    for rows in source.users.blocks(shard, source.block_users, source.excluded):
        count += len(rows.user_ids)
        if path.exists():
            continue
        if not len(rows.user_ids):
            continue
        recommender = model.over(rows.user_ids, rows.known)
        lists = BatchLists(recommender, steered, job.k, job.scope, source.events, rules)
        some = SomeUsers(rows.user_ids, np.arange(len(rows.user_ids)), count)
        frames.append(part_of_lists(lists, some, threads=1))
    if frames:
        buffer = io.BytesIO()
        pl.concat(frames).write_parquet(buffer)
        write_atomically(path, buffer.getvalue())
    return count


@lru_cache(maxsize=1)
def _recommender(store: Path, version: int, signature: tuple[object, ...]) -> Recommender:
    """One a worker's process, which outlives the command that makes lists: another ``signature`` is another model."""
    return Recommender(PlatformStore(store).load(version))


def _made_from(
    job: BatchJob, users: ShardedUsers, events: Mapping[str, tuple[Event, ...]], excluded: Exclusions
) -> str:
    signature, hidden = PlatformStore(job.store).signature(), sorted(HiddenItems(job.store).current())
    return job_digest(job, (signature, users.made_from, users.shards, hidden, sorted(excluded.entries)), events)


def _begin(folder: Path, made_from: str) -> None:
    make_folder(folder, mode=0o700)
    kept, content = folder / _JOB, json.dumps({"digest": made_from}).encode()
    if not kept.exists() or kept.read_bytes() != content:
        for part in folder.glob("*.parquet"):
            part.unlink()
        write_atomically(kept, content)


def _publish(parts: Path, output: Path) -> None:
    """Give the folder its name; what was there under it goes."""
    old = old_of(output)
    shutil.rmtree(old, ignore_errors=True)
    try:
        (parts / _JOB).unlink()
        if output.exists():
            output.rename(old)
        parts.rename(output)
    except OSError as error:
        raise StoreError(f"{output}: cannot be written ({error.strerror}); run the command again") from error
    shutil.rmtree(old, ignore_errors=True)
