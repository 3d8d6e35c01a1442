"""Parquet files of strangers: every type is read as what it says, or refused by name; a name is never a pattern."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from client.data.reading.reader import open_interactions, read_items, read_users, scan_interactions
from common.config.data import InteractionsConfig, ItemsConfig, UsersConfig
from common.errors import DataError


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    pl.DataFrame({"user_id": ["a", "b"], "item_id": ["1", "2"]} | columns).write_parquet(path)
    return path


def read(path: Path, column: str) -> list[Any]:
    return scan_interactions(InteractionsConfig(path=path)).collect(engine="streaming")[column].to_list()


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_interactions(InteractionsConfig(path=path)).frame.collect()
    return str(caught.value)


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["5", "4.5", "2024-01-02", "2024-01-01"])])
def test_categories_are_read_as_their_text(tmp_path: Path, dtype: Any) -> None:
    """By their codes 4.5 would be 1."""
    path = write(
        tmp_path / "a.parquet",
        rating=pl.Series(["4.5", "5"], dtype=dtype),
        timestamp=pl.Series(["2024-01-01", "2024-01-02"], dtype=dtype),
    )
    assert read(path, "value") == [4.5, 5.0]
    assert read(path, "time") == [1704067200, 1704153600]


@pytest.mark.parametrize(
    ("column", "values", "dtype"),
    [
        ("timestamp", [time(1, 2)] * 2, "Time"),
        ("timestamp", [[1], [2]], "List(Int64)"),
        ("rating", [[1], [2]], "List(Int64)"),
        ("rating", [date(2024, 1, 1)] * 2, "Date"),
        ("item_id", [["1"], ["2"]], "List(String)"),
        ("item_id", [{"a": 1}, {"a": 2}], "Struct"),
        ("user_id", [b"\xff\x01", b"\xff\x02"], "Binary"),
        ("user_id", [True, False], "Boolean"),
    ],
)
def test_a_type_without_meaning_is_named(tmp_path: Path, column: str, values: list[Any], dtype: str) -> None:
    path = write(tmp_path / "a.parquet", **{column: values})
    message = refusal(path)
    assert message.startswith(f"{path}: column '{column}' (interactions.")
    assert f"is of type {dtype}" in message


def test_items_and_users_files_name_types_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", user_id=[[1], [2]], item_id=[[1], [2]])
    with pytest.raises(DataError, match=r"column 'item_id' \(items.id_column\) is of type List"):
        read_items(ItemsConfig(path=path))
    with pytest.raises(DataError, match=r"column 'user_id' \(users.id_column\) is of type List"):
        read_users(UsersConfig(path=path))


def test_whole_decimals_and_large_floats_are_ids(tmp_path: Path) -> None:
    decimals = pl.Series([Decimal("1"), Decimal("2.50"), Decimal("100")], dtype=pl.Decimal(18, 2))
    floats = [2.0**63, 1e30, 7.0]
    path = write(tmp_path / "a.parquet", user_id=floats, item_id=decimals)
    assert read(path, "item") == ["1", "2.5", "100"]
    assert read(path, "user") == ["9223372036854775808", str(int(1e30)), "7"]
    assert read_items(ItemsConfig(path=path)).frame["id"].to_list() == ["1", "2.5", "100"]
    write(path, user_id=[float("inf"), float("nan")], item_id=pl.Series([10, 20], dtype=pl.Decimal(10, 0)))
    assert read(path, "user") == [None, None]
    assert read(path, "item") == ["10", "20"]


@pytest.mark.parametrize("name", ["_row_number", "row", "_row"])
def test_a_column_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.parquet", **{name: ["x", "y"]})
    assert read(path, "row") == [1, 2]
    assert read_items(ItemsConfig(path=path)).attributes[name].to_list() == ["x", "y"]


@pytest.mark.parametrize("name", ["data[2024].parquet", "wild*.parquet", "what?.parquet", "x[1]/a.parquet", "x[1]"])
def test_a_name_is_never_a_pattern(tmp_path: Path, name: str) -> None:
    """A real ``wild*.parquet`` read wild2.parquet, too."""
    write(tmp_path / "wild2.parquet", item_id=["8", "9"])
    write(tmp_path / "what2.parquet", item_id=["8", "9"])
    path = tmp_path / name
    write(path if path.suffix else path / "part.parquet")
    assert read(path, "item") == ["1", "2"]
    assert read_items(ItemsConfig(path=path)).frame["id"].to_list() == ["1", "2"]
    assert read_users(UsersConfig(path=path))["id"].to_list() == ["a", "b"]


def test_parts_of_different_types_are_one_table(tmp_path: Path) -> None:
    write(tmp_path / "parts" / "a.parquet", rating=[4, 5], timestamp=[date(1970, 1, 2)] * 2)
    write(
        tmp_path / "parts" / "b.parquet",
        user_id=[1, 2],
        item_id=[3.0, None],
        rating=[4.5, 2.0],
        timestamp=[datetime(1970, 1, 3, tzinfo=UTC)] * 2,
    )
    write(tmp_path / "parts" / ".hidden.parquet")
    (tmp_path / "parts" / "_SUCCESS").touch()
    path = tmp_path / "parts"
    assert read(path, "user") == ["a", "b", "1", "2"]
    assert read(path, "item") == ["1", "2", "3", None]
    assert read(path, "value") == [4.0, 5.0, 4.5, 2.0]
    assert read(path, "time") == [86_400] * 2 + [2 * 86_400] * 2
    assert read(path, "row") == [1, 2, 3, 4]


def test_parts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "parts"
    write(path / "a.parquet", rating=[4, 5])
    write(path / "b.parquet")
    assert refusal(path) == f"{path}/b.parquet: has no column 'rating', which a.parquet in the same folder has"
    write(path / "b.parquet", rating=[[4], [5]])
    assert f"{path}/b.parquet: column 'rating' is of type List(Int64), in a.parquet it is Int64" in refusal(path)
    (path / "b.parquet").write_bytes(b"PAR1")
    assert refusal(path).startswith(f"{path}/b.parquet: cannot be read as parquet")


def test_folders_named_by_a_column_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x[1]"
    write(path / "rating=4" / "a.parquet")
    write(path / "rating=5" / "a.parquet")
    assert read(path, "value") == [4.0, 4.0, 5.0, 5.0]


def test_a_folder_is_named_where_a_file_is_needed(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").mkdir()
    assert refusal(tmp_path / "rows.csv") == f"{tmp_path}/rows.csv: is a folder without .parquet files; name a file"
    with pytest.raises(DataError, match=r"is a folder; name a file \(items.path\)"):
        read_items(ItemsConfig(path=tmp_path / "rows.csv", format="csv"))
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file" / "rows.csv").endswith("cannot be opened: Not a directory")
