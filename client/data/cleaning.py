"""From files to a user-item matrix: rows first, then one user at a time, then counts over all users.

The first two stages look at one user's rows alone: with a catalogue from the items file, taking a user away leaves
every other history as it was, to the bit. The third does not, and stands apart (:mod:`client.data.filters`). What users did
since the file was written goes through all of it as if it stood at the file's end (:mod:`client.data.recorded`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.data.dataset import PlatformData, UserItemMatrix
from client.data.filters import fit_count_filters
from client.data.items import Catalogue, catalogue_from_file, catalogue_from_ids, select_items
from client.data.judging import CleaningLog, JudgedRows
from client.data.reading.exclusions import NOBODY, Exclusions
from client.data.reading.reader import InteractionsFile, open_interactions, read_profiles
from client.data.recognise import note_on_scientific
from client.data.recorded import FIRST_ROW, LARGEST_VALUE, NO_EVENTS, SMALLEST_WEIGHT, RecordedEvents
from client.data.report import CleaningReport, Dropped, nothing_left
from common.config.data import CleaningConfig, DataConfig
from common.errors import DataError

__all__ = ["CleaningReport", "filter_by_counts", "load_before_count_filters", "load_platform_data"]


def load_platform_data(
    config: DataConfig,
    *,
    platform: str | None = None,
    described: Collection[str] = (),
    recorded: RecordedEvents = NO_EVENTS,
    excluded: Exclusions = NOBODY,
) -> PlatformData:
    """Read and clean all of a platform's data, for training on all of it.

    To evaluate, split :func:`load_before_count_filters` first and use
    :func:`client.data.split.filter_by_training_counts`, so that no filter has seen what is held out.

    Args:
        config: files, columns and rules.
        platform: the platform's name, the namespace of items that have no public id.
        described: columns of the items file that ``catalogue.describe`` names.
        recorded: what users did since the interactions file was written.
        excluded: whose rows and events are left out, as if they were in no file.

    Raises:
        DataError: a file cannot be used, or cleaning leaves nothing; says which rule dropped what.
        ConfigError: items need keys of the platform's own and it has no usable name.
    """
    data = load_before_count_filters(
        config, platform=platform, described=described, recorded=recorded, excluded=excluded
    )
    return filter_by_counts(data, config.cleaning)


def load_before_count_filters(
    config: DataConfig,
    *,
    platform: str | None = None,
    described: Collection[str] = (),
    recorded: RecordedEvents = NO_EVENTS,
    excluded: Exclusions = NOBODY,
) -> PlatformData:
    """As :func:`load_platform_data`, without ``min_item_interactions`` and ``k_core``.

    Guarantees: with a catalogue from the items file, a user's history depends on that file and the user's rows and recorded
    events only.
    """
    source = open_source(config)
    catalogue = None
    if config.items.path is not None:
        catalogue = catalogue_from_file(config.items, platform, described)
    return clean(source, config, catalogue, platform=platform, recorded=recorded, excluded=excluded)


def open_source(config: DataConfig) -> InteractionsFile:
    """The interactions file, opened.

    Raises:
        DataError: it cannot be used.
    """
    source = open_interactions(config.interactions)
    if config.feedback == "explicit" and source.value_column is None:
        raise DataError(
            f"{source.table.path}: feedback: explicit needs a column of ratings; set interactions.value_column"
        )
    return source


def clean(
    source: InteractionsFile,
    config: DataConfig,
    catalogue: Catalogue | None,
    *,
    platform: str | None = None,
    recorded: RecordedEvents = NO_EVENTS,
    excluded: Exclusions = NOBODY,
) -> PlatformData:
    """As :func:`load_before_count_filters`, of files that are open already: all users of them, or those of some users.

    Raises:
        EmptyDataError: nothing is left.
        DataError: a file cannot be used.
    """
    judged = JudgedRows.of(source, recorded, config, catalogue, platform, excluded)
    log, users, item_ids = judged.survey()
    if catalogue is None:
        catalogue = catalogue_from_ids(item_ids, config.items.namespace, platform)
    log.notes += tuple(note_on_scientific(item_ids, "item ids", "interactions"))
    rows = _collect_rows(judged, users, catalogue, by_order=config.interactions.time_format == "order")
    rows = _clean_histories(rows, len(catalogue.items), config, log)
    if rows.is_empty():
        raise log.nothing_left()
    timed = source.time_column is not None
    matrix = _matrix(rows, len(users), len(catalogue.items), timed=timed)
    _note_oddities(rows, source, config, log)
    log.notes += source.table.notes + catalogue.notes
    return _assemble(matrix, users["user"], catalogue, config, log, recorded=len(recorded), timed=timed)


def filter_by_counts(data: PlatformData, cleaning: CleaningConfig) -> PlatformData:
    """Apply ``min_item_interactions`` and ``k_core``, fitted on all of ``data``.

    Items that fall out leave the catalogue; users who keep nothing leave the data.

    Raises:
        DataError: nothing is left.
    """
    filters = fit_count_filters(data.interactions, cleaning)
    if not filters:
        return data
    matrix, dropped = data.interactions, []
    for one in filters:
        kept = one.entries(matrix)
        if lost := int(len(kept) - kept.sum()):
            dropped.append(Dropped(one.reason, lost, asked=True))
        matrix = matrix.select_entries(kept)
    report = data.report
    if not matrix.nnz:
        gone = report.dropped + tuple(dropped)
        raise DataError(nothing_left(report.source, report.rows_read, gone, place=report.place))
    items = np.flatnonzero(np.logical_and.reduce([one.items for one in filters]))
    users = np.flatnonzero(matrix.row_lengths)
    matrix = matrix.select_users(users).select_items(items)
    return replace(
        data,
        user_ids=tuple(data.user_ids[user] for user in users),
        items=select_items(data.items, items),
        interactions=matrix,
        users=None if data.users is None else data.users[users],
        report=report.after_filter(tuple(dropped), rows=matrix.nnz, users=len(users), items=len(items)),
    )


def _collect_rows(judged: JudgedRows, users: pl.DataFrame, catalogue: Catalogue, *, by_order: bool) -> pl.DataFrame:
    """Second pass: the rows that stay, as numbers only (28 bytes each), by user and time, missing times first."""
    rows = judged.kept
    if "column" not in rows.collect_schema():
        rows = rows.join(catalogue.columns.lazy(), on="item")
    rows = rows.join(users.lazy(), on="user").select("user_row", "column", "value", "time", "row")
    [collected] = judged.source.table.collect(rows)
    if by_order and len(judged.events):
        collected = _after_positions(collected)
    return collected.sort("user_row", "time", "row")


def _after_positions(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows whose times are positions in a user's history: recorded events, whose times are seconds, take the next ones."""
    recorded = pl.col("row") >= FIRST_ROW
    last = pl.col("time").filter(~recorded).max().over("user_row").fill_null(0)
    place = pl.struct("time", "row").rank("ordinal").over("user_row", "recorded")
    rows = rows.with_columns(recorded=recorded)
    moved = pl.when(recorded).then(last + place.cast(pl.Int64)).otherwise(pl.col("time"))
    return rows.with_columns(time=moved).drop("recorded")


