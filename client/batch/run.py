"""``crossfed-client recommend --all``: from a model store to a file with everybody's list."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from client.batch.blocks import BatchLists, BlockLists
from client.batch.parts import PartedFile
from client.data.reading.exclusions import read_exclusions
from client.data.reading.identifiers import identifier
from client.data.recorded import Event, EventRules
from client.personalization.store import PlatformStore
from client.recommend.answers import Scope
from client.recommend.feedback_file import FEEDBACK_LOG, read_events
from client.recommend.lists import ListMaker
from client.recommend.recommender import Recommender
from client.scoring.topk import block_rows
from client.steering.hidden import HiddenItems
from common.config.serving import SteeringConfig
from common.errors import DataError

_PART_USERS: Final = 5_000
_TELL_SECONDS: Final = 1.0


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
        part_users: users whose lists are held in memory, and are lost where the command is interrupted.
        tell_seconds: how often to tell, at most.

    Raises:
        DataError: the file of users cannot be read.
        StoreError: there is no model, or the file cannot be written.
    """
    store = PlatformStore(job.store)
    version, signature = store.current(), store.signature()
    recommender = Recommender(store.load())
    rules = job.rules
    if rules.meaning is None:
        rules = replace(rules, meaning="weight" if recommender.implicit else "rating")
    events = _events(job.store, rules)
    hidden = HiddenItems(job.store)
    lists = BatchLists(recommender, ListMaker(job.steering, hidden), job.k, job.scope, events, rules)
    users = [*dict.fromkeys(_asked(job, recommender, events))]
    made_from = _made_from(job, signature, users, hidden.current(), events)
    unknown, started, told, since = 0, time.monotonic(), 0.0, 0
    with PartedFile(job.output, made_from) as file:
        numbers = range(max(1, -(-len(users) // part_users)))
        for number in numbers:
            some = users[number * part_users : (number + 1) * part_users]
            unknown += sum(not _known(user, recommender, events) for user in some)
            if not file.has(number):
                file.write(number, _part(lists, some, recommender, threads))
                since += len(some)
            if (now := time.monotonic()) - told > tell_seconds:
                told, done = now, min(len(users), (number + 1) * part_users)
                tell(f"{done:,} of {len(users):,} users, {since / max(now - started, 1e-9):,.0f} a second")
        file.finish(len(numbers))
    return BatchDone(len(users) - unknown, unknown, version)


def _part(lists: BatchLists, users: Sequence[str], recommender: Recommender, threads: int | None) -> pl.DataFrame:
    """Blocks side by side: their products let go of the interpreter."""
    # A product packs the items once, whatever the number of users: more of them cost less each.
    step = max(16, 2 * block_rows(max(len(recommender.own.linear), len(recommender.cross.linear))))
    blocks = [users[start : start + step] for start in range(0, len(users), step)]
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        found = [one for one, _ in pool.map(lists.of, blocks)]
    return pl.concat([_frame(block, one) for block, one in zip(blocks, found, strict=True)] or [_frame([], _EMPTY)])


def _frame(users: Sequence[str], found: BlockLists) -> pl.DataFrame:
    ids = pl.Series("user_id", users, dtype=pl.String)
    return pl.DataFrame(
        {
            "user_id": ids.gather(pl.Series(found.users, dtype=pl.UInt32)),
            "rank": pl.Series(found.ranks, dtype=pl.UInt32),
            "item_key": pl.Series(found.keys, dtype=pl.String),
            "score": pl.Series(found.scores, dtype=pl.Float32),
        }
    )


_EMPTY = BlockLists(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), (), np.zeros(0, dtype=np.float32))


def _known(user: str, recommender: Recommender, events: Mapping[str, tuple[Event, ...]]) -> bool:
    return user in events or recommender.row_of(user) >= 0


def _asked(job: BatchJob, recommender: Recommender, events: Mapping[str, tuple[Event, ...]]) -> Iterator[str]:
    if job.users is None:
        known = [identifier(user) or user for user in recommender.model.user_ids]
        yield from known
        yield from sorted(events.keys() - set(known))
        return
    try:
        with job.users.open(encoding="utf-8-sig") as lines:
            yield from (user for line in lines if (user := identifier(line)) is not None)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{job.users}: cannot be read as UTF-8 text with one user id a line ({error})") from None


def _events(store: Path, rules: EventRules) -> dict[str, tuple[Event, ...]]:
    """Return what users did since training, of those who are not left out."""
    path = store / FEEDBACK_LOG
    if not path.exists():
        return {}
    recorded, excluded = read_events(path, rules), read_exclusions(store)
    found: defaultdict[str, list[Event]] = defaultdict(list)
    rows = zip(recorded.user_ids, recorded.item_keys, recorded.values.tolist(), recorded.times.tolist(), strict=True)
    for user, key, value, at in rows:
        found[user].append(Event(key, value, at))
    return {user: tuple(events) for user, events in found.items() if user not in excluded}


def _made_from(
    job: BatchJob,
    signature: Sequence[object],
    users: Sequence[str],
    hidden: frozenset[str],
    events: Mapping[str, tuple[Event, ...]],
) -> dict[str, Any]:
    """A change of any of it changes lists; ids stand in it as one digest."""
    content = repr((signature, users, sorted(hidden), sorted(events.items()), job.k, job.scope, job.steering))
    return {"format": 1, "digest": sha256(content.encode("utf-8", "surrogatepass")).hexdigest()}
