"""From columns of an items file to described attributes: the edge at which values get their final form, or are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from client.data.dataset import ItemTable
from client.data.described import Described
from client.data.reading.columns import as_text
from client.data.reading.values import is_nothing, listed, numbers, year_of
from common.attributes import (
    LONGEST_CATEGORY,
    LONGEST_TEXT,
    LONGEST_VECTOR,
    MOST_CATEGORIES,
    AttributeKind,
    Value,
    bounded,
    nfc,
    vector_of,
)
from common.config.attributes import DescribeConfig
from common.errors import DataError

_LARGEST_HALF = float(np.finfo(np.float16).max)
Values = list[Value | None]


def describe_items(
    items: ItemTable, describe: Mapping[str, DescribeConfig], at: str = "catalogue.describe"
) -> tuple[ItemTable, tuple[str, ...]]:
    """``items`` with the attributes that their platform declares to be public, and what was cut for the operator to read.

    Only these ever leave, and only on the cards of shared items: other columns of the file stay where they are.

    Args:
        items: as read.
        describe: what of the columns is public, and as what.
        at: key path of ``describe``, for messages.

    Raises:
        DataError: a column is not there, or its values are none of the kind; the message names the field and the mend.
    """
    kinds = {name: own.kind for name, own in describe.items()}
    notes: list[str] = []
    columns: dict[str, Values] = {}
    for name, own in describe.items():
        column = own.column or name
        if column not in items.attributes.columns:
            raise DataError(f"{at}.{name}: {_absent(column, items)}")
        columns[name], cut = _READERS[own.kind](items.attributes[column], own, f"{at}.{name}: column {column!r}")
        if cut:
            notes.append(f"{name}: {cut}")
        if not any(value is not None for value in columns[name]):
            notes.append(f"{name}: column {column!r} says nothing of any item")
    rows, left_out = _fitting(columns, len(items))
    notes += [
        f"{name}: left out of {n:,} items, whose descriptions are too large for a card" for name, n in left_out.items()
    ]
    declared = tuple(dict.fromkeys(own.column or name for name, own in describe.items()))
    return replace(items, further=Described.of_rows(kinds, rows), declared=declared), tuple(notes)


def _absent(column: str, items: ItemTable) -> str:
    there = ", ".join(items.attributes.columns) or "none"
    return (
        f"the items have no column {column!r} to describe; there are {there} (what the file calls title and genres is always "
        "described: another column for these is named at items.title_column and items.genres_column)"
    )


def _fitting(columns: Mapping[str, Values], n: int) -> tuple[list[dict[str, Value]], dict[str, int]]:
    """One description an item that fits its card, and of how many items an attribute was left out for that."""
    rows, left_out = list[dict[str, Value]](), dict[str, int]()
    for item in range(n):
        told = {name: value for name, values in columns.items() if (value := values[item]) is not None}
        kept, dropped = bounded(told)
        rows.append(kept)
        for name in dropped:
            left_out[name] = left_out.get(name, 0) + 1
    return rows, left_out


def _category(column: pl.Series, config: DescribeConfig, where: str) -> tuple[Values, str]:
    if isinstance(column.dtype, pl.List | pl.Array):
        raise DataError(f"{where} holds several values an item; set kind: categories, here and in plan.attributes")
    found, cut = _cut_after(LONGEST_CATEGORY, column, where)
    named: Values = [None if value is None or is_nothing(str(value)) else value for value in found]
    return named, f"{cut:,} values are cut after {LONGEST_CATEGORY} characters" if cut else ""


def _categories(column: pl.Series, config: DescribeConfig, where: str) -> tuple[Values, str]:
    if isinstance(column.dtype, pl.List | pl.Array):
        inner = column.dtype.inner
        if inner.is_nested():
            what = "structs" if isinstance(inner, pl.Struct) else "lists"
            raise DataError(f"{where} holds lists of {what}; give one list of texts or numbers an item")
        given = [None if own is None else [nfc(str(one)) for one in own if one is not None] for own in column.to_list()]
    else:
        given = [
            None if text is None else listed(text) or text.split(config.separator) for text in _texts(column, where)
        ]
    several, long = 0, 0
    found: Values = []
    for own in given:
        named = {one.strip().casefold(): one.strip() for one in own or () if not is_nothing(one)}
        several += len(named) > MOST_CATEGORIES
        long += any(len(one) > LONGEST_CATEGORY for one in named.values())
        cut = dict.fromkeys(one[:LONGEST_CATEGORY].strip() for one in list(named.values())[:MOST_CATEGORIES])
        found.append(tuple(cut) or None)
    notes = [f"of {several:,} items only the first {MOST_CATEGORIES} values are kept"] if several else []
    notes += [f"{long:,} items have values that are cut after {LONGEST_CATEGORY} characters"] if long else []
    return found, "; ".join(notes)


def _number(column: pl.Series, config: DescribeConfig, where: str) -> tuple[Values, str]:
    said: tuple[str, ...] = ()
    if isinstance(column.dtype, pl.Date | pl.Datetime):
        moments = column.cast(pl.Datetime("us")).to_list()
        given, found = moments, [None if moment is None else year_of(moment) for moment in moments]
        said = ("dates are read as years",)
    elif column.dtype.is_numeric():
        given = column.cast(pl.Float64, strict=False).fill_nan(None).to_list()
        found = [number if number is not None and np.isfinite(number) else None for number in given]
    elif column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        given = [None if text is None or is_nothing(text) else text for text in _texts(column, where)]
        found, said = numbers(given)
    else:
        raise DataError(f"{where} holds {column.dtype} and no numbers; set kind: category, or give a column of numbers")
    told = sum(value is not None for value in given)
    lost = told - sum(value is not None for value in found)
    if told and lost == told and not column.dtype.is_numeric():
        raise DataError(
            f"{where} holds no number at all ($ 3.50, 1,200, 3,5 and 2016-07-01 are read, 12 oz and 1/7/16 are not); "
            "set kind: category or text, here and in plan.attributes"
        )
    lost_note = (f"{lost:,} values are no numbers and count as missing",) if lost else ()
    return list(found), "; ".join((*lost_note, *said))


def _text(column: pl.Series, config: DescribeConfig, where: str) -> tuple[Values, str]:
    if isinstance(column.dtype, pl.List | pl.Array):
        raise DataError(f"{where} holds lists; set kind: categories, or kind: vector for numbers")
    found, cut = _cut_after(LONGEST_TEXT, column, where)
    return found, f"{cut:,} texts are cut after {LONGEST_TEXT:,} characters" if cut else ""


def _cut_after(longest: int, column: pl.Series, where: str) -> tuple[Values, int]:
    """Texts of at most ``longest`` characters, and how many were longer."""
    texts = list(_texts(column, where))
    cut = sum(text is not None and len(text) > longest for text in texts)
    return [None if text is None else text[:longest].strip() for text in texts], cut


def _vector(column: pl.Series, config: DescribeConfig, where: str) -> tuple[Values, str]:
    vectors = [_numbers_in(value, where) for value in column.to_list()]
    lengths = {len(one) for one in vectors if one is not None}
    if len(lengths) > 1:
        raise DataError(f"{where} holds vectors of {min(lengths)} to {max(lengths)} numbers; all must be of one length")
    if lengths and not 0 < max(lengths) <= LONGEST_VECTOR:
        raise DataError(
            f"{where} holds vectors of {max(lengths):,} numbers; a card holds 1 to {LONGEST_VECTOR:,}: reduce them, for "
            "instance by items.reduction"
        )
    known = [one for one in vectors if one is not None and np.isfinite(one).all()]
    if any(np.abs(one).max() > _LARGEST_HALF for one in known):
        raise DataError(
            f"{where} holds numbers above {_LARGEST_HALF:,.0f}, which half precision cannot hold; scale them"
        )
    found: Values = [None if one is None or not np.isfinite(one).all() else vector_of(one) for one in vectors]
    lost = sum(one is not None for one in vectors) - len(known)
    return found, f"{lost:,} vectors are not finite and count as missing" if lost else ""


def _numbers_in(value: Any, where: str) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Of a list, or of a text with blanks or commas between numbers, in brackets or not."""
    if value is None or (isinstance(value, str) and is_nothing(value)):
        return None
    try:
        given = _without_brackets(value).replace(",", " ").split() if isinstance(value, str) else value
        numbers = np.atleast_1d(np.asarray([np.nan if one is None else float(one) for one in given], dtype=np.float64))
    except (TypeError, ValueError):
        raise DataError(
            f"{where} holds what is no list of numbers; set another kind, here and in plan.attributes"
        ) from None
    return numbers if len(numbers) else None


def _without_brackets(text: str) -> str:
    text = text.strip()
    return text[1:-1] if text[:1] + text[-1:] in ("[]", "()", "{}") else text


def _texts(column: pl.Series, where: str) -> list[str | None]:
    """Texts in form NFC without blanks around them; None where there is none."""
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        raise DataError(f"{where} holds {column.dtype} and no text; give another column, or another kind")
    name = column.name
    stripped = (
        column.to_frame().select(as_text(name, column.dtype).str.normalize("NFC").str.strip_chars())[name].to_list()
    )
    return [text.strip() or None if text else None for text in stripped]


_READERS: Mapping[AttributeKind, Callable[[pl.Series, DescribeConfig, str], tuple[Values, str]]] = {
    "category": _category,
    "categories": _categories,
    "number": _number,
    "text": _text,
    "vector": _vector,
}
