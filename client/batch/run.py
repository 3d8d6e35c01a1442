"""``crossfed-client recommend --all``: from a model store to a file with everybody's list."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from client.batch.blocks import BatchLists
from client.batch.outputs import ListOutputs, StillTheSame
from client.batch.parts import PartedFile
from client.batch.users import AskedUsers, Everybody, ListedUsers, SomeUsers
from client.data.reading.exclusions import Exclusions
from client.data.recorded import Event, EventRules
from client.personalization.store import PlatformStore
from client.recommend.answers import Scope
from client.recommend.feedback_file import FEEDBACK_LOG, read_events
from client.recommend.lists import ListMaker
from client.recommend.recommender import Recommender
from client.steering.hidden import HiddenItems
from common.config.serving import SteeringConfig

_PART_USERS: Final = 5_000
_PART_ROWS: Final = 4_000_000
_TELL_SECONDS: Final = 1.0
_COLUMNS: Final = {"user_id": pl.String, "rank": pl.UInt32, "item_key": pl.String, "score": pl.Float32}


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """Holds what is asked for.

    Attributes:
        store: of the model.
        output: Parquet: ``user_id``, ``rank`` from 1, ``item_key``, ``score``; a row an item.
        users: a file with one id a line; None: everybody whom the model or recorded feedback knows.
        k: longest list.
        scope: of the items.
        steering: as the platform configures it.
        rules: what recorded events count for; where they do not say, as the model needs them.
    """

    store: Path
    output: Path
    users: Path | None
    k: int
    scope: Scope
    steering: SteeringConfig
    rules: EventRules


@dataclass(frozen=True)
class BatchDone:
    """How many users have a list, how many of those asked for nobody knows, and the store's version."""

    users: int
    unknown: int
    version: int


def recommend_to_file(
    job: BatchJob,
    tell: Callable[[str], None],
    *,
    threads: int | None = None,
    part_users: int = _PART_USERS,
    tell_seconds: float = _TELL_SECONDS,
) -> BatchDone:
    """Write everybody's list; interrupted, the same job goes on where it was.

    Args:
        job: what is asked for.
        tell: told how far it is.
        threads: as many as there are cores unless given.
        part_users: users whose lists are held in memory, and are lost where the command is interrupted; fewer of long lists.
        tell_seconds: how often to tell, at most.

    Raises:
        DataError: the file of users cannot be read.
        StoreError: there is no model, or the file cannot be written.
    """
    store, same = PlatformStore(job.store), StillTheSame(job.store)
    if (oldest := job.rules.oldest(time.time())) is not None:
        store.forget_older(oldest)
    version, signature = store.current(), store.signature()
    users, unknown = write_lists(
        job,
        signature,
        Recommender(store.load()),
        tell,
        same=same,
        threads=threads,
        part_users=part_users,
        tell_seconds=tell_seconds,
    )
    return BatchDone(users, unknown, version)


def write_lists(
    job: BatchJob,
    signature: Sequence[object],
    recommender: Recommender,
    tell: Callable[[str], None],
    *,
    same: StillTheSame,
    threads: int | None = None,
    part_users: int = _PART_USERS,
    tell_seconds: float = _TELL_SECONDS,
) -> tuple[int, int]:
    """Write the lists of a loaded model: how many users have one, and how many of those asked for nobody knows.

    Guarantees: what it holds beside the model and recorded events does not grow with the number of users, but for the place of
    each one's row (16 bytes).
    """
    rules = job.rules
    if rules.meaning is None:
        rules = replace(rules, meaning="weight" if recommender.implicit else "rating")
    events, hidden = recorded_of(job.store, rules, same.excluded), HiddenItems(job.store)
    lists = BatchLists(recommender, ListMaker(job.steering, hidden), job.k, job.scope, events, rules)
    asked: AskedUsers = (
        Everybody(recommender, events) if job.users is None else ListedUsers(job.users, recommender, events)
    )
    part_users = max(1, min(part_users, _PART_ROWS // lists.longest))
    total, written, since, count = len(asked), 0, 0, 0
    started, told = time.monotonic(), 0.0
    ListOutputs(job.store).note(job.output)
    made_from = [*signature, asked.digest(), sorted(hidden.current()), sorted(same.excluded.entries), part_users]
    with PartedFile(job.output, {"format": 2, "digest": job_digest(job, made_from, events)}) as file:
        for count, some in enumerate(asked.parts(part_users), 1):
            same.check()
            written += len(some.ids)
            if not file.has(count - 1):
                file.write(count - 1, part_of_lists(lists, some, threads or os.cpu_count()))
                since += len(some.ids)
            if (now := time.monotonic()) - told > tell_seconds:
                told = now
                tell(f"{some.asked:,} of {total:,} users, {since / max(now - started, 1e-9):,.0f} a second")
        if not count:
            count = 1
            file.write(0, pl.DataFrame(schema=_COLUMNS))
        same.check()
        file.finish(count)
    return written, asked.unknown


def part_of_lists(lists: BatchLists, some: SomeUsers, threads: int | None) -> pl.DataFrame:
    """The lists of some users, blocks of them side by side: products and selection let go of the interpreter."""
    step = lists.block_users
    blocks = [slice(start, start + step) for start in range(0, len(some.ids), step)]
    histories = lists.histories_of(some.rows)
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda block: lists.of(some.ids[block], some.rows[block], histories), blocks))
    items, scores = np.concatenate([one.items for one in found]), np.concatenate([one.scores for one in found])
    users, places = np.nonzero(items >= 0)
    return pl.DataFrame(
        {
            "user_id": pl.Series(some.ids, dtype=pl.String).gather(users),
            "rank": pl.Series(places + 1, dtype=pl.UInt32),
            "item_key": lists.keys.gather(items[users, places]),
            "score": pl.Series(scores[users, places], dtype=pl.Float32),
        },
        schema=_COLUMNS,
    )


def recorded_of(store: Path, rules: EventRules, excluded: Exclusions) -> dict[str, tuple[Event, ...]]:
    """Return what users did since training, of those who are not left out."""
    path = store / FEEDBACK_LOG
    if not path.exists():
        return {}
    recorded = read_events(path, rules)
    found: defaultdict[str, list[Event]] = defaultdict(list)
    rows = zip(recorded.user_ids, recorded.item_keys, recorded.values.tolist(), recorded.times.tolist(), strict=True)
    oldest = rules.oldest(time.time())
    for user, key, value, at in rows:
        if oldest is None or at >= oldest:
            found[user].append(Event(key, value, at))
    return {user: tuple(events) for user, events in found.items() if user not in excluded}


def job_digest(job: BatchJob, made_from: Sequence[object], events: Mapping[str, tuple[Event, ...]]) -> str:
    """Hex digest of all that lists depend on: a change of any of it changes lists. Ids stand in it as one digest.

    Args:
        job: what is asked for.
        made_from: the model's files, whom lists are of, and what is left out or hidden.
        events: what users did since training.
    """
    content = repr((made_from, job.k, job.scope, job.steering))
    digest = sha256(content.encode("utf-8", "surrogatepass"))
    for user in sorted(events):
        digest.update(repr((user, events[user])).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
