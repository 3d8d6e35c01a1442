"""Table files of any known format as a lazy frame, with errors that name file, line and column."""

from __future__ import annotations

import csv
import difflib
import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from common.config.data import FileConfig
from common.errors import DataError

ROW = "_row_number"
"""The column with each row's number, from 1 at the first row below the header."""

_SUFFIXES: dict[str, Literal["csv", "tsv", "parquet", "inter"]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".inter": "inter",
    ".item": "inter",
    ".user": "inter",
}


@dataclass(frozen=True)
class TableFile:
    """One file, opened lazily: its rows stream from disk when a frame made from ``frame`` is collected.

    Attributes:
        path: the file.
        frame: all columns as the file has them (text files: all as text), and :data:`ROW` (uint32).
        schema: column name to type, without :data:`ROW`.
        text_separator: between the fields of a text file; None for Parquet.
        recbole: whether column names carry a type, as in ``user_id:token``.
    """

    path: Path
    frame: pl.LazyFrame
    schema: dict[str, pl.DataType]
    text_separator: str | None
    recbole: bool

    def column(self, given: str | None, guesses: Sequence[str], *, setting: str) -> str | None:
        """The file's name of a column.

        Args:
            given: the name from the configuration, or None to guess.
            guesses: well-known names, the likeliest first; capitals, blanks, ``_`` and RecBole's types are ignored.
            setting: the configuration's key path, for messages.

        Returns:
            the column, or None where none is given and no guess fits.

        Raises:
            DataError: a column is given that the file has not.
        """
        if given is None:
            by_plain_name = {_plain(name): name for name in reversed(self.schema)}
            return next((by_plain_name[guess] for guess in map(_plain, guesses) if guess in by_plain_name), None)
        for name in self.schema:
            if given in (name, name.partition(":")[0]):
                return name
        nearest = difflib.get_close_matches(given, self.schema, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise DataError(f"{self.path}: has no column {given!r} ({setting}); {self._columns()}{hint}")

    def required_column(self, given: str | None, guesses: Sequence[str], *, setting: str) -> str:
        """As :meth:`column`, where one must be found.

        Raises:
            DataError: a column is given that the file has not, or none can be guessed.
        """
        column = self.column(given, guesses, setting=setting)
        if column is None:
            raise DataError(f"{self.path}: none of its columns looks like {setting}; {self._columns()}; set {setting}")
        return column

    def collect(self, *frames: pl.LazyFrame) -> list[pl.DataFrame]:
        """Run queries on this file together, with the streaming engine.

        Raises:
            DataError: the file is damaged or is not what its format says; names the line where that can be told.
        """
        try:
            return pl.collect_all(frames, engine="streaming")
        except (pl.exceptions.PolarsError, OSError):
            # polars' own message quotes the line, which holds ids.
            problem = self._diagnose()
        raise DataError(f"{self.path}: {problem}")

    def _columns(self) -> str:
        return f"its columns are {', '.join(self.schema)}"

    def _diagnose(self) -> str:
        if self.text_separator is None:
            return "is damaged, or not a Parquet file"
        return _first_bad_line(self.path, self.text_separator) or "cannot be read as text; check quotes and separator"


def open_table(config: FileConfig, path: Path) -> TableFile:
    """Open ``path`` lazily: only its header is read here.

    Raises:
        DataError: there is no such file, it is empty, it has a header only, or its format cannot be told or read.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    kind = _format(config, path)
    separator = None if kind == "parquet" else config.separator or ("," if kind == "csv" else "\t")
    try:
        if separator is None:
            frame = pl.scan_parquet(path, row_index_name=ROW, row_index_offset=1)
        else:
            frame = pl.scan_csv(
                path,
                separator=separator,
                has_header=config.header,
                with_column_names=None if config.header else _number_columns,
                infer_schema=False,
                quote_char=None if kind == "inter" else '"',
                row_index_name=ROW,
                row_index_offset=1,
                glob=False,
            )
        schema = dict(frame.collect_schema())
    except pl.exceptions.NoDataError:
        raise DataError(f"{path}: is empty") from None
    except (pl.exceptions.PolarsError, OSError):
        raise DataError(f"{path}: cannot be read as {kind}; is it damaged, or another format?") from None
    schema.pop(ROW)
    table = TableFile(path, frame, schema, separator, recbole=kind == "inter")
    if table.collect(frame.select(ROW).head(1))[0].is_empty():
        raise DataError(f"{path}: has a header and no rows")
    return table


def lines_above(table: TableFile, rows: int) -> int | None:
    """What to add to a row's number to have its line in the file; None where rows are not lines, as with Parquet.

    Args:
        table: the file.
        rows: how many it has.
    """
    if table.text_separator is None:
        return None
    lines, last = 0, b"\n"
    with gzip.open(table.path, "rb") if table.path.suffix == ".gz" else table.path.open("rb") as content:
        while block := content.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    lines += last != b"\n"
    return lines - rows if lines - rows in (0, 1) else None


def _format(config: FileConfig, path: Path) -> Literal["csv", "tsv", "parquet", "inter"]:
    if config.format != "auto":
        return config.format
    if path.is_dir():
        return "parquet"
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = _SUFFIXES.get(suffixes[-1].lower()) if suffixes else None
    if kind is None:
        raise DataError(f"{path}: its name does not tell its format; set format to csv, tsv, parquet or inter")
    return kind


def _number_columns(names: list[str]) -> list[str]:
    # Spelt out, because polars has numbered them from 1 and from 0.
    return [f"column_{number}" for number in range(1, len(names) + 1)]


def _plain(name: str) -> str:
    return re.sub(r"[\s_.-]", "", name.partition(":")[0]).lower()


def _first_bad_line(path: Path, separator: str) -> str | None:
    """What is wrong with the first line that polars could not take, without quoting it."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="") as text:
        reader = csv.reader(text, delimiter=separator)
        try:
            width = len(next(reader))
            for fields in reader:
                if len(fields) > width:
                    return f"line {reader.line_num} has {len(fields)} fields, the first line has {width}"
        except UnicodeDecodeError:
            return "is not UTF-8 text; convert it, for instance with: iconv -f latin1 -t utf8"
        except (csv.Error, EOFError, OSError) as error:
            return f"line {reader.line_num + 1} cannot be read: {error}"
    return None