def _clean_histories(rows: pl.DataFrame, n_items: int, config: DataConfig, log: CleaningLog) -> pl.DataFrame:
    """The rules that look at one user's history at a time, on rows sorted by user and time."""
    cleaning = config.cleaning
    pair = rows["user_row"].cast(pl.UInt64) * n_items + rows["column"]
    kept = pair.is_last_distinct() if cleaning.duplicates == "last" else pair.is_first_distinct()
    rows = log.keep(rows, kept, f"repeating a user and an item (the {cleaning.duplicates} one is kept)")
    if cleaning.positive_threshold is not None:
        liked = rows["value"] >= cleaning.positive_threshold
        rows = log.keep(rows, liked, f"with a value below {cleaning.positive_threshold:g}")
    if config.feedback == "implicit" and cleaning.implicit_weights == "value":
        rows = log.keep(rows, rows["value"] > 0, "with a weight that is not positive")
        rows = _bounded(rows, log)
    elif config.feedback == "implicit":
        rows = rows.with_columns(value=pl.lit(1.0, dtype=pl.Float32))
    if cleaning.max_history is not None:
        from_end = rows.select(pl.int_range(pl.len(), 0, -1).over("user_row")).to_series()
        rows = log.keep(rows, from_end <= cleaning.max_history, f"older than a user's latest {cleaning.max_history}")
    if cleaning.min_user_interactions > 1:
        length = rows.select(pl.len().over("user_row")).to_series()
        least = cleaning.min_user_interactions
        rows = log.keep(rows, length >= least, f"of a user with fewer than {least} interactions")
    return rows


