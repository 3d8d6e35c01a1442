"""Says what is wrong with rows that cannot be read, or ids that are not what they look like: counted, named, with the mend.

Only counts leave this module: an id or a value that is shown would be somebody's.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from client.data.reading.reader import InteractionsFile
from client.data.report import Dropped

VALUE_UNREADABLE = "whose value is missing or not a finite number"
TIME_UNREADABLE = "with an unreadable time"

_DECIMAL_COMMA = r"^\s*[-+]?[0-9]+,[0-9]+\s*$"
_OTHER_DATE = r"^\s*[0-9]{1,2}[/.-][0-9]{1,2}[/.-][0-9]{2,4}(?:\D|$)"
# Spreadsheets shorten long numbers so; a sign in the exponent tells it from ids of letters and digits.
_SCIENTIFIC = r"^[0-9](?:[.,][0-9]+)?[eE]\+[0-9]{1,3}$"


def spelt_as_float(column: str, frame: pl.LazyFrame) -> pl.Expr:
    """How many ids of a text column are whole numbers with ``.0``."""
    if frame.collect_schema()[column] != pl.String:
        return pl.lit(0)
    return (pl.col(column).str.ends_with(".0") & pl.col(column).str.contains(r"^[+-]?[0-9]+\.0$")).sum()


def notes_on_floats(users: int, items: int) -> Iterator[str]:
    """Notes on so many rows whose user or item id was written with ``.0``."""
    for count, what in ((users, "user"), (items, "item")):
        if count:
            yield (
                f"{count:,} rows have the {what} id written as 3.0, as programs write whole numbers once one is missing; "
                "it is taken as 3"
            )


def notes_on_dropped(source: InteractionsFile, judged: pl.LazyFrame, dropped: list[Dropped]) -> Iterator[str]:
    """Another look at rows that were dropped for what they hold: whether they are written in a way that is known.

    Args:
        source: the file.
        judged: its rows, with ``reason``.
        dropped: by reason.
    """
    reasons = {one.reason for one in dropped if not one.recorded}

    def count(reason: str, column: str, pattern: str) -> int:
        return _count(source, judged, reason, column, pattern) if reason in reasons else 0

    if commas := count(VALUE_UNREADABLE, "given_value", _DECIMAL_COMMA):
        yield f'{commas:,} values have a decimal comma, as 3,5: set interactions.decimal: ","'
    if dates := count(TIME_UNREADABLE, "given_time", _OTHER_DATE):
        yield (
            f"{dates:,} times are dates such as 12/31/2024 or 31.12.2024, of which nobody can tell day and month apart for "
            "sure: write 2024-12-31, or seconds since 1970"
        )


def note_on_scientific(ids: pl.Series, what: str, where: str) -> Iterator[str]:
    """A note if ids (str) look like long numbers that a spreadsheet has shortened."""
    if count := int(ids.str.contains(_SCIENTIFIC).sum()):
        yield (
            f"{count:,} {what} of the {where} are written as 9.78E+12: a spreadsheet has cut their digits off, so that "
            "different ones look alike; export that column as text"
        )


def _count(source: InteractionsFile, judged: pl.LazyFrame, reason: str, column: str, pattern: str) -> int:
    """How many of the rows that went for ``reason`` have a text of a pattern in ``column``."""
    if judged.collect_schema()[column] != pl.String:
        return 0
    gone = judged.filter(pl.col("reason") == reason)
    [counts] = source.table.collect(gone.select(pl.col(column).str.contains(pattern).sum()))
    return int(counts.item())
