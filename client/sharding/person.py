"""Finds one person in shards: copies of rows and of recorded feedback, in the newest ones and in those before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from client.sharding.erasing import files_of_shards, unreadable


def rows_in_shards(folder: Path, user: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Each file that holds the person, and the history in it.

    Args:
        folder: of the shards; it may not be there.
        user: an id in the form in which ids are compared.
        keys: of the catalogue; an item that it does not have is told by its column alone.

    Raises:
        StoreError: a file cannot be read.
    """
    found = []
    for path in files_of_shards(folder):
        try:
            rows = pl.scan_parquet(path, glob=False).filter(pl.col("user") == user).collect()
        except (pl.exceptions.PolarsError, OSError):
            raise unreadable(path) from None
        found += [{"file": str(path.relative_to(folder)), "history": _history(row, keys)} for row in rows.to_dicts()]
    return found


def _history(row: dict[str, Any], keys: Sequence[str]) -> list[dict[str, Any]]:
    entries = zip(row["items"], row["values"], row["times"], row["withheld"], strict=True)
    return [
        {
            "item": keys[column] if column < len(keys) else f"column {column}",
            "value": value,
            "time": time,
            "withheld": withheld,
        }
        for column, value, time, withheld in entries
    ]
