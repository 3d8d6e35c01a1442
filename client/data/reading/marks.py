"""Columns in which a file says of a row, or of its person, that it may be used or may not."""

from __future__ import annotations

import polars as pl

from client.data.reading.columns import as_text
from client.data.reading.files import TableFile
from common.config.data import MarkConfig


def is_marked(table: TableFile, mark: MarkConfig, setting: str) -> pl.Expr:
    """Whether a row's field is one of the values, as text without blanks around it, capitals not counting; never null.

    Args:
        table: the file.
        mark: the column, and its values that count.
        setting: the configuration's key path, for messages.

    Raises:
        DataError: there is no such column.
    """
    column = table.required_column(mark.column, (), setting=f"{setting}.column")
    values = [value.strip().lower() for value in mark.values]
    text = as_text(column, table.schema[column]).str.strip_chars().str.to_lowercase()
    return text.is_in(values).fill_null(False)


def mark_columns(table: TableFile, *marks: MarkConfig | None) -> set[str]:
    """The file's names of the columns of marks, which are no attributes."""
    found = (
        None if mark is None else table.column(mark.column, (), setting=f"{table.section}.column") for mark in marks
    )
    return {column for column in found if column is not None}
