"""Files of every known format, read to the same normalised rows; what is wrong with a file is named."""

from __future__ import annotations

import gzip
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from client.data.cleaning import load_platform_data
from client.data.reading.reader import open_interactions, read_items, read_users, scan_interactions
from common.config.data import DataConfig, InteractionsConfig, ItemsConfig, UsersConfig
from common.errors import DataError

ROWS = [("u1", "i1", 4.0, 978300760), ("u1", "i2", 3.5, 978300761), ("u2", "i1", 1.0, 978300762)]


def interactions(path: Path, **settings: Any) -> InteractionsConfig:
    return InteractionsConfig(path=path, **settings)


def text_file(path: Path, header: str, separator: str) -> Path:
    lines = [header, *(separator.join(map(str, row)) for row in ROWS)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def as_rows(config: InteractionsConfig) -> list[tuple[Any, ...]]:
    return scan_interactions(config).select("user", "item", "value", "time").collect(engine="streaming").rows()


def times_of(tmp_path: Path, column: list[Any], time_format: str = "auto") -> list[int | None]:
    path = tmp_path / "times.parquet"
    pl.DataFrame({"user": ["u"] * len(column), "item": ["i"] * len(column), "time": column}).write_parquet(path)
    return [row[3] for row in as_rows(interactions(path, time_format=time_format))]


@pytest.mark.parametrize(
    ("name", "header", "separator"),
    [
        ("a.csv", "user_id,item_id,rating,timestamp", ","),
        ("a.csv", "userId,movieId,rating,timestamp", ","),
        ("a.tsv", "user\titem\tscore\ttime", "\t"),
        ("a.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float", "\t"),
    ],
)
def test_well_known_column_names_are_found(tmp_path: Path, name: str, header: str, separator: str) -> None:
    assert as_rows(interactions(text_file(tmp_path / name, header, separator))) == ROWS


def test_gzip_parquet_and_other_separators_read_the_same(tmp_path: Path) -> None:
    plain = text_file(tmp_path / "a.csv", "uid,sku,stars,ts", ",")
    with gzip.open(tmp_path / "b.csv.gz", "wb") as packed:
        packed.write(plain.read_bytes())
    pl.DataFrame(ROWS, schema=["user", "item", "rating", "seq"], orient="row").write_parquet(tmp_path / "c.parquet")
    semicolons = text_file(tmp_path / "d.txt", "user;item;rating;time", ";")
    assert as_rows(interactions(plain)) == ROWS
    assert as_rows(interactions(tmp_path / "b.csv.gz")) == ROWS
    assert as_rows(interactions(tmp_path / "c.parquet")) == ROWS
    assert as_rows(interactions(semicolons, separator=";")) == ROWS


def test_a_folder_of_parquet_parts_is_one_file(tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS, schema=["user", "item", "rating", "seq"], orient="row")
    (tmp_path / "parts").mkdir()
    frame[:2].write_parquet(tmp_path / "parts" / "0.parquet")
    frame[2:].write_parquet(tmp_path / "parts" / "1.parquet")
    assert as_rows(interactions(tmp_path / "parts")) == ROWS


def test_named_columns_win_over_guesses_and_a_file_may_lack_a_header(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", "item,user,weight,time", ",")
    swapped = interactions(path, user_column="item", item_column="user")
    assert as_rows(swapped)[0][:2] == ("u1", "i1")
    path.write_text("u1,i1,4.0,978300760\n")
    columns = {"user_column": "column_1", "item_column": "column_2", "time_column": "column_4"}
    assert as_rows(interactions(path, header=False, **columns)) == [("u1", "i1", 1.0, 978300760)]


def test_rows_are_a_text_files_lines_and_parquets_rows(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", "user,item,rating,time", ",")
    assert scan_interactions(interactions(path)).collect()["row"].to_list() == [2, 3, 4]
    pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"]}).write_parquet(tmp_path / "a.parquet")
    assert scan_interactions(interactions(tmp_path / "a.parquet")).collect()["row"].to_list() == [1, 2]


def test_ids_lose_blanks_and_the_point_zero_of_floating_point(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    users, items = [1.0, 2.5, None, float("nan")], [" a ", "", "b", "007"]
    pl.DataFrame({"user": users, "item": items}).write_parquet(path)
    rows = as_rows(interactions(path))
    assert [row[0] for row in rows] == ["1", "2.5", None, None]
    assert [row[1] for row in rows] == ["a", None, "b", "007"]


SECOND = 1_577_934_245  # 2020-01-02T03:04:05Z


def test_unix_times_are_taken_in_seconds_whatever_their_unit(tmp_path: Path) -> None:
    units = [SECOND, SECOND * 10**3 + 9, SECOND * 10**6 + 9, SECOND * 10**9 + 9, 5, -7]
    assert times_of(tmp_path, units) == [SECOND] * 4 + [5, -7]
    assert times_of(tmp_path, units, "order") == units


def test_iso_times_are_utc_unless_they_say_otherwise(tmp_path: Path) -> None:
    texts = [
        *("2020-01-02T03:04:05", "2020-01-02 03:04:05.75", "2020-01-02T03:04:05Z", "2020-01-02T05:04:05+02:00"),
        *("2020-01-02T03:04", "2020-01-02", "2020-13-01", "soon", f"{SECOND}.0", str(SECOND)),
    ]
    day = SECOND - 3 * 3600 - 4 * 60 - 5
    assert times_of(tmp_path, texts) == [SECOND] * 4 + [SECOND - 5, day, None, None, SECOND, SECOND]
    assert times_of(tmp_path, texts, "iso")[-2:] == [None, None]
    assert times_of(tmp_path, texts, "unix")[:4] == [None] * 4


def test_typed_times_are_understood(tmp_path: Path) -> None:
    assert times_of(tmp_path, [datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)]) == [SECOND]
    assert times_of(tmp_path, [datetime(2020, 1, 2, 3, 4, 5)]) == [SECOND]
    assert times_of(tmp_path, [date(1970, 1, 2)]) == [86_400]


def test_an_unreadable_time_is_told_from_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("user,item,time\nu,i,\nu,i,soon\nu,i,nan\nu,i,3\n")
    frame = scan_interactions(interactions(path)).collect()
    assert frame["time_unreadable"].to_list() == [False, True, False, False], "nan, like nothing, is no time"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"user,item,rating\n", "has a header and no rows"),
        (
            b"usr,thing,rating,time\n1,2,3,4\n",
            "none of its columns looks like interactions.user_column; its columns are usr, thing, rating, time; set",
        ),
    ],
)
def test_an_unusable_file_is_named_with_its_fault(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_interactions(interactions(path))
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_wrong_column_is_named_with_those_there_are_and_the_nearest(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", "user,movie,rating,time", ",")
    with pytest.raises(DataError) as caught:
        open_interactions(interactions(path, item_column="moive"))
    assert str(caught.value) == (
        f"{path}: has no column 'moive' (interactions.item_column); its columns are user, movie, rating, time; "
        "did you mean 'movie'?"
    )


def test_one_column_cannot_be_user_and_item(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", "user,movie,rating,time", ",")
    with pytest.raises(DataError, match="cannot be both"):
        open_interactions(interactions(path, item_column="user"))


def test_missing_unknown_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        open_interactions(interactions(tmp_path / "none.csv"))
    (tmp_path / "a.dat").write_text("user,item\n1,2\n")
    with pytest.raises(DataError, match=r"set interactions\.format: csv"):
        open_interactions(interactions(tmp_path / "a.dat"))
    (tmp_path / "a.parquet").write_text("user,item\n1,2\n")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        open_interactions(interactions(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"user,item\nann,1\nann,2,3\n", "line 3 has 3 fields, the first line has 2"),
        (b"user,item\nann,caf\xe9\n", "is not UTF-8 text"),
    ],
)
def test_a_damaged_line_is_named_and_never_quoted(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_platform_data(DataConfig(interactions=interactions(path)), platform="p")
    assert "ann" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_items_are_read_with_titles_genres_and_attributes(tmp_path: Path) -> None:
    path = tmp_path / "movies.csv"
    path.write_text(
        "item,title,genres,imdb_id,year,code\n1,Toy Story,Animation| Comedy,0114709,1995,07\n"
        "2,,(no genres listed),,,12\n,lost,,,,\n"
    )
    rows = read_items(ItemsConfig(path=path, namespace="imdb"))
    assert rows.frame["id"].to_list() == ["1", "2"]
    assert rows.frame["public"].to_list() == ["0114709", None]
    assert rows.frame["title"].to_list() == ["Toy Story", None]
    assert rows.frame["genres"].to_list() == [["Animation", "Comedy"], []]
    assert rows.attributes.to_dict(as_series=False) == {"year": [1995, None], "code": ["07", "12"]}
    assert (rows.public_column, rows.without_id) == ("imdb_id", 1)


def test_recbole_items_split_genres_at_blanks(tmp_path: Path) -> None:
    path = tmp_path / "ml.item"
    path.write_text(
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\tyear:token\n1\tToy Story\tComedy Drama\t1995\n"
    )
    rows = read_items(ItemsConfig(path=path))
    assert rows.frame.row(0)[1:] == ("1", None, "Toy Story", ["Comedy", "Drama"])
    assert rows.attributes.to_dict(as_series=False) == {"year": [1995]}


def test_users_keep_the_last_profile_and_zip_codes_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text("user_id,age,zip\n1,24,02139\n2,30,10001\n1,25,02139\n,9,1\n")
    frame = read_users(UsersConfig(path=path))
    assert frame.to_dict(as_series=False) == {"id": ["2", "1"], "age": [30, 25], "zip": ["10001", "02139"]}
    chosen = read_users(UsersConfig(path=path, attribute_columns=("age",)))
    assert chosen.columns == ["id", "age"]
