"""Parquet files, one or a folder of parts, as a lazy frame of types that the readers know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from client.data.reading.columns import as_text
from common.errors import DataError

Schema = dict[str, pl.DataType]


def scan_parquet(path: Path) -> tuple[pl.LazyFrame, Schema]:
    """One file, or all of a folder's ``.parquet`` files in order of their names, as one table.

    Categories are text. A column that is text in one part and numbers in another is text.

    Raises:
        DataError: it cannot be read, a folder has no parts, or they do not fit together; names the part and the column.
    """
    parts = _parts(path)
    schemas = [_schema(part) for part in parts]
    common = _common(parts, schemas)
    if all(schema == schemas[0] for schema in schemas):
        hive = any("=" in folder for part in parts for folder in part.relative_to(path).parts[:-1])
        frame = (
            pl.scan_parquet(path, glob=False, hive_partitioning=True) if hive else pl.scan_parquet(parts, glob=False)
        )
        frame = _converted(frame, schemas[0], common)
        return frame, dict(frame.collect_schema()) if hive else common
    frames = [
        _converted(pl.scan_parquet(part, glob=False), schema, common).select(list(common))
        for part, schema in zip(parts, schemas, strict=True)
    ]
    return pl.concat(frames), common


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
        problem = "cannot be read as parquet; is it damaged, or another format?"
    raise DataError(f"{part}: {problem}")


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
    return frame.with_columns(
        _in_type(name, dtype, common[name]).alias(name) for name, dtype in schema.items() if dtype != common[name]
    )


def _in_type(name: str, dtype: pl.DataType, target: pl.DataType) -> pl.Expr:
    if isinstance(target, pl.String):
        return as_text(name, dtype)
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return column.cast(target)
