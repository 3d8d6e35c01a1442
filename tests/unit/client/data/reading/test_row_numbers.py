"""Rows have numbers of 64 bits: beyond 2^32 of them, which is as far as polars counts, nothing is another row's number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from client.data.cleaning import clean, open_source
from client.data.items import catalogue_from_file
from client.data.reading.dialect import find_dialect
from client.data.reading.files import open_table
from client.data.reading.parquet import ParquetTable, scan_parquet
from client.data.reading.text import scan_text
from client.data.recorded import RecordedEvents
from common.config.data import DataConfig, FileConfig

FAR = 2**32 - 2


def test_rows_of_parquet_are_numbered_beyond_32_bits() -> None:
    frames = tuple(pl.LazyFrame({"user": names}) for names in (["a"], ["b", "c", "d"], ["e"]))
    numbered = ParquetTable(frames, (FAR, 3, 1), {"user": pl.String()}).numbered("row").collect(engine="streaming")
    assert numbered["row"].dtype == pl.Int64
    assert dict(numbered.select("user", "row").iter_rows()) == {
        "a": 1, "b": 2**32 - 1, "c": 2**32, "d": 2**32 + 1, "e": 2**32 + 2,
    }  # fmt: skip


def test_lines_of_text_are_numbered_beyond_32_bits(tmp_path: Path) -> None:
    path = tmp_path / "views.csv"
    path.write_text("a lost line\nuser,item\na,1\nb,2\nc,3\n")
    dialect = replace(find_dialect(path, FileConfig(), "csv", "interactions"), skipped=FAR, names=("user", "item"))
    found = scan_text(path, dialect, "line", 8).collect(engine="streaming")
    assert found["line"].to_list() == [2**32, 2**32 + 1, 2**32 + 2]


@pytest.mark.parametrize("kind", ["alike", "hive", "mixed"])
@pytest.mark.parametrize("most", [1, 4, 5])
def test_a_folder_in_several_frames_is_the_same_table(tmp_path: Path, kind: str, most: int) -> None:
    for part in range(4):
        folder = tmp_path / "in=1" / (f"day={part % 2}" if kind == "hive" else "plain")
        folder.mkdir(exist_ok=True, parents=True)
        users: list[Any] = [part] * (part + 1)
        frame = pl.DataFrame({"user": [str(user) for user in users] if kind == "mixed" and part else users})
        frame.write_parquet(folder / f"{part}.parquet")
    whole, cut = (scan_parquet(tmp_path / "in=1", most) for most in (100, most))
    assert len(whole.frames) == 1 < len(cut.frames)
    assert sum(cut.counts) == 10
    assert cut.schema == whole.schema
    assert ("day" in cut.schema, "in" in cut.schema) == (kind == "hive", False)
    one, other = (table.numbered("row").collect(engine="streaming") for table in (whole, cut))
    assert one.equals(other)
    assert one["row"].to_list() == [*range(1, 11)]


def test_histories_are_the_same_wherever_their_rows_stand(tmp_path: Path) -> None:
    """Order, what repeats, and what counts as recorded hang on the numbers of rows."""
    rng = np.random.default_rng(3)
    lines = [f"u{rng.integers(5)},{rng.integers(8)},{rng.integers(3)}" for _ in range(60)]
    (tmp_path / "views.csv").write_text("\n".join(["user_id,item_id,time", ",1,1", *lines]) + "\n")
    (tmp_path / "films.csv").write_text("\n".join(["item_id,title", *(f"{item},Film" for item in range(7))]) + "\n")
    views, films = {"path": tmp_path / "views.csv"}, {"path": tmp_path / "films.csv", "namespace": "imdb"}
    config = DataConfig.model_validate({"interactions": views, "items": films})
    source, catalogue = open_source(config), catalogue_from_file(config.items, "cinema", ())
    events = RecordedEvents(
        ("u1", "u2"), ("imdb:3", "imdb:99"), np.ones(2, np.float32), np.array([9, 9]), np.array([41, 42]), 42
    )
    far = replace(source, frame=source.frame.with_columns(pl.col("row") + FAR))
    here, there = (clean(one, config, catalogue, platform="cinema", recorded=events) for one in (source, far))
    assert here.user_ids == there.user_ids
    for name in ("indptr", "indices", "values", "times"):
        np.testing.assert_array_equal(getattr(here.interactions, name), getattr(there.interactions, name))
    assert len(here.report.dropped) == len(there.report.dropped) > 2
    for one, other in zip(here.report.dropped, there.report.dropped, strict=True):
        shift = 0 if one.recorded else FAR
        assert (one.reason, one.rows, one.recorded) == (other.reason, other.rows, other.recorded)
        assert [row + shift for row in one.examples] == [*other.examples]


@pytest.mark.parametrize("name", ["views.csv", "views.parquet"])
def test_a_file_tells_about_how_many_rows_it_has(tmp_path: Path, name: str) -> None:
    frame = pl.DataFrame({"user_id": ["a"] * 70, "item_id": ["1"] * 70})
    frame.write_parquet(tmp_path / name) if name.endswith("parquet") else frame.write_csv(tmp_path / name)
    table = open_table(FileConfig(), tmp_path / name, "interactions")
    assert table.about_how_many() - (name == "views.csv") == 70
