"""A text file as a lazy frame: its records stream through polars block by block, and their number is checked in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from client.data.reading.dialect import PIECE, Dialect
from client.data.reading.records import LARGEST_RECORD, Block, read_blocks
from common.errors import DataError


def scan_text(
    path: Path, dialect: Dialect, row: str, size: int = PIECE, *, largest: int = LARGEST_RECORD
) -> pl.LazyFrame:
    """All columns as text, null where a field is empty or missing.

    Args:
        path: the file.
        dialect: how it is written.
        row: name of one more column, int64: the line on which a record begins, from 1.
        size: bytes that are parsed together.
        largest: bytes that one record may have.

    Collecting it raises DataError as :func:`client.data.reading.records.read_blocks` does, or when a parser finds another
    number of records than there are.
    """
    schema = dict.fromkeys(dialect.names, pl.String()) | {row: pl.Int64()}

    def blocks(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = list(schema) if columns is None else columns
        left = n_rows
        for block in read_blocks(path, dialect, size, largest=largest):
            frame = _parse(path, dialect, block, [name for name in wanted if name != row])
            frame = pl.DataFrame([pl.Series(row, block.lines), *frame]).select(wanted)
            if left is not None:
                frame = frame.head(left)
                left -= len(frame)
            yield frame if predicate is None else frame.filter(predicate)
            if left == 0:
                return

    # Pure: two queries of one plan may share a pass over the file.
    return register_io_source(blocks, schema=schema, is_pure=True)


def _parse(path: Path, dialect: Dialect, block: Block, columns: Sequence[str]) -> pl.DataFrame:
    """The block's columns, by polars; a header of numbers stands for the names, which may be anything."""
    numbers = [dialect.names.index(name) for name in columns] or [0]
    header = dialect.delimiter.join(map(str, range(len(dialect.names)))) + "\n"
    try:
        frame = pl.read_csv(
            header.encode() + block.text,
            separator=dialect.delimiter,
            quote_char=dialect.quote,
            schema={str(number): pl.String for number in range(len(dialect.names))},
            columns=[str(number) for number in numbers],
        )
    except pl.exceptions.PolarsError:
        frame = None
    if frame is None or len(frame) != len(block):
        # polars' own message quotes the line, which holds ids.
        found = "cannot be read" if frame is None else f"hold {len(block):,} records, of which {len(frame):,} were read"
        raise DataError(
            f"{path}: lines {block.lines[0]} to {block.lines[-1]} {found}; check quote, escape and separator"
        )
    return frame.select(pl.col(str(number)).alias(name) for number, name in zip(numbers, columns, strict=False))
