"""Divides a platform's users into shards: rows by a hash of the user first, then each shard is cleaned by itself.

Cleaning looks at one user at a time and at the items file, so shards hold what cleaning all rows at once would give. Memory
holds one shard, whatever the number of rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from client.data.cleaning import clean, open_source
from client.data.reading.exclusions import ExclusionBook
from client.data.reading.reader import InteractionsFile
from client.data.recorded import RecordedEvents
from client.data.report import CleaningReport, Dropped
from client.deploy.loading import check_privacy_of_data, recorded_events, withheld_of
from client.sharding.erasing import forget_in_shards
from client.sharding.platform import catalogue_of, source_of
from client.sharding.shards import LOCK, ROWS, ShardedUsers, ShardWriter
from common.deploy.locks import held
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError, DataError, EmptyDataError
from common.files import make_folder

_ROWS_OF_SHARD: Final = 2_000_000
_LEAST_SHARDS: Final = 16
_MOST_SHARDS: Final = 1024
_NOTHING_LEFT: Final = "of users of whose shard nothing is left"


def partition_users(
    config: PlatformConfig, shards: int | None, tell: Callable[[str], None]
) -> tuple[ShardedUsers, CleaningReport]:
    """Write the shards of a platform.

    Args:
        config: the platform's; ``training.shards`` names the folder.
        shards: how many; None: one for two million rows, 16 at least and 1,024 at most.
        tell: told how far it is.

    Returns:
        what was written, and what cleaning dropped over all shards.

    Raises:
        ConfigError: what a user's history is depends on others, so that shards cannot be cleaned one by one.
        DataError: a file cannot be read or written.
        InUseError: another process writes shards there.
    """
    make_folder(config.training.shards, mode=0o700)
    lock = config.training.shards / LOCK
    with held(lock, "crossfed-client data partition", mend="wait for its end", mode=0o600):
        return _partition(config, shards, tell)


def _partition(
    config: PlatformConfig, shards: int | None, tell: Callable[[str], None]
) -> tuple[ShardedUsers, CleaningReport]:
    check_privacy_of_data(config)
    if found := config.data.settings_that_depend_on_other_users():
        raise ConfigError(f"{', '.join(f'data.{one}' for one in found)}: shards are cleaned one by one; leave it out")
    source, catalogue = open_source(config.data), catalogue_of(config)
    rows = source.table.about_how_many()
    count = shards or min(_MOST_SHARDS, max(_LEAST_SHARDS, -(-rows // _ROWS_OF_SHARD)))
    book = ExclusionBook(config.state / "store")
    recorded, excluded = recorded_events(config), book.current()
    writer = ShardWriter(config.training.shards, len(catalogue.items), source_of(config, catalogue.items))
    reports = []
    with _divided(source, count, config.training.shards) as parts:
        for number, part in enumerate(parts):
            tell(f"shard {number + 1:,} of {count:,}")
            events = _events_of(recorded, number, count)
            try:
                data = clean(part, config.data, catalogue, platform=config.name, recorded=events, excluded=excluded)
            except EmptyDataError:
                lost = int(part.frame.select(pl.len()).collect().item()) + len(events)
                reports.append(_empty(source, lost))
                continue
            writer.write(data.user_ids, data.interactions, withheld_of(data.interactions, data.user_ids, config))
            reports.append(data.report)
    report = _together(reports, len(catalogue.items))
    if not report.rows_kept:
        raise DataError(f"{report.render()}\nnothing is left; check the columns and the cleaning rules")
    if (left_out_meanwhile := book.current()) is not excluded:
        # Their erasure could not find what was not written yet.
        forget_in_shards(config.training.shards, left_out_meanwhile)
    return writer.finish(report.as_dict()), report


@contextmanager
def _divided(source: InteractionsFile, count: int, folder: Path) -> Iterator[Iterator[InteractionsFile]]:
    """The rows of ``source`` in ``count`` parts by user, in files that are there for the time being."""
    scratch = folder / ROWS
    shutil.rmtree(scratch, ignore_errors=True)
    make_folder(scratch, mode=0o700)
    try:
        by_user = pl.PartitionBy(scratch, key=_part_of(pl.col("user"), count).alias("part"), include_key=False)
        try:
            source.frame.sink_parquet(by_user, mkdir=True, compression="lz4")
        except (pl.exceptions.PolarsError, OSError):
            # polars' own message may quote a row.
            raise DataError(
                f"{source.table.path}: cannot be read, or {scratch} not written; is the disk full?"
            ) from None
        yield (_part(source, scratch / f"part={number}") for number in range(count))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _part_of(user: pl.Expr, count: int) -> pl.Expr:
    return (user.hash(seed=0) % count).cast(pl.UInt32)


def _part(source: InteractionsFile, folder: Path) -> InteractionsFile:
    files = sorted(folder.glob("*.parquet"))
    return replace(source, frame=pl.scan_parquet(files, glob=False) if files else source.frame.clear())


def _events_of(recorded: RecordedEvents, number: int, count: int) -> RecordedEvents:
    if not len(recorded):
        return recorded
    users = pl.DataFrame({"user": pl.Series(recorded.user_ids, dtype=pl.String)})
    [kept] = np.nonzero(users.select(_part_of(pl.col("user"), count) == number).to_series().to_numpy())
    return RecordedEvents(
        user_ids=tuple(recorded.user_ids[row] for row in kept),
        item_keys=tuple(recorded.item_keys[row] for row in kept),
        values=recorded.values[kept],
        times=recorded.times[kept],
        sequences=recorded.sequences[kept],
        through=recorded.through,
    )


def _empty(source: InteractionsFile, rows: int) -> CleaningReport:
    dropped = (Dropped(_NOTHING_LEFT, rows),) if rows else ()
    timed = source.time_column is not None
    return CleaningReport(str(source.table.path), rows, 0, dropped, 0, 0, place=source.table.place, timed=timed)


def _together(reports: Iterable[CleaningReport], n_items: int) -> CleaningReport:
    """One report of all shards."""
    first, *rest = reports
    dropped: dict[tuple[str, bool, bool], Dropped] = {}
    notes: dict[str, None] = dict.fromkeys(first.notes)
    for report in (first, *rest):
        for one in report.dropped:
            known = dropped.get((one.reason, one.asked, one.recorded))
            rows = one.rows if known is None else known.rows + one.rows
            dropped[one.reason, one.asked, one.recorded] = replace(known or one, rows=rows)
    return replace(
        first,
        rows_read=sum(report.rows_read for report in (first, *rest)),
        rows_kept=sum(report.rows_kept for report in (first, *rest)),
        recorded=sum(report.recorded for report in (first, *rest)),
        users=sum(report.users for report in (first, *rest)),
        items=n_items,
        dropped=tuple(dropped.values()),
        notes=tuple(notes),
    )
