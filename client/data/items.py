"""A platform's catalogue: from its items file alone, or from the items that its interactions name."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.data.dataset import ItemTable
from client.data.reading.identifiers import item_key
from client.data.reading.reader import ItemRows, read_items
from client.data.recognise import note_on_scientific
from client.data.reduction import reduce_attributes
from common.config.data import ItemsConfig
from common.errors import ConfigError, DataError

T = TypeVar("T")

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*:\S(?:.*\S)?")


@dataclass(frozen=True)
class Catalogue:
    """A catalogue and how the interactions' item ids find its columns.

    Attributes:
        items: in column order.
        columns: ``item`` (str, unique; as in the interactions) and ``column`` (uint32).
        notes: for the cleaning report.
    """

    items: ItemTable
    columns: pl.DataFrame
    notes: tuple[str, ...]


def catalogue_from_file(config: ItemsConfig, platform: str | None, described: Collection[str] = ()) -> Catalogue:
    """The catalogue as the items file has it; no interaction is looked at (soundness rule 1).

    Items with the same key are one item: the interactions of both ids go to one column, the first one's title stays.

    Args:
        config: the file and its columns.
        platform: the platform's name, the namespace of keys of its own; needed where an item has no public id.
        described: columns that ``catalogue.describe`` names.

    Raises:
        DataError: the file cannot be used.
        ConfigError: a key of the platform's own is needed, and its name is missing or no namespace.
    """
    rows = read_items(config, described)
    notes = [f"items file: {note}" for note in rows.table.notes]
    frame, attributes = rows.frame, rows.attributes
    keyless = 0 if rows.public_column is None else frame["public"].null_count()
    if keyless and config.without_key == "drop":
        has_key = frame["public"].is_not_null()
        frame, attributes = frame.filter(has_key), attributes.filter(has_key)
        notes.append(f"{keyless:,} items without {rows.public_column!r} were left out")
    elif keyless:
        notes.append(f"{keyless:,} items without {rows.public_column!r} have a key of this platform's own")
    for column in ("id", "public"):
        notes += note_on_scientific(rows.frame[column], "ids", "items file")
    if rows.without_id:
        notes.append(f"{rows.without_id:,} rows of the items file have no id and were left out")
    keys = _keys(rows, frame, config, platform)
    first_of_key = keys.is_first_distinct()
    first_of_id = frame["id"].is_first_distinct()
    if merged := int((~first_of_key & first_of_id).sum()):
        notes.append(f"{merged:,} items share their key with another one and were merged with it")
    if repeated := int((~first_of_id).sum()):
        notes.append(f"{repeated:,} rows of the items file repeat an id; the first one counts")
    table = _table(frame.filter(first_of_key), keys.filter(first_of_key), attributes.filter(first_of_key))
    if config.reduction is not None:
        table, note = reduce_attributes(table, config.reduction)
        notes.append(note)
    position = {key: column for column, key in enumerate(table.keys)}
    columns = pl.DataFrame({"item": frame["id"], "column": [position[key] for key in keys]})
    columns = columns.filter(first_of_id).cast({"column": pl.UInt32})
    return Catalogue(table, columns, tuple(notes))


def catalogue_from_ids(ids: pl.Series, namespace: str | None, platform: str | None) -> Catalogue:
    """A catalogue of the ids that interactions name (str, unique), without titles.

    Raises:
        ConfigError: there is no namespace, and the platform's name is missing or no namespace.
    """
    prefix = own_prefix(namespace, platform)
    keys = tuple(f"{prefix}{item}" for item in ids)
    table = ItemTable(keys, keys, ((),) * len(keys), pl.DataFrame(height=len(keys)))
    columns = pl.DataFrame({"item": ids, "column": pl.int_range(len(ids), dtype=pl.UInt32, eager=True)})
    return Catalogue(table, columns, ())


def own_prefix(namespace: str | None, platform: str | None) -> str:
    """Return what stands before the id in a key, where no items file says otherwise.

    Raises:
        ConfigError: there is no namespace, and the platform's name is missing or no namespace.
    """
    return f"{namespace or _own_namespace(platform)}:"


def select_items(table: ItemTable, columns: NDArray[np.integer]) -> ItemTable:
    """The items at ``columns`` (int ``[k]``), in that order."""
    return ItemTable(
        keys=_pick(table.keys, columns),
        titles=_pick(table.titles, columns),
        genres=_pick(table.genres, columns),
        attributes=table.attributes[columns],
        further=table.further.select(columns),
        declared=table.declared,
    )


def _pick(values: Sequence[T], positions: NDArray[np.integer]) -> tuple[T, ...]:
    return tuple(values[position] for position in positions)


def _table(frame: pl.DataFrame, keys: pl.Series, attributes: pl.DataFrame) -> ItemTable:
    return ItemTable(
        keys=tuple(keys),
        titles=tuple(pl.select(pl.coalesce(frame["title"], keys)).to_series()),
        genres=tuple(tuple(genres) for genres in frame["genres"]),
        attributes=attributes,
    )


def _keys(rows: ItemRows, frame: pl.DataFrame, config: ItemsConfig, platform: str | None) -> pl.Series:
    """Namespaced keys (str, one per row of ``frame``): the public id where there is one, else the platform's own."""
    # Without a column for it, the id itself is public exactly when a namespace is set for it.
    public = frame["public"] if rows.public_column is not None or config.namespace is None else frame["id"]
    if config.namespace is not None:
        keys = config.namespace + ":" + public
    else:
        keys = pl.Series([None if key is None else item_key(key) for key in public], dtype=pl.String)
        unfit = frame["row"].filter(
            pl.Series([key is not None and not _KEY.fullmatch(key) for key in keys], dtype=pl.Boolean)
        )
        if len(unfit):
            raise DataError(
                f"{rows.table.path}: {rows.table.place} {unfit[0]}: {rows.public_column!r} holds a key without a namespace; "
                "set items.namespace, for instance imdb"
            )
    if keys.null_count():
        own = _own_namespace(platform) + ":" + frame["id"]
        keys = pl.select(pl.coalesce(keys, own)).to_series()
    return keys


def _own_namespace(platform: str | None) -> str:
    if platform is None or not _KEY.fullmatch(f"{platform}:x"):
        raise ConfigError(
            f"items need keys of this platform's own, but its name is {platform!r}: give it a name of letters, digits, "
            "'.', '_' and '-', or set items.namespace, or items.without_key: drop"
        )
    return platform
