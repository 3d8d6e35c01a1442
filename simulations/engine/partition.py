"""Cuts of one data set into platforms: whose users go where, and which items each platform lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.data.dataset import PlatformData, UserItemMatrix
from client.data.reading.columns import identifiers
from client.data.reading.files import open_table
from client.data.reading.names import USER_NAMES
from common.config.data import InteractionsConfig
from common.errors import DataError
from simulations.scenarios.sources import PartitionSource

Rows = NDArray[np.int64]


def users_of_platforms(source: PartitionSource, data: PlatformData, rng: np.random.Generator) -> dict[str, Rows]:
    """Ascending rows of each platform's users.

    Raises:
        DataError: a platform gets no users, or the column by which to cut says nothing of some.
    """
    names = list(source.sizes)
    if source.same_users:
        return {name: np.arange(data.interactions.n_users) for name in names}
    if source.by_column is not None:
        places = _dealt(data, source.data.interactions, source.by_column, len(names))
        users = [np.flatnonzero(places == place) for place in range(len(names))]
    else:
        n = data.interactions.n_users
        users = [np.sort(part) for part in np.array_split(rng.permutation(n), _cuts(source.sizes, n))]
    for name, rows in zip(names, users, strict=True):
        if len(rows) == 0:
            raise DataError(f"platform {name}: gets no users; the data set is too small for {len(names)} platforms")
    return dict(zip(names, users, strict=True))


def items_of_platforms(source: PartitionSource, n_items: int, rng: np.random.Generator) -> list[Rows]:
    """Ascending columns of each platform's items; every item is on some platform."""
    if source.hide_items:
        return _each_without(source.hide_items, n_items, len(source.sizes), rng)
    items = rng.permutation(n_items)
    n_common = round(source.common_items * n_items)
    # An item that is not common belongs to one platform, in proportion to the platforms' users.
    owned = np.array_split(items[n_common:], _cuts(source.sizes, n_items - n_common))
    return [np.sort(np.concatenate([items[:n_common], own])) for own in owned]


def entries_of_platforms(
    matrix: UserItemMatrix, items: list[Rows], rng: np.random.Generator
) -> list[NDArray[np.bool_]]:
    """Bool ``[nnz]`` of each platform: which entries are its own, where every user is everywhere; each is on one, at random."""
    has = np.zeros((len(items), matrix.n_items), dtype=bool)
    for row, columns in zip(has, items, strict=True):
        row[columns] = True
    among = has[:, matrix.indices]
    drawn = np.where(among, rng.random(among.shape), -1.0).argmax(axis=0)
    return [drawn == place for place in range(len(items))]


def _each_without(share: float, n_items: int, n_platforms: int, rng: np.random.Generator) -> list[Rows]:
    hidden = np.zeros((n_platforms, n_items), dtype=bool)
    for row in hidden:
        row[rng.permutation(n_items)[: round(share * n_items)]] = True
    nowhere = np.flatnonzero(hidden.all(axis=0))
    hidden[nowhere % n_platforms, nowhere] = False
    return [np.flatnonzero(~row) for row in hidden]


def _dealt(data: PlatformData, config: InteractionsConfig, column: str, n: int) -> NDArray[np.int64]:
    """Which of n platforms each user belongs to, by the values of ``column`` in the user's rows."""
    counts, path = _values_by_user(config, column, setting="partition.by_column")
    values = _in_order(counts["value"].unique().to_list())
    place = pl.DataFrame({"value": values, "place": [index % n for index in range(len(values))]})
    most = (
        counts.join(place, on="value")
        .group_by("user", "place").agg(pl.col("rows").sum())
        .sort("user", "rows", "place", descending=[False, True, False])
        .unique("user", keep="first", maintain_order=True)
    )  # fmt: skip
    users = pl.DataFrame({"user": data.user_ids}, schema={"user": pl.String})
    places = users.join(most, on="user", how="left", maintain_order="left")["place"]
    if places.null_count():
        raise DataError(
            f"{path}: {places.null_count():,} users have no value in column {column!r} (partition.by_column)"
        )
    result: NDArray[np.int64] = places.to_numpy().astype(np.int64)
    return result


def persons_of(data: PlatformData, config: InteractionsConfig, column: str | None) -> tuple[str, ...]:
    """Who each user of a platform is, on all platforms alike: by the value of ``column`` in most of the user's rows.

    Args:
        data: a platform's, or part of it.
        config: of the file.
        column: None: the user's id.

    Raises:
        DataError: there is no such column, or it says nothing of some users.
    """
    if column is None:
        return data.user_ids
    counts, path = _values_by_user(config, column, setting="passport.person_column")
    most = counts.sort("user", "rows", "value", descending=[False, True, False]).unique(
        "user", keep="first", maintain_order=True
    )
    users = pl.DataFrame({"user": data.user_ids}, schema={"user": pl.String})
    persons = users.join(most, on="user", how="left", maintain_order="left")["value"]
    if persons.null_count():
        raise DataError(
            f"{path}: {persons.null_count():,} users have no value in column {column!r} (passport.person_column)"
        )
    return tuple(persons.to_list())


def _values_by_user(config: InteractionsConfig, column: str, *, setting: str) -> tuple[pl.DataFrame, Path]:
    """Rows of each user by value of ``column``, and the file."""
    table = open_table(config, config.path, "interactions")
    user = table.required_column(config.user_column, USER_NAMES, setting="interactions.user_column")
    by = table.required_column(column, (), setting=setting)
    table.check_type(by, ("text", "numbers"), setting=setting)
    pairs = table.frame.select(
        user=identifiers(user, table.schema[user]), value=identifiers(by, table.schema[by])
    ).drop_nulls()
    [counts] = table.collect(pairs.group_by("user", "value").agg(rows=pl.len()))
    return counts, table.path


def _in_order(values: list[str]) -> list[str]:
    """By number where all are whole numbers, else by text."""
    numbers = all(value.isascii() and value.isdigit() for value in values)
    return sorted(values, key=lambda value: (int(value) if numbers else 0, value))


def _cuts(sizes: dict[str, float], total: int) -> NDArray[np.int64]:
    """Where to cut ``total`` things so that the parts are as the relative sizes say."""
    shares = np.cumsum(list(sizes.values()))
    cuts: NDArray[np.int64] = np.round(shares[:-1] / shares[-1] * total).astype(np.int64)
    return cuts
