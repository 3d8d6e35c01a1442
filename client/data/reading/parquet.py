"""Parquet files, one or a folder of parts, as a lazy frame of types that the readers know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

import polars as pl

from client.data.reading.columns import as_text
from common.errors import DataError

Schema = dict[str, pl.DataType]
MOST_ROWS: Final = 2**32 - 2
"""How many rows polars can number in one frame, and count: in 32 bits."""


@dataclass(frozen=True)
class ParquetTable:
    """One file, or a folder of parts, as one table.

    Attributes:
        frames: lazy; the rows in order, in runs of as many parts as polars can number.
        counts: rows of each frame.
        schema: column name to type; of all frames.
    """

    frames: tuple[pl.LazyFrame, ...]
    counts: tuple[int, ...]
    schema: Schema

    def numbered(self, row: str) -> pl.LazyFrame:
        """All rows, behind a column ``row``, int64, of their numbers from 1."""
        found = []
        for frame, before in zip(self.frames, accumulate(self.counts, initial=1), strict=False):
            number = (pl.col(row).cast(pl.Int64) + before).alias(row)
            found.append(frame.with_row_index(row).with_columns(number))
        return found[0] if len(found) == 1 else pl.concat(found)


def scan_parquet(path: Path, most: int = MOST_ROWS) -> ParquetTable:
    """One file, or all of a folder's ``.parquet`` files in order of their names, as one table.

    Categories are text. A column that is text in one part and numbers in another is text.

    Args:
        path: the file or the folder.
        most: rows that one frame may have, unless a single part has more.

    Raises:
        DataError: it cannot be read, a folder has no parts, or they do not fit together; names the part and the column.
    """
    parts = _parts(path)
    schemas = [_schema(part) for part in parts]
    common, alike = _common(parts, schemas), all(schema == schemas[0] for schema in schemas)
    hive = alike and any("=" in folder for part in parts for folder in part.relative_to(path).parts[:-1])
    if hive:
        # What the names of folders below this one hold, whichever of them a frame is of.
        whole = pl.scan_parquet(path, glob=False, hive_partitioning=True).collect_schema()
        common = {name: common.get(name, dtype) for name, dtype in whole.items()}
    frames, counts = [], []
    for group, count in _groups(parts, most):
        if alike:
            frame = pl.scan_parquet([parts[number] for number in group], glob=False, hive_partitioning=hive)
            frames.append(_converted(frame, dict(frame.collect_schema()), common))
        else:
            frames.append(
                pl.concat(
                    _converted(pl.scan_parquet(parts[number], glob=False), schemas[number], common) for number in group
                )
            )
        counts.append(count)
    return ParquetTable(tuple(frames), tuple(counts), common)


def _groups(parts: Sequence[Path], most: int) -> Iterator[tuple[list[int], int]]:
    """Numbers of parts that follow one another, with up to ``most`` rows together, and how many those are."""
    group: list[int] = []
    rows = 0
    for number, part in enumerate(parts):
        count = _rows(part)
        if group and rows + count > most:
            yield group, rows
            group, rows = [], 0
        group.append(number)
        rows += count
    yield group, rows


def _rows(part: Path) -> int:
    """As the file's own end says."""
    try:
        return int(pl.scan_parquet(part, glob=False).select(pl.len()).collect().item())
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise _unreadable(part) from None


def _parts(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    # Spark and others leave hidden files and _SUCCESS beside the parts.
    parts = sorted(
        part
        for part in path.rglob("*.parquet")
        if part.is_file() and not any(name.startswith((".", "_")) for name in part.relative_to(path).parts)
    )
    if not parts:
        raise DataError(f"{path}: is a folder without .parquet files; name a file")
    return parts


def _schema(part: Path) -> Schema:
    try:
        with part.open("rb") as file:  # by its path, polars would take * and [ in a name for patterns
            return dict(pl.read_parquet_schema(file))
    except OSError as error:
        problem = f"cannot be read: {error.strerror}" if error.strerror else "cannot be read as parquet"
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise _unreadable(part) from None
    raise DataError(f"{part}: {problem}")


def _unreadable(part: Path) -> DataError:
    return DataError(f"{part}: cannot be read as parquet; is it damaged, or another format?")


def _common(parts: Sequence[Path], schemas: Sequence[Schema]) -> Schema:
    """Return what each column becomes, so that all parts have it alike."""
    first = schemas[0]
    found = {name: _plain_type(dtype) for name, dtype in first.items()}
    for part, schema in zip(parts[1:], schemas[1:], strict=True):
        for name in first.keys() ^ schema.keys():
            lacking, other = (parts[0], part) if name in schema else (part, parts[0])
            raise DataError(f"{lacking}: has no column {name!r}, which {other.name} in the same folder has")
        for name, dtype in schema.items():
            found[name] = _meeting(found[name], _plain_type(dtype), f"{part}: column {name!r}", parts[0])
    return found


def _meeting(one: pl.DataType, other: pl.DataType, what: str, first: Path) -> pl.DataType:
    if one == other:
        return one
    if all(isinstance(dtype, pl.String) or dtype.is_numeric() for dtype in (one, other)):
        return pl.String()
    if all(isinstance(dtype, pl.Date | pl.Datetime) for dtype in (one, other)):
        return pl.Datetime("us")
    raise DataError(f"{what} is of type {other}, in {first.name} it is {one}; write all parts with the same types")


def _plain_type(dtype: pl.DataType) -> pl.DataType:
    return pl.String() if isinstance(dtype, pl.Categorical | pl.Enum) else dtype


def _converted(frame: pl.LazyFrame, schema: Schema, common: Schema) -> pl.LazyFrame:
    """``frame`` with the columns of ``common``, in that order and of those types."""
    return frame.select(
        pl.col(name) if schema[name] == dtype else _in_type(name, schema[name], dtype).alias(name)
        for name, dtype in common.items()
    )


def _in_type(name: str, dtype: pl.DataType, target: pl.DataType) -> pl.Expr:
    if isinstance(target, pl.String):
        return as_text(name, dtype)
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return column.cast(target)
