"""Table files of any known format as a lazy frame, with errors that name file, line and column, and show no row."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Literal

import polars as pl

from client.data.reading.dialect import Dialect, double_colons, find_dialect
from client.data.reading.names import is_header, plain
from client.data.reading.parquet import scan_parquet
from client.data.reading.text import scan_text
from common.config.data import FileConfig
from common.errors import DataError

_log = getLogger(__name__)

Kind = Literal["csv", "tsv", "parquet", "inter"]

_SUFFIXES: dict[str, Kind] = {
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
        section: of the configuration, for messages: ``interactions``, ``items`` or ``users``.
        frame: all columns as the file has them (text files: all as text), and ``row``.
        schema: column name to type, without ``row``.
        row: name of the column (int64) with each record's place, which no other column has: the line on which it begins in a
            text file, its number in Parquet; both from 1.
        dialect: how a text file is written; None for Parquet.
        recbole: whether column names carry a type, as in ``user_id:token``.
        rows: of Parquet, whose files say so; None for text.
    """

    path: Path
    section: str
    frame: pl.LazyFrame
    schema: dict[str, pl.DataType]
    row: str
    dialect: Dialect | None
    recbole: bool
    rows: int | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what was told from the file and not from its settings, for the cleaning report."""
        return () if self.dialect is None else self.dialect.notes

    def about_how_many(self) -> int:
        """Rows of Parquet, lines of text: polars counts in 32 bits, and numbers here in 64.

        Raises:
            DataError: as :meth:`collect`.
        """
        if self.rows is not None:
            return self.rows
        return int(self.collect(self.frame.select(pl.col(self.row).max()))[0].item())

    @property
    def place(self) -> Literal["line", "row"]:
        """Return what ``row`` counts."""
        return "row" if self.dialect is None else "line"

    def column(
        self, given: str | None, guesses: Sequence[str], *, setting: str, taken: Collection[str] = ()
    ) -> str | None:
        """The file's name of a column.

        Args:
            given: the name from the configuration, or None to guess.
            guesses: well-known names, the likeliest first; capitals, blanks, ``_`` and RecBole's types are ignored.
            setting: the configuration's key path, for messages.
            taken: columns that are something else, so that none of them is a guess.

        Returns:
            the column, or None where none is given and no guess fits.

        Raises:
            DataError: a column is given that the file has not.
        """
        if given is None:
            by_plain_name = {plain(name): name for name in reversed(self.schema) if name not in taken}
            return next((by_plain_name[guess] for guess in map(plain, guesses) if guess in by_plain_name), None)
        for name in self.schema:
            if given in (name, name.partition(":")[0]):
                return name
        nearest = difflib.get_close_matches(given, self.schema, n=1, cutoff=0.5) if self._shows_names() else []
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

    def check_type(self, column: str, allowed: Sequence[str], *, setting: str) -> None:
        """Refuse a Parquet column of a type that means nothing here.

        Args:
            column: the file's name of it.
            allowed: of ``text``, ``numbers``, ``dates``, ``truth`` and ``lists``.
            setting: the configuration's key path, for messages.

        Raises:
            DataError: names the column, its type, and what can be read.
        """
        dtype = self.schema[column]
        if not (isinstance(dtype, pl.Null) or any(_IS_OF[one](dtype) for one in allowed)):
            raise DataError(
                f"{self.path}: column {column!r} ({setting}) is of type {dtype}; what can be read there: {', '.join(allowed)}; "
                "convert it, or name another column"
            )

    def collect(self, *frames: pl.LazyFrame) -> list[pl.DataFrame]:
        """Run queries on this file together, with the streaming engine.

        Raises:
            DataError: the file is damaged or is not what its format says; names the line where that can be told.
        """
        try:
            return pl.collect_all(frames, engine="streaming")
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
            # polars' own message quotes the line, which holds ids.
            problem = "is damaged, or not a Parquet file" if self.dialect is None else "cannot be read as text"
        raise DataError(f"{self.path}: {problem}")

    def _shows_names(self) -> bool:
        """Whether the columns' names are no data, and are what is to be looked at."""
        if self.dialect is None or not self.dialect.header:
            return True
        return not self.dialect.hint and is_header(self.dialect.names)

    def _hint(self) -> str:
        return "" if self.dialect is None else self.dialect.hint

    def _columns(self) -> str:
        if self._hint():
            return self._hint()
        if self.dialect is not None and not self.dialect.header:
            return f"its columns are column_1 to column_{len(self.schema)}, since {self.section}.header is false"
        if self._shows_names():
            return f"its columns are {', '.join(self.schema)}"
        return (
            f"its first line does not look like a header: if it is data, set {self.section}.header: false, and the columns "
            f"are column_1 to column_{len(self.schema)}"
        )


def _is_list(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.List | pl.Array) and not pl.Series(dtype=dtype.inner).dtype.is_nested()


_IS_OF: dict[str, Callable[[pl.DataType], bool]] = {
    "text": lambda dtype: isinstance(dtype, pl.String),
    "numbers": lambda dtype: dtype.is_numeric(),
    "dates": lambda dtype: isinstance(dtype, pl.Date | pl.Datetime),
    "truth": lambda dtype: isinstance(dtype, pl.Boolean),
    "lists": _is_list,
}


def open_table(config: FileConfig, path: Path, section: str) -> TableFile:
    """Open ``path`` lazily: only its first records are read here.

    Args:
        config: its settings.
        path: the file, or a folder of Parquet files.
        section: of the configuration, for messages: ``interactions``, ``items`` or ``users``.

    Raises:
        DataError: there is no such file, it is empty, it has a header only, or its format cannot be told or read.
    """
    try:
        path.stat()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from None
    kind = _format(config, path, section)
    dialect, rows = None, None
    if kind == "parquet":
        parts = scan_parquet(path)
        schema, rows = parts.schema, sum(parts.counts)
        row = _unused(schema)
        frame = parts.numbered(row)
    elif path.is_dir():
        raise DataError(f"{path}: is a folder; name a file ({section}.path)")
    else:
        dialect = find_dialect(path, config, kind, section)
        schema = dict.fromkeys(dialect.names, pl.String())
        row = _unused(schema)
        frame = scan_text(path, dialect, row)
        for note in dialect.notes:
            _log.info("%s: %s", path, note)
    table = TableFile(path, section, frame, schema, row, dialect, recbole=kind == "inter", rows=rows)
    if table.collect(frame.select(row).head(1))[0].is_empty():
        raise DataError(f"{path}: has a header and no rows")
    return table


def _unused(schema: dict[str, pl.DataType]) -> str:
    row = "row"
    while row in schema:
        row = f"_{row}"
    return row


def _format(config: FileConfig, path: Path, section: str) -> Kind:
    if config.format != "auto":
        return config.format
    if path.is_dir():
        return "parquet"
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = _SUFFIXES.get(suffixes[-1].lower()) if suffixes else None
    if kind is None:
        hint = ""
        if double_colons(path):
            hint = '; its first line has "::" between fields: format: csv, separator: "::", and header: false if it is data'
        raise DataError(
            f"{path}: its name does not tell its format; set {section}.format: csv, tsv, parquet or inter{hint}"
        )
    return kind
