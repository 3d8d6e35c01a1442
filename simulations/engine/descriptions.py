"""Reads what further files say of the items: attributes joined by public key, beside those of the items file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from client.data.dataset import ItemTable
from client.data.reading.columns import identifiers
from client.data.reading.files import open_table
from client.data.reading.reader import as_numbers
from common.errors import DataError
from simulations.scenarios.sources import DescriptionsSource


def with_descriptions(items: ItemTable, sources: Sequence[DescriptionsSource], at: str) -> ItemTable:
    """``items`` with the columns of ``sources``; null where a file does not have the item.

    Args:
        items: the catalogue.
        sources: files, each joined by key.
        at: key path of ``sources``, for messages.

    Raises:
        DataError: a file cannot be used, none of its keys is one of the catalogue's, or a column is there already.
    """
    attributes = items.attributes
    for index, source in enumerate(sources):
        told = _read(source, f"{at}.{index}")
        twice = [name for name in told.columns if name in attributes.columns]
        if twice:
            raise DataError(f"{source.path}: the items have an attribute {twice[0]!r} already; leave it out of columns")
        keys = pl.DataFrame({"": items.keys}, schema={"": pl.String})
        joined = keys.join(told, on="", how="left", maintain_order="left")
        if keys.join(told, on="", how="semi").is_empty():
            raise DataError(
                f"{source.path}: describes none of the items; their keys look like {items.keys[0]!r}, see namespace and digits"
            )
        attributes = pl.concat([attributes, joined.drop("")], how="horizontal")
    return replace(items, attributes=attributes)


def _read(source: DescriptionsSource, at: str) -> pl.DataFrame:
    """Keys in a column without a name, and the columns that are asked for; the first row of each key."""
    table = open_table(source, source.path, "items")
    key = table.required_column(source.key_column, (), setting=f"{at}.key_column")
    columns = [table.required_column(name, (), setting=f"{at}.columns") for name in source.columns]
    public = identifiers(key, table.schema[key]).str.zfill(source.digits)
    [rows] = table.collect(table.frame.select(pl.format(f"{source.namespace}:{{}}", public).alias(""), *columns))
    rows = rows.filter(rows[""].is_not_null()).unique("", keep="first", maintain_order=True)
    return pl.concat([rows.select(""), as_numbers(rows.drop(""), source.decimal)], how="horizontal")
