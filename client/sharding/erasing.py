"""Takes whoever is left out of shards: of the newest ones, of those before, and of what a partition that was cut short left."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from client.data.reading.exclusions import Exclusions
from client.sharding.shards import GROUP, LOCK, PARTS, ROWS
from common.deploy.locks import held
from common.errors import InUseError, StoreError
from common.files import write_atomically


def forget_in_shards(folder: Path, excluded: Exclusions) -> int:
    """Empty the rows of whoever is left out; how many files had any. Safe to repeat, and beside a run that reads.

    A row stays, without id and content: blocks of a run that has begun end where they did, and nobody else is missed or
    counted twice.

    Args:
        folder: of the shards; it may not be there.
        excluded: who is left out.

    Raises:
        StoreError: a file cannot be read or written; all others are done.
    """
    _forget_rows(folder)
    changed, problem = 0, None
    for path in files_of_shards(folder):
        try:
            changed += _forget_in(path, excluded)
        except StoreError as error:
            problem = error
    if problem is not None:
        raise problem
    return changed


def shards_that_hold(folder: Path, excluded: Exclusions) -> list[str]:
    """Names of the files in which somebody who is left out stands.

    Raises:
        StoreError: a file cannot be read.
    """
    return [str(path.relative_to(folder)) for path in files_of_shards(folder) if _gone(path, excluded).any()]


def _forget_rows(folder: Path) -> None:
    """Remove what a partition that was killed was dividing; one that runs does so itself, and then looks who is left out."""
    if (folder / ROWS).exists():
        try:
            with held(folder / LOCK, "crossfed, erasing", mend="wait for its end", mode=0o600):
                shutil.rmtree(folder / ROWS, ignore_errors=True)
        except InUseError:
            return


def files_of_shards(folder: Path) -> Iterator[Path]:
    """The files of the newest shards, of those before, and of what a partition that was cut short left."""
    yield from sorted(folder.glob(f"{PARTS}*/*.parquet"))


def _gone(path: Path, excluded: Exclusions) -> pl.Series:
    try:
        users = pl.scan_parquet(path, glob=False).select("user").collect()["user"].to_list()
    except (pl.exceptions.PolarsError, OSError):
        # polars' own message may quote what it has read.
        raise unreadable(path) from None
    return pl.Series("gone", excluded.mask(users), dtype=pl.Boolean)


def unreadable(path: Path) -> StoreError:
    """Return the error of a shard that cannot be read."""
    return StoreError(f"{path}: cannot be read, or is damaged; delete it, and run crossfed-client data partition again")


def _forget_in(path: Path, excluded: Exclusions) -> bool:
    gone = _gone(path, excluded)
    if not gone.any():
        return False
    frame = pl.read_parquet(path, glob=False)
    kept = [pl.when(~gone).then(pl.col("user")).alias("user")]
    kept += [
        pl.when(~gone).then(pl.col(name)).otherwise(pl.lit([], dtype=frame.schema[name])).alias(name)
        for name in frame.columns
        if name != "user"
    ]
    buffer = io.BytesIO()
    frame.with_columns(kept).write_parquet(buffer, row_group_size=GROUP)
    write_atomically(path, buffer.getvalue())
    return True
