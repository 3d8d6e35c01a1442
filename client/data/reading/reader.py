"""A platform's files, normalised: interactions stay lazy, items and users are read whole."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import polars as pl

from client.data.reading.columns import identifiers, texts
from client.data.reading.files import TableFile, open_table
from client.data.reading.identifiers import NO_ID
from client.data.reading.marks import is_marked, mark_columns
from client.data.reading.names import GENRE_NAMES, ITEM_NAMES, TIME_NAMES, TITLE_NAMES, USER_NAMES, VALUE_NAMES
from client.data.reading.values import listed
from common.config.data import InteractionsConfig, ItemsConfig, UsersConfig
from common.errors import DataError

_NO_GENRE = ("(no genres listed)", "unknown")
# A time beyond these would be after the year 2200, and so is in the next finer unit, in which it is March 1970 or later.
_IN_2200 = 7_258_118_400
_UNIX_SCALES = ((_IN_2200 * 10**6, 10**9), (_IN_2200 * 10**3, 10**6), (_IN_2200, 10**3))
_IDS = ("text", "numbers")
_ISO_FORMATS = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")


@dataclass(frozen=True)
class InteractionsFile:
    """Interactions as they are in the file, under normalised names, nothing dropped yet.

    Attributes:
        table: the file.
        frame: lazy; ``row`` (int64: a text file's line or the row of a Parquet file, from 1), ``user`` and ``item`` (str,
            null where missing), ``value`` (float32; null where missing or not a number; 1 where the file has no such column),
            ``time`` (int64: seconds since 1970 or a position; null where missing or unreadable), ``time_unreadable`` (bool);
            ``consent`` (bool; where the configuration names its column); and ``given_user``, ``given_item``,
            ``given_value``, ``given_time``: the columns as the file has them, null where it has none, to say what is wrong
            with what cannot be read.
        user_column: the file's own name.
        value_column: the file's own name, or None.
        time_column: the file's own name, or None.
    """

    table: TableFile
    frame: pl.LazyFrame
    user_column: str
    value_column: str | None
    time_column: str | None


def scan_interactions(config: InteractionsConfig) -> pl.LazyFrame:
    """The normalised lazy frame of :class:`InteractionsFile`.

    Raises:
        DataError: see :func:`open_interactions`.
    """
    return open_interactions(config).frame


def open_interactions(config: InteractionsConfig) -> InteractionsFile:
    """Open the interactions file; only its header is read here.

    Raises:
        DataError: the file is missing, empty or of unknown format, or a column cannot be found.
    """
    table = open_table(config, config.path, "interactions")
    user = table.required_column(config.user_column, USER_NAMES, setting="interactions.user_column")
    item = table.required_column(config.item_column, ITEM_NAMES, setting="interactions.item_column")
    if user == item:
        raise DataError(f"{table.path}: column {user!r} cannot be both interactions.user_column and .item_column")
    value = table.column(config.value_column, VALUE_NAMES, setting="interactions.value_column")
    time = table.column(config.time_column, TIME_NAMES, setting="interactions.time_column")
    for column, name in ((user, "user"), (item, "item")):
        table.check_type(column, _IDS, setting=f"interactions.{name}_column")
    if value is not None:
        table.check_type(value, ("text", "numbers", "truth"), setting="interactions.value_column")
    if time is not None:
        table.check_type(time, ("text", "numbers", "dates"), setting="interactions.time_column")
    no_time = pl.lit(None, dtype=pl.Int64)
    marks = {} if config.consent is None else {"consent": is_marked(table, config.consent, "interactions.consent")}
    present = pl.lit(False) if time is None else identifiers(time, table.schema[time]).is_not_null()
    frame = table.frame.select(
        row=pl.col(table.row),
        user=identifiers(user, table.schema[user]),
        item=identifiers(item, table.schema[item]),
        value=pl.lit(1.0, dtype=pl.Float32) if value is None else _numbers(value, table.schema[value], config.decimal),
        time=no_time if time is None else _times(time, table.schema[time], config.time_format),
        time_unreadable=present,
        given_user=pl.col(user),
        given_item=pl.col(item),
        given_value=pl.lit(None, dtype=pl.String) if value is None else pl.col(value),
        given_time=pl.lit(None, dtype=pl.String) if time is None else pl.col(time),
        **marks,
    )
    # In a second step, so that times are read once.
    frame = frame.with_columns(pl.col("time_unreadable") & pl.col("time").is_null())
    return InteractionsFile(table, frame, user, value, time)


def _numbers(column: str, dtype: pl.DataType, decimal: str) -> pl.Expr:
    expression = pl.col(column).str.strip_chars() if dtype == pl.String else pl.col(column)
    if dtype == pl.String and decimal != ".":
        # The first one only: a number with another, or with both, is none.
        expression = expression.str.replace(decimal, ".", literal=True)
    return expression.cast(pl.Float64, strict=False).cast(pl.Float32)


def _times(column: str, dtype: pl.DataType, time_format: str) -> pl.Expr:
    """Int64 times, value by value: how one row is read never depends on another."""
    expression = pl.col(column)
    if dtype.is_temporal():
        return expression.cast(pl.Datetime("us")).dt.epoch("s")
    if dtype == pl.String:
        # As a function of batches, so that ISO patterns are tried on the few or many values that need them: as one
        # expression every pattern would be tried on every value, ten times slower on a file of plain numbers.
        return expression.map_batches(
            lambda texts: _read_times(texts.str.strip_chars(), time_format), return_dtype=pl.Int64, is_elementwise=True
        )
    number = pl.lit(None) if time_format == "iso" else expression
    return _in_seconds(number.cast(pl.Int64, strict=False), time_format)


def _read_times(texts: pl.Series, time_format: str) -> pl.Series:
    times = pl.repeat(None, len(texts), dtype=pl.Int64, eager=True)
    if time_format != "iso":
        times = texts.cast(pl.Int64, strict=False)
        if times.null_count() > texts.null_count():
            times = times.zip_with(
                times.is_not_null(), texts.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
            )
        times = pl.select(_in_seconds(pl.lit(times), time_format)).to_series()
    if time_format in ("auto", "iso"):
        for pattern in _ISO_FORMATS:
            if times.null_count() == texts.null_count():
                break
            parsed = texts.str.replace("T", " ", literal=True).str.to_datetime(pattern, time_unit="us", strict=False)
            times = times.zip_with(times.is_not_null(), parsed.dt.epoch("s"))
    return times


def _in_seconds(number: pl.Expr, time_format: str) -> pl.Expr:
    if time_format == "order":
        return number
    scaled = number
    for beyond, divisor in reversed(_UNIX_SCALES):
        scaled = pl.when(number.abs() >= beyond).then(number.floordiv(divisor)).otherwise(scaled)
    return scaled


@dataclass(frozen=True)
class ItemRows:
    """The items file as read, one row per line with an id.

    Attributes:
        table: the file.
        frame: ``row`` (int64), ``id`` (str, never null), ``public`` (str; the public id, null where missing or where
            the file has none), ``title`` (str, may be null), ``genres`` (list of str, may be empty).
        attributes: the other columns, row by row; numbers where all values are.
        public_column: the file's name of the column with public ids, or None.
        without_id: how many rows had no id.
    """

    table: TableFile
    frame: pl.DataFrame
    attributes: pl.DataFrame
    public_column: str | None
    without_id: int


def read_items(config: ItemsConfig, described: Collection[str] = ()) -> ItemRows:
    """Read the items file.

    Args:
        config: where it is.
        described: columns that have a name of their own: none of them is guessed to hold the title or the genres.

    Raises:
        DataError: the file is missing, empty or damaged, a column cannot be found, or no row has an id.
    """
    if config.path is None:
        raise DataError("items.path is not set: there is no items file to read")
    table = open_table(config, config.path, "items")
    key_guesses = () if config.namespace is None else (f"{config.namespace}_id", config.namespace)
    public = table.column(config.key_column, key_guesses, setting="items.key_column")
    id_column = table.column(config.id_column, ITEM_NAMES, setting="items.id_column") or public
    if id_column is None:
        id_column = table.required_column(None, ("id",), setting="items.id_column")
    title = table.column(config.title_column, TITLE_NAMES, setting="items.title_column", taken=described)
    genres = table.column(config.genres_column, GENRE_NAMES, setting="items.genres_column", taken=described)
    for column, name in ((id_column, "id"), (public, "key"), (title, "title")):
        if column is not None:
            table.check_type(column, _IDS, setting=f"items.{name}_column")
    if genres is not None:
        table.check_type(genres, ("text", "numbers", "lists"), setting="items.genres_column")
    no_text = pl.lit(None, dtype=pl.String)
    separator = config.genre_separator or (" " if table.recbole else "|")
    frame = table.frame.select(
        pl.col(table.row).alias("row"),
        identifiers(id_column, table.schema[id_column]).alias("id"),
        (no_text if public is None else identifiers(public, table.schema[public])).alias("public"),
        (no_text if title is None else texts(title, table.schema[title])).alias("title"),
        _genres(genres, table, separator).alias("genres"),
    )
    attributes = _attributes(table, config.attribute_columns, {id_column, public, title, genres}, "items")
    rows, attribute_rows = table.collect(frame, attributes)
    has_id = rows["id"].is_not_null()
    if not has_id.any():
        raise DataError(f"{table.path}: no row has a value in {id_column!r} (items.id_column)")
    typed = as_numbers(attribute_rows.filter(has_id).drop(table.row), config.decimal)
    return ItemRows(table, rows.filter(has_id), typed, public, int((~has_id).sum()))


def read_users(config: UsersConfig, only: Collection[str] | None = None) -> pl.DataFrame:
    """Read the users file: ``id`` (str, unique: the last row of each) and attributes (numbers where all values are).

    Args:
        config: where it is.
        only: of these users, as if no others were in the file; None: of all.

    Raises:
        DataError: the file is missing, empty or damaged, or a column cannot be found.
    """
    table = open_table(config, config.path, "users")
    id_column = table.required_column(config.id_column, (*USER_NAMES, "id"), setting="users.id_column")
    table.check_type(id_column, _IDS, setting="users.id_column")
    ids = table.frame.select(identifiers(id_column, table.schema[id_column]).alias("id"))
    used = {id_column} | mark_columns(table, config.consent, config.opt_out)
    attributes = _attributes(table, config.attribute_columns, used, "users")
    id_rows, attribute_rows = table.collect(ids, attributes)
    keep = id_rows["id"].is_not_null() & id_rows["id"].is_last_distinct()
    if only is not None:
        keep &= id_rows["id"].is_in(pl.Series(only, dtype=pl.String).implode())
    typed = as_numbers(attribute_rows.filter(keep).drop(table.row), config.decimal)
    if "id" in typed.columns:
        raise DataError(f"{table.path}: an attribute may not be called 'id'; leave it out of users.attribute_columns")
    return pl.concat([id_rows.filter(keep), typed], how="horizontal")


def read_profiles(user_ids: Sequence[str], config: UsersConfig) -> pl.DataFrame:
    """The attributes of the users file, one row per user id in that order; null where the file does not have the user.

    Raises:
        DataError: as :func:`read_users`.
    """
    ids = pl.DataFrame({"id": user_ids}, schema={"id": pl.String})
    return ids.join(read_users(config, only=user_ids), on="id", how="left", maintain_order="left").drop("id")


def _genres(column: str | None, table: TableFile, separator: str) -> pl.Expr:
    if column is None:
        return pl.lit([], dtype=pl.List(pl.String))
    if isinstance(table.schema[column], pl.List | pl.Array):
        parts = pl.col(column).cast(pl.List(pl.String))
    else:
        parts = (
            pl.col(column)
            .cast(pl.String)
            .map_batches(lambda given: _parts(given, separator), return_dtype=pl.List(pl.String), is_elementwise=True)
        )
    # A letter with its accent is one character, however it was typed: names meet over platforms.
    stripped = parts.list.eval(pl.element().str.normalize("NFC").str.strip_chars())
    nothing = pl.element().is_in(_NO_GENRE) | pl.element().str.to_lowercase().is_in(sorted(NO_ID))
    named = stripped.list.eval(pl.element().filter(~nothing & pl.element().is_not_null()))
    return named.fill_null([])


def _parts(given: pl.Series, separator: str) -> pl.Series:
    """Lists of values of texts: split, or as they stand in brackets."""
    parts = given.str.split(separator)
    if not given.str.strip_chars_start().str.starts_with("[").any():
        return parts
    lists = [None if text is None else listed(text) for text in given.to_list()]
    return pl.Series(
        given.name, [own if own is not None else part for own, part in zip(lists, parts, strict=True)], parts.dtype
    )


def _attributes(
    table: TableFile, given: tuple[str, ...] | None, used: AbstractSet[str | None], section: str
) -> pl.LazyFrame:
    if given is None:
        columns = [name for name in table.schema if name not in used]
    else:
        setting = f"{section}.attribute_columns"
        columns = [table.required_column(name, (), setting=setting) for name in given]
    named = [pl.col(name).alias(name.partition(":")[0]) if table.recbole else pl.col(name) for name in columns]
    # A frame without any column would forget how many rows it has.
    return table.frame.select(table.row, *named)


def as_numbers(frame: pl.DataFrame, decimal: str) -> pl.DataFrame:
    """Columns of text as numbers where all of their values are, with ``decimal`` before the fraction."""
    return frame.with_columns(_column_as_numbers(frame[name], decimal) for name in frame.columns)


def _column_as_numbers(column: pl.Series, decimal: str) -> pl.Series:
    """Text as numbers where that loses nothing: ``24`` does, the zip code ``02139`` does not."""
    if column.dtype != pl.String or column.null_count() == len(column):
        return column
    whole = column.cast(pl.Int64, strict=False)
    if whole.cast(pl.String).equals(column, null_equal=True):
        return whole
    broken = column.str.replace(decimal, ".", literal=True).cast(pl.Float64, strict=False)
    leading_zero = column.str.contains(r"^[-+]?0[0-9]").any()
    return column if leading_zero or broken.null_count() > column.null_count() else broken
