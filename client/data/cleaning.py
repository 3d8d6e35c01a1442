"""From files to a user-item matrix: rows first, then one user at a time, then counts over all users.

The first two stages look at one user's rows alone: with a catalogue from the items file, taking a user away leaves
every other history as it was, to the bit. The third does not, and stands apart (:mod:`client.data.filters`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.data.dataset import PlatformData, UserItemMatrix
from client.data.filters import fit_count_filters
from client.data.items import Catalogue, catalogue_from_file, catalogue_from_ids, select_items
from client.data.reader import InteractionsFile, open_interactions, read_profiles
from client.data.report import EXAMPLES, CleaningReport, Dropped, nothing_left
from common.config.data import CleaningConfig, DataConfig
from common.errors import DataError

__all__ = ["CleaningReport", "filter_by_counts", "load_before_count_filters", "load_platform_data"]


def load_platform_data(config: DataConfig, *, platform: str | None = None) -> PlatformData:
    """Read and clean all of a platform's data, for training on all of it.

    To evaluate, split :func:`load_before_count_filters` first and use
    :func:`client.data.split.filter_by_training_counts`, so that no filter has seen what is held out.

    Args:
        config: files, columns and rules.
        platform: the platform's name, the namespace of items that have no public id.

    Raises:
        DataError: a file cannot be used, or cleaning leaves nothing; says which rule dropped what.
        ConfigError: items need keys of the platform's own and it has no usable name.
    """
    return filter_by_counts(load_before_count_filters(config, platform=platform), config.cleaning)


def load_before_count_filters(config: DataConfig, *, platform: str | None = None) -> PlatformData:
    """As :func:`load_platform_data`, without ``min_item_interactions`` and ``k_core``.

    Guarantees: with a catalogue from the items file, a user's history depends on that file and the user's rows only.
    """
    source = open_interactions(config.interactions)
    if config.feedback == "explicit" and source.value_column is None:
        raise DataError(
            f"{source.table.path}: feedback: explicit needs a column of ratings; set interactions.value_column"
        )
    catalogue = catalogue_from_file(config.items, platform) if config.items.path is not None else None
    rules = _row_rules(source, config.cleaning, catalogue)
    judged = _judge_rows(source, rules, catalogue)
    log, users, item_ids = _survey(source, judged, rules)
    if catalogue is None:
        catalogue = catalogue_from_ids(item_ids, config.items.namespace, platform)
    rows = _collect_rows(source, judged, users, catalogue)
    rows = _clean_histories(rows, len(catalogue.items), config, log)
    if rows.is_empty():
        raise DataError(nothing_left(log.source, log.rows_read, tuple(log.dropped)))
    matrix = _matrix(rows, len(users), len(catalogue.items), timed=source.time_column is not None)
    _note_oddities(rows, source, config, log)
    log.notes += catalogue.notes
    return _assemble(matrix, users["user"], catalogue, config, log)


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
            dropped.append(Dropped(one.reason, lost))
        matrix = matrix.select_entries(kept)
    if not matrix.nnz:
        raise DataError(nothing_left(data.report.source, data.report.rows_read, data.report.dropped + tuple(dropped)))
    items = np.flatnonzero(np.logical_and.reduce([one.items for one in filters]))
    users = np.flatnonzero(matrix.row_lengths)
    matrix = matrix.select_users(users).select_items(items)
    return replace(
        data,
        user_ids=tuple(data.user_ids[user] for user in users),
        items=select_items(data.items, items),
        interactions=matrix,
        users=None if data.users is None else data.users[users],
        report=data.report.after_filter(tuple(dropped), rows=matrix.nnz, users=len(users), items=len(items)),
    )


@dataclass
class _Log:
    """The report in the making."""

    source: str
    rows_read: int
    dropped: list[Dropped]
    notes: tuple[str, ...] = ()

    def keep(self, rows: pl.DataFrame, kept: pl.Series, reason: str) -> pl.DataFrame:
        """The rows where ``kept``, after noting the others."""
        lost = rows["row"].filter(~kept)
        if len(lost):
            self.dropped.append(Dropped(reason, len(lost), tuple(lost.sort().head(EXAMPLES))))
        return rows.filter(kept)


def _row_rules(source: InteractionsFile, cleaning: CleaningConfig, catalogue: Catalogue | None) -> dict[str, pl.Expr]:
    """Reason → whether a row is to go. The first that holds counts."""
    rules = {
        "without a user": pl.col("user").is_null(),
        "without an item": pl.col("item").is_null(),
        "with an unreadable time": pl.col("time_unreadable"),
    }
    if source.time_column is not None and cleaning.missing_times == "drop":
        rules["without a time"] = pl.col("time").is_null()
    if source.value_column is not None:
        rules["whose value is missing or not a finite number"] = ~pl.col("value").is_finite().fill_null(False)
    if cleaning.value_range is not None:
        low, high = cleaning.value_range
        rules[f"with a value outside {low:g} to {high:g}"] = ~pl.col("value").cast(pl.Float64).is_between(low, high)
    if catalogue is not None:
        rules["of an item that is not in the items file"] = pl.col("column").is_null()
    return rules


def _judge_rows(source: InteractionsFile, rules: dict[str, pl.Expr], catalogue: Catalogue | None) -> pl.LazyFrame:
    """All rows, lazily, with ``column`` (where a catalogue is known) and ``reason`` (str; null: the row stays)."""
    frame = source.frame
    if catalogue is not None:
        frame = frame.join(catalogue.columns.lazy(), on="item", how="left")
    return frame.with_columns(reason=pl.coalesce(pl.when(broken).then(pl.lit(why)) for why, broken in rules.items()))


def _survey(
    source: InteractionsFile, judged: pl.LazyFrame, rules: dict[str, pl.Expr]
) -> tuple[_Log, pl.DataFrame, pl.Series]:
    """First pass over the file: what goes and why; users (``user_row``, ``user``) and item ids by their first row."""
    kept, gone = judged.filter(pl.col("reason").is_null()), judged.filter(pl.col("reason").is_not_null())
    [total, reasons, users, items] = source.table.collect(
        judged.select(rows=pl.len()),
        gone.group_by("reason").agg(rows=pl.len(), examples=pl.col("row").bottom_k(EXAMPLES)),
        kept.group_by("user").agg(row=pl.col("row").min()),
        kept.group_by("item").agg(row=pl.col("row").min()),
    )
    found = {why: Dropped(why, rows, tuple(sorted(examples))) for why, rows, examples in reasons.iter_rows()}
    log = _Log(str(source.table.path), total.item(), [found[why] for why in rules if why in found])
    if users.is_empty():
        raise DataError(nothing_left(log.source, log.rows_read, tuple(log.dropped)))
    return log, users.sort("row").select("user").with_row_index("user_row"), items.sort("row")["item"]


def _collect_rows(
    source: InteractionsFile, judged: pl.LazyFrame, users: pl.DataFrame, catalogue: Catalogue
) -> pl.DataFrame:
    """Second pass: the rows that stay, as numbers only (24 bytes each), by user and time, missing times first."""
    if "column" not in judged.collect_schema():
        judged = judged.join(catalogue.columns.lazy(), on="item")
    rows = judged.filter(pl.col("reason").is_null()).join(users.lazy(), on="user")
    [collected] = source.table.collect(rows.select("user_row", "column", "value", "time", "row"))
    return collected.sort("user_row", "time", "row")


def _clean_histories(rows: pl.DataFrame, n_items: int, config: DataConfig, log: _Log) -> pl.DataFrame:
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


def _note_oddities(rows: pl.DataFrame, source: InteractionsFile, config: DataConfig, log: _Log) -> None:
    missing = rows["time"].null_count()
    if source.time_column is None:
        log.notes += ("there is no time column: the order of the rows is taken as the order in time",)
    elif missing:
        log.notes += (f"{missing:,} rows without a time are kept as their users' oldest",)
    if config.feedback == "explicit" and rows["value"].n_unique() == 1:
        log.notes += (f"all ratings are {rows['value'][0]:g}: there is nothing to learn from them but their mean",)


def _assemble(
    matrix: UserItemMatrix, user_ids: pl.Series, catalogue: Catalogue, config: DataConfig, log: _Log
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
        log.source, log.rows_read, matrix.nnz, tuple(log.dropped), len(users), len(items), log.notes
    )
    return PlatformData(tuple(ids), items, matrix, config.feedback, profiles, report)
