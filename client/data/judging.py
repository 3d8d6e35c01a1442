"""Which rows stay: each row of the file, and each recorded event, is judged alone; what goes is counted by reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.data.admission import Rule, rules_of_persons
from client.data.items import Catalogue, own_prefix
from client.data.reading.exclusions import NOBODY, Exclusions
from client.data.reading.identifiers import LONGEST
from client.data.reading.reader import InteractionsFile
from client.data.recognise import (
    TIME_UNREADABLE,
    VALUE_UNREADABLE,
    notes_on_dropped,
    notes_on_floats,
    spelt_as_float,
)
from client.data.recorded import FIRST_ROW, LARGEST_VALUE, RecordedEvents
from client.data.report import EXAMPLES, Dropped, Place, nothing_left
from common.config.data import DataConfig
from common.errors import EmptyDataError


@dataclass
class CleaningLog:
    """The report in the making.

    Attributes:
        source: the interactions file.
        rows_read: rows of the file, and recorded events.
        sequences: int64: the numbers of the recorded events, in order of their rows.
        dropped, place, notes: as :class:`~client.data.report.CleaningReport` has them.
    """

    source: str
    rows_read: int
    sequences: NDArray[np.int64]
    dropped: list[Dropped]
    place: Place
    notes: tuple[str, ...] = ()

    def keep(self, rows: pl.DataFrame, kept: pl.Series, reason: str) -> pl.DataFrame:
        """The rows where ``kept``, after noting the others, which a setting asks to drop."""
        lost = rows["row"].filter(~kept)
        for recorded in (False, True):
            of_kind = lost.filter((lost >= FIRST_ROW) == recorded)
            if len(of_kind):
                self.drop(reason, len(of_kind), of_kind.sort().head(EXAMPLES), asked=True)
        return rows.filter(kept)

    def drop(self, reason: str, rows: int, examples: Iterable[int], *, asked: bool) -> None:
        """Note ``rows`` rows, all of the file or all recorded, with the first of their row numbers."""
        found = sorted(examples)
        recorded = found[0] >= FIRST_ROW
        if recorded:
            found = [int(self.sequences[row - FIRST_ROW]) for row in found]
        self.dropped.append(Dropped(reason, rows, tuple(found), asked=asked, recorded=recorded))

    def nothing_left(self) -> EmptyDataError:
        """The error where no row stays."""
        dropped = tuple(self.dropped)
        return EmptyDataError(nothing_left(self.source, self.rows_read, dropped, notes=self.notes, place=self.place))


@dataclass(frozen=True)
class JudgedRows:
    """The rows of a file and the events recorded since, with the first rule that each breaks.

    Attributes:
        source: the file.
        rules: reason → whether a setting asks for it, in the order in which they count.
        frame: lazy: as :class:`InteractionsFile`, with ``column`` (uint32; where a catalogue is known) and ``reason`` (str;
            null: the row stays).
        events: what was recorded.
    """

    source: InteractionsFile
    rules: dict[str, bool]
    frame: pl.LazyFrame
    events: RecordedEvents

    @classmethod
    def of(
        cls,
        source: InteractionsFile,
        events: RecordedEvents,
        config: DataConfig,
        catalogue: Catalogue | None,
        platform: str | None,
        excluded: Exclusions = NOBODY,
    ) -> JudgedRows:
        """Judge every row by ``config``, once the frame is collected."""
        frame = source.frame
        if catalogue is not None:
            frame = frame.join(catalogue.columns.lazy(), on="item", how="left")
        if len(events):
            rows = _as_rows(events, catalogue, config, platform)
            frame = pl.concat([frame, rows.lazy()], how="diagonal")
        rules = _row_rules(source, config, catalogue, recorded=bool(len(events)))
        rules[1:1] = rules_of_persons(source, config, excluded)
        first = pl.coalesce(pl.when(rule.broken).then(pl.lit(rule.reason)) for rule in rules)
        return cls(source, {rule.reason: rule.asked for rule in rules}, frame.with_columns(reason=first), events)

    @property
    def kept(self) -> pl.LazyFrame:
        return self.frame.filter(pl.col("reason").is_null())

    def survey(self) -> tuple[CleaningLog, pl.DataFrame, pl.Series]:
        """First pass over the file: what goes and why; users (``user_row``, ``user``) and item ids by their first row.

        Raises:
            EmptyDataError: no row stays.
        """
        gone = self.frame.filter(pl.col("reason").is_not_null())
        floats = [spelt_as_float(column, self.frame).alias(column) for column in ("given_user", "given_item")]
        [total, reasons, users, items] = self.source.table.collect(
            self.frame.select(pl.len().alias("rows"), *floats),
            gone.group_by("reason", recorded=pl.col("row") >= FIRST_ROW).agg(
                rows=pl.len(), examples=pl.col("row").bottom_k(EXAMPLES)
            ),
            self.kept.group_by("user").agg(row=pl.col("row").min()),
            self.kept.group_by("item").agg(row=pl.col("row").min()),
        )
        rows = int(total["rows"].item())
        log = CleaningLog(str(self.source.table.path), rows, self.events.sequences, [], self.source.table.place)
        order = {reason: place for place, reason in enumerate(self.rules)}
        for reason, _, count, examples in sorted(reasons.iter_rows(), key=lambda row: (order[row[0]], row[1])):
            log.drop(reason, count, examples, asked=self.rules[reason])
        log.notes += tuple(notes_on_dropped(self.source, self.frame, log.dropped))
        log.notes += tuple(notes_on_floats(int(total["given_user"].item()), int(total["given_item"].item())))
        if users.is_empty():
            raise log.nothing_left()
        return log, users.sort("row").select("user").with_row_index("user_row"), items.sort("row")["item"]


def _row_rules(
    source: InteractionsFile, config: DataConfig, catalogue: Catalogue | None, *, recorded: bool
) -> list[Rule]:
    """Rules for single rows. The first that holds counts."""
    cleaning = config.cleaning
    rules = [Rule("without a user", pl.col("user").is_null())]
    if recorded and catalogue is None:
        rules.append(Rule("of an item of another namespace", pl.col("foreign").fill_null(False)))
    too_long = (pl.col(name).str.len_chars() > LONGEST for name in ("user", "item"))
    rules += [
        Rule("without an item", pl.col("item").is_null()),
        Rule(f"with an id of more than {LONGEST} characters", pl.any_horizontal(*too_long)),
        Rule(TIME_UNREADABLE, pl.col("time_unreadable")),
    ]
    if source.time_column is not None and cleaning.missing_times == "drop":
        rules.append(Rule("without a time", pl.col("time").is_null(), asked=True))
    if source.value_column is not None:
        rules.append(Rule(VALUE_UNREADABLE, ~pl.col("value").is_finite().fill_null(False)))
    if config.feedback == "explicit":
        rules.append(Rule(f"with a rating beyond ±{LARGEST_VALUE:,g}", pl.col("value").abs() > LARGEST_VALUE))
    if cleaning.value_range is not None:
        low, high = cleaning.value_range
        outside = ~pl.col("value").cast(pl.Float64).is_between(low, high)
        rules.append(Rule(f"with a value outside {low:g} to {high:g}", outside, asked=True))
    if catalogue is not None:
        rules.append(Rule("of an item that is not in the items file", pl.col("column").is_null()))
    return rules


def _as_rows(
    events: RecordedEvents, catalogue: Catalogue | None, config: DataConfig, platform: str | None
) -> pl.DataFrame:
    """Recorded events as rows of the file: with a catalogue ``column`` by key, else the id behind the own namespace."""
    frame = pl.DataFrame(
        {
            "row": np.arange(FIRST_ROW, FIRST_ROW + len(events), dtype=np.int64),
            "user": pl.Series(events.user_ids, dtype=pl.String),
            "key": pl.Series(events.item_keys, dtype=pl.String),
            "value": events.values,
            "time": events.times,
        }
    ).with_columns(time_unreadable=pl.lit(False))
    if catalogue is not None:
        keys = pl.DataFrame({"key": catalogue.items.keys}, schema={"key": pl.String})
        columns = keys.with_columns(column=pl.int_range(pl.len(), dtype=pl.UInt32))
        return frame.join(columns, on="key", how="left").with_columns(item=pl.col("key")).drop("key")
    prefix = own_prefix(config.items.namespace, platform)
    foreign = ~pl.col("key").str.starts_with(prefix)
    item = pl.when(~foreign).then(pl.col("key").str.slice(len(prefix)))
    return frame.with_columns(item=item, foreign=foreign).drop("key")
