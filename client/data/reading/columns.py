"""Columns of ids and texts: :mod:`client.data.reading.identifiers` for whole columns; apart, since serving has no polars."""

from __future__ import annotations

from typing import Final

import polars as pl

from client.data.reading.identifiers import identifier

_PLAIN: Final = r"^[!-~](?:[ -~]*[!-~])?$"
"""Printable ASCII without a blank at an end."""
_CHANGES: Final = r"^(?:(?i:null|nan|none|<na>|\\n)|[+-]?[0-9]+\.0+)$"
"""What is plain, and no id or a shorter one."""


def as_text(column: str, dtype: pl.DataType) -> pl.Expr:
    """A column of ids or names as text, null where a number is not finite.

    Whole numbers that were stored as floating point (as pandas does once one is missing) or as decimals lose their ``.0``,
    so that they meet the same ids in another file.
    """
    expression = pl.col(column)
    if dtype.is_float():
        whole = expression.cast(pl.Float64).cast(pl.Int128, strict=False)
        return (
            pl.when(expression.is_finite() & (expression == expression.floor()) & whole.is_not_null())
            .then(whole.cast(pl.String))
            .when(expression.is_finite())
            .then(expression.cast(pl.String))
        )
    if isinstance(dtype, pl.Decimal):
        return expression.cast(pl.String).str.replace(r"(\.\d*?)0+$", "${1}").str.strip_suffix(".")
    return expression.cast(pl.String)


def identifiers(column: str, dtype: pl.DataType) -> pl.Expr:
    """A column's ids as :func:`identifier` makes them, null where there is none."""
    text = as_text(column, dtype)
    if dtype.is_integer():
        return text
    return text.map_batches(_identifiers, return_dtype=pl.String, is_elementwise=True)


def texts(column: str, dtype: pl.DataType) -> pl.Expr:
    """A column's free text in form NFC without blanks around it, null where there is none; whole numbers without ``.0``."""
    text = as_text(column, dtype).str.normalize("NFC").str.strip_chars()
    return pl.when(text != "").then(text)


def _identifiers(column: pl.Series) -> pl.Series:
    """The ids of a batch: what is plain stays as it is, the rest goes through :func:`identifier`, each text once."""
    if column.str.contains(r"^[0-9]+$").all():
        return column
    odd = ~column.str.contains(_PLAIN) | column.str.contains(_CHANGES)
    if not odd.any():
        return column
    given = column.filter(odd).unique()
    found = pl.Series([identifier(text) for text in given.to_list()], dtype=pl.String)
    return column.replace_strict(given, found, default=column, return_dtype=pl.String)