def _bounded(rows: pl.DataFrame, log: CleaningLog) -> pl.DataFrame:
    """Weights within what training and its privacy are made for, whoever wrote them."""
    bounded = rows["value"].clip(SMALLEST_WEIGHT, LARGEST_VALUE)
    if moved := int((bounded != rows["value"]).sum()):
        log.notes += (f"{moved:,} weights below {SMALLEST_WEIGHT:g} or above {LARGEST_VALUE:,g} count as that",)
    return rows.with_columns(value=bounded)


def _matrix(rows: pl.DataFrame, n_users: int, n_items: int, *, timed: bool) -> UserItemMatrix:
    users = rows["user_row"].to_numpy()
    indptr = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))]).astype(np.int64)
    return UserItemMatrix(
        indptr=indptr,
        indices=rows["column"].cast(pl.Int32).to_numpy(),
        values=rows["value"].to_numpy(),
        times=_times(rows["time"], users) if timed else np.arange(len(users)) - indptr[users],
        n_items=n_items,
    )


def _times(times: pl.Series, users: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Missing times become the user's earliest known one, so that a row stays sorted; 0 where none is known."""
    if not times.null_count():
        return times.to_numpy()
    frame = pl.DataFrame({"time": times, "user": users})
    time = pl.col("time")
    return frame.select(time.fill_null(time.min().over("user")).fill_null(0))["time"].to_numpy()


def _note_oddities(rows: pl.DataFrame, source: InteractionsFile, config: DataConfig, log: CleaningLog) -> None:
    missing = rows["time"].null_count()
    if source.time_column is None:
        log.notes += ("there is no time column: the order of the rows is taken as the order in time",)
    elif missing:
        log.notes += (f"{missing:,} rows without a time are kept as their users' oldest",)
    if config.feedback == "explicit" and rows["value"].n_unique() == 1:
        log.notes += (f"all ratings are {rows['value'][0]:g}: there is nothing to learn from them but their mean",)


def _assemble(
    matrix: UserItemMatrix,
    user_ids: pl.Series,
    catalogue: Catalogue,
    config: DataConfig,
    log: CleaningLog,
    *,
    recorded: int,
    timed: bool,
) -> PlatformData:
    users = np.flatnonzero(matrix.row_lengths)
    matrix = matrix.select_users(users)
    items = catalogue.items
    if not config.catalogue_from_file:
        present = np.flatnonzero(matrix.item_counts())
        matrix, items = matrix.select_items(present), select_items(items, present)
    ids = user_ids[users]
    profiles = None if config.users is None else read_profiles(ids.to_list(), config.users)
    report = CleaningReport(
        source=log.source,
        rows_read=log.rows_read,
        rows_kept=matrix.nnz,
        dropped=tuple(log.dropped),
        users=len(users),
        items=len(items),
        notes=log.notes,
        recorded=recorded,
        place=log.place,
        timed=timed,
    )
    return PlatformData(tuple(ids), items, matrix, config.feedback, profiles, report)
