"""Cleaning: against a plain Python oracle, one user at a time, with a report that adds up and names no one."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.cleaning import load_before_count_filters, load_platform_data
from client.data.dataset import PlatformData, UserItemMatrix
from client.data.filters import k_core
from common.config.data import DataConfig
from common.config.loader import parse_model
from common.errors import ConfigError, DataError

CORE = Path(__file__).parents[4] / "simulations" / "data" / "movietweetings_core"
Row = tuple[str | None, str | None, float | None, int | None]


def load(folder: Path, rows: list[Row], items: list[str] | None = None, **settings: Any) -> PlatformData:
    frame = pl.DataFrame(
        rows, schema={"user": pl.String, "item": pl.String, "rating": pl.Float64, "time": pl.Int64}, orient="row"
    )
    frame.write_parquet(folder / "rows.parquet")
    mapping: dict[str, Any] = {"interactions": {"path": "rows.parquet"}, **settings}
    if items is not None:
        pl.DataFrame({"item": items, "title": [f"title of {item}" for item in items]}).write_csv(folder / "items.csv")
        mapping["items"] = {"path": "items.csv", "namespace": "x"} | mapping.get("items", {})
    mapping.setdefault("items", {"namespace": "x"})
    return load_platform_data(parse_model(mapping, DataConfig, "test", base_directory=folder))


def histories(data: PlatformData) -> dict[str, list[tuple[str, float, int]]]:
    matrix = data.interactions
    found = {}
    for row, user in enumerate(data.user_ids):
        span = slice(matrix.indptr[row], matrix.indptr[row + 1])
        keys = [data.items.keys[item] for item in matrix.indices[span]]
        found[user] = list(zip(keys, matrix.values[span].tolist(), matrix.times[span].tolist(), strict=True))
    return found


rows_of_anyone = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "cy"] * 4 + ["", None]),
        st.sampled_from(["a", "b", "c", "d"] * 4 + ["z", None]),
        st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0] * 4 + [0.5, 9.0, math.nan, math.inf, None]),
        st.sampled_from([1, 2, 3, 4, None]),
    ),
    min_size=1,
    max_size=40,
)
rules = st.fixed_dictionaries(
    {
        "duplicates": st.sampled_from(["last", "first"]),
        "missing_times": st.sampled_from(["keep", "drop"]),
        "positive_threshold": st.sampled_from([None, 3.0]),
        "implicit_weights": st.sampled_from(["one", "value"]),
        "max_history": st.sampled_from([None, 1, 2]),
        "min_user_interactions": st.sampled_from([0, 2]),
        "value_range": st.sampled_from([None, (1.0, 5.0)]),
    }
)


def oracle(rows: list[Row], items: list[str], cleaning: dict[str, Any]) -> dict[str, list[tuple[str, float, int]]]:
    """The rules as the configuration's documentation has them, on lists."""
    by_user: dict[str, list[tuple[float, int, str, float, int | None]]] = defaultdict(list)
    for number, (user, item, value, time) in enumerate(rows):
        low, high = cleaning["value_range"] or (-math.inf, math.inf)
        fine = user and item in items and value is not None and math.isfinite(value) and low <= value <= high
        if fine and not (time is None and cleaning["missing_times"] == "drop"):
            by_user[user].append((-math.inf if time is None else time, number, item, value, time))
    cleaned = {}
    for user, unsorted in by_user.items():
        history = sorted(unsorted)
        kept: dict[str, tuple[float, int, str, float, int | None]] = {}
        for event in history if cleaning["duplicates"] == "last" else reversed(history):
            kept[event[2]] = event
        history = sorted(kept.values())
        if cleaning["positive_threshold"] is not None:
            history = [event for event in history if event[3] >= cleaning["positive_threshold"]]
        history = history[-(cleaning["max_history"] or len(history)) :]
        if len(history) >= max(cleaning["min_user_interactions"], 1):
            earliest = min((event[4] for event in history if event[4] is not None), default=0)
            one = cleaning["implicit_weights"] == "one"
            cleaned[user] = [
                (f"x:{item}", 1.0 if one else value, earliest if time is None else time)
                for _, _, item, value, time in history
            ]
    return cleaned


@given(rows_of_anyone, rules)
def test_histories_are_those_of_the_oracle_and_the_report_adds_up(rows: list[Row], cleaning: dict[str, Any]) -> None:
    items = ["c", "a", "b", "d", "never"]
    expected = oracle(rows, items, cleaning)
    with TemporaryDirectory() as folder:
        if not expected:
            with pytest.raises(DataError):
                load(Path(folder), rows, items, cleaning=cleaning)
            return
        data = load(Path(folder), rows, items, cleaning=cleaning)
    assert histories(data) == expected
    report = data.report
    assert report.rows_read == len(rows)
    assert report.rows_kept == report.rows_read - sum(one.rows for one in report.dropped)
    assert (report.users, report.items) == (len(expected), len(items))
    assert data.items.keys == tuple(f"x:{item}" for item in items)
    for one in report.dropped:
        assert len(one.examples) == min(one.rows, 3)
        assert all(1 <= number <= len(rows) for number in one.examples)


@given(rows_of_anyone, rules, st.sampled_from(["ann", "bob", "cy"]))
def test_taking_a_user_away_leaves_every_other_history_as_it_was(
    rows: list[Row], cleaning: dict[str, Any], gone: str
) -> None:
    with TemporaryDirectory() as folder:
        loaded = []
        for some in (rows, [row for row in rows if row[0] != gone]):
            try:
                data = load(Path(folder), some, ["a", "b", "c", "d"], cleaning=cleaning)
            except DataError:
                loaded.append({})
                continue
            assert data.interactions.n_items == 4
            loaded.append(histories(data))
    assert {user: history for user, history in loaded[0].items() if user != gone} == loaded[1]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, ()),
        ({"cleaning": {"min_user_interactions": 5, "max_history": 3, "positive_threshold": 4}}, ()),
        ({"cleaning": {"min_item_interactions": 1}}, ("cleaning.min_item_interactions",)),
        ({"cleaning": {"k_core": 5}}, ("cleaning.k_core",)),
        ({"catalogue": "interactions"}, ("catalogue",)),
        ({"items": {}}, ("items.path",)),
        ({"interactions": {"path": "a.csv", "multiline": True}}, ("interactions.multiline",)),
        ({"users": {"path": "u.csv", "multiline": True}}, ("users.multiline",)),
        ({"items": {"path": "i.csv", "multiline": True}}, ()),
    ],
)
def test_settings_that_depend_on_other_users_are_named(settings: dict[str, Any], named: tuple[str, ...]) -> None:
    config = DataConfig.model_validate({"interactions": {"path": "a.csv"}, "items": {"path": "i.csv"}} | settings)
    assert config.settings_that_depend_on_other_users() == named
    assert config.cleaning.depends_on_other_users() == any(name.startswith("cleaning") for name in named)


def test_each_reason_is_counted_with_row_numbers_and_no_id(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "user,item,rating,time\nann,a,4,1\n,a,4,1\nann,,4,1\nann,b,x,1\nann,b,inf,1\nann,b,7,1\nann,b,3,noon\n"
        "ann,zzz,3,1\nann,a,5,2\nbob,a,1,1\n"
    )
    (tmp_path / "items.csv").write_text("item\na\nb\n")
    config = DataConfig.model_validate(
        {
            "interactions": {"path": tmp_path / "rows.csv"},
            "items": {"path": tmp_path / "items.csv", "namespace": "x"},
            "feedback": "explicit",
            "cleaning": {"value_range": (1, 5)},
        }
    )
    data = load_platform_data(config)
    assert [(one.reason, one.rows, one.examples) for one in data.report.dropped] == [
        ("without a user", 1, (3,)),
        ("without an item", 1, (4,)),
        ("with an unreadable time", 1, (8,)),
        ("whose value is missing or not a finite number", 2, (5, 6)),
        ("with a value outside 1 to 5", 1, (7,)),
        ("of an item that is not in the items file", 1, (9,)),
        ("repeating a user and an item (the last one is kept)", 1, (2,)),
    ]
    assert histories(data) == {"ann": [("x:a", 5.0, 2)], "bob": [("x:a", 1.0, 1)]}
    text = data.report.render() + json.dumps(data.report.as_dict())
    assert not any(identifier in text for identifier in ("ann", "bob", "zzz"))
    assert data.report.render().startswith(f"{tmp_path / 'rows.csv'}: kept 2 of 10 rows; 2 users, 2 items\n")
    assert "without a user (line 3)" in data.report.render()
    assert data.report.as_dict()["place"] == "line"
    assert data.report.as_dict()["dropped"][0] == {
        "reason": "without a user", "rows": 1, "example_rows": [3], "asked": False, "recorded": False,
    }  # fmt: skip


def test_an_empty_result_names_the_rule_that_dropped_the_rows(tmp_path: Path) -> None:
    rows: list[Row] = [("ann", "a", 9.0, 1), ("ann", "b", 1.0, 2), (None, "b", 1.0, 3)]
    with pytest.raises(DataError) as caught:
        load(tmp_path, rows, cleaning={"value_range": (0, 5), "positive_threshold": 4})
    message = str(caught.value)
    assert "dropped all of its 3 rows" in message
    assert "1 without a user (row 3)" in message
    assert "1 with a value outside 0 to 5 (row 1)" in message
    assert "1 with a value below 4 (row 2)" in message
    with pytest.raises(DataError, match="2 outside the 2-core"):
        load(tmp_path, [("ann", "a", 1.0, 1), ("bob", "b", 1.0, 2)], cleaning={"k_core": 2})


def test_one_user_one_item_and_equal_ratings_work_and_are_noted(tmp_path: Path) -> None:
    data = load(tmp_path, [("ann", "a", 3.0, 1)], feedback="explicit")
    assert (data.interactions.n_users, data.interactions.n_items, data.interactions.values.tolist()) == (1, 1, [3.0])
    assert any("all ratings are 3" in note for note in data.report.notes)


def test_explicit_feedback_needs_ratings(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("user,item\n1,2\n")
    config = DataConfig.model_validate({"interactions": {"path": path}, "feedback": "explicit"})
    with pytest.raises(DataError, match=r"set interactions\.value_column"):
        load_platform_data(config)


def test_without_a_time_column_the_order_of_rows_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("user,item\nu,b\nv,b\nu,a\nu,b\nu,c\n")
    config = DataConfig.model_validate({"interactions": {"path": path}, "items": {"namespace": "x"}})
    data = load_platform_data(config)
    assert histories(data)["u"] == [("x:a", 1.0, 0), ("x:b", 1.0, 1), ("x:c", 1.0, 2)]


def test_a_row_without_a_time_comes_at_its_users_earliest_time(tmp_path: Path) -> None:
    rows: list[Row] = [("u", "a", 1.0, 7), ("u", "b", 1.0, None), ("v", "a", 1.0, 2), ("w", "a", 1.0, None)]
    assert histories(load(tmp_path, rows)) == {
        "u": [("x:b", 1.0, 7), ("x:a", 1.0, 7)],
        "v": [("x:a", 1.0, 2)],
        "w": [("x:a", 1.0, 0)],
    }


def test_users_come_in_the_order_of_their_first_row(tmp_path: Path) -> None:
    assert load(tmp_path, [("b", "x", 1.0, 9), ("a", "x", 1.0, 1), ("b", "y", 1.0, 0)]).user_ids == ("b", "a")


def test_the_item_minimum_is_one_pass_over_the_catalogue(tmp_path: Path) -> None:
    rows: list[Row] = [("u", "a", 1.0, 1), ("v", "a", 1.0, 1), ("u", "b", 1.0, 2), ("w", "c", 1.0, 1)]
    data = load(tmp_path, rows, ["c", "b", "a", "never"], cleaning={"min_item_interactions": 2})
    assert data.items.keys == ("x:a",)
    assert data.items.titles == ("title of a",)
    assert data.user_ids == ("u", "v")
    assert data.report.dropped[-1].rows == 2
    assert (data.report.users, data.report.items, data.report.rows_kept) == (2, 1, 2)


def test_count_filters_can_be_left_for_the_training_data(tmp_path: Path) -> None:
    rows: list[Row] = [("u", "a", 1.0, 1), ("v", "a", 1.0, 1), ("u", "b", 1.0, 2)]
    load(tmp_path, rows)
    config = DataConfig.model_validate(
        {"interactions": {"path": tmp_path / "rows.parquet"}, "items": {"namespace": "x"}, "cleaning": {"k_core": 2}}
    )
    assert load_before_count_filters(config).interactions.nnz == 3


def slow_k_core(pairs: set[tuple[int, int]], k: int) -> set[tuple[int, int]]:
    while True:
        users, items = [u for u, _ in pairs], [i for _, i in pairs]
        smaller = {(u, i) for u, i in pairs if users.count(u) >= k and items.count(i) >= k}
        if smaller == pairs:
            return pairs
        pairs = smaller


@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=40), st.integers(1, 4))
def test_k_core_is_the_fixed_point(pairs: set[tuple[int, int]], k: int) -> None:
    users, items = (np.array([pair[axis] for pair in sorted(pairs)], dtype=np.int64) for axis in (0, 1))
    matrix = UserItemMatrix.from_entries(
        users, items, np.ones(len(users)), np.zeros(len(users), int), n_users=8, n_items=8
    )
    kept_users, kept_items = k_core(matrix, k)
    kept = {(int(u), int(i)) for u, i in pairs if kept_users[u] and kept_items[i]}
    assert kept == slow_k_core(pairs, k)
    assert kept_users.sum() == len({u for u, _ in kept})


def test_items_that_share_a_key_are_one_item(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(
        "item,imdb_id,title,year\n1,77,First,1990\n2,77,Second,1991\n3,,Third,1992\n1,88,Again,1\n"
    )
    (tmp_path / "rows.csv").write_text("user,item,time\nu,1,1\nu,2,2\nu,3,3\n")
    config = DataConfig.model_validate(
        {
            "interactions": {"path": tmp_path / "rows.csv"},
            "items": {"path": tmp_path / "items.csv", "namespace": "imdb"},
        }
    )
    data = load_platform_data(config, platform="shop")
    assert data.items.keys == ("imdb:77", "shop:3", "imdb:88")
    assert data.items.titles == ("First", "Third", "Again")
    assert data.items.attributes["year"].to_list() == [1990, 1992, 1]
    assert histories(data) == {"u": [("imdb:77", 1.0, 2), ("shop:3", 1.0, 3)]}
    assert data.report.dropped[0].rows == 1
    with pytest.raises(ConfigError, match="keys of this platform's own"):
        load_platform_data(config)


def test_items_without_a_key_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item,imdb_id\n1,77\n3,\n")
    (tmp_path / "rows.csv").write_text("user,item\nu,1\nu,3\n")
    items = {"path": tmp_path / "items.csv", "namespace": "imdb", "without_key": "drop"}
    config = DataConfig.model_validate({"interactions": {"path": tmp_path / "rows.csv"}, "items": items})
    data = load_platform_data(config)
    assert data.items.keys == ("imdb:77",)
    assert data.report.dropped[0].reason == "of an item that is not in the items file"


def test_a_key_column_without_namespace_must_hold_namespaced_keys(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("user,item\nu,1\n")
    for keys, good in (("isbn:1\nisbn:2", True), ("isbn:1\n2", False)):
        lines = "\n".join(f"{number},{key}" for number, key in enumerate(keys.split("\n"), start=1))
        (tmp_path / "items.csv").write_text(f"item,key\n{lines}\n")
        items = {"path": tmp_path / "items.csv", "key_column": "key"}
        config = DataConfig.model_validate({"interactions": {"path": tmp_path / "rows.csv"}, "items": items})
        if good:
            assert load_platform_data(config).items.keys == ("isbn:1", "isbn:2")
        else:
            with pytest.raises(DataError, match=r"line 3: 'key' holds a key without a namespace"):
                load_platform_data(config)


def test_a_catalogue_from_interactions_holds_what_cleaning_leaves(tmp_path: Path) -> None:
    rows: list[Row] = [("u", "b", 5.0, 1), ("u", "a", 1.0, 2)]
    kept = load(tmp_path, rows, ["a", "b", "c"], catalogue="interactions", cleaning={"positive_threshold": 4})
    assert kept.items.keys == ("x:b",)
    assert kept.items.titles == ("title of b",)


def test_profiles_stand_beside_their_users(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user,age\nv,30\nnobody,99\nu,20\n")
    rows: list[Row] = [("u", "a", 1.0, 1), ("w", "a", 1.0, 1), ("v", "a", 1.0, 1), ("v", "b", 1.0, 1)]
    data = load(tmp_path, rows, users={"path": "users.csv"})
    assert (data.user_ids, data.users["age"].to_list()) == (("u", "w", "v"), [20, None, 30])
    filtered = load(tmp_path, rows, users={"path": "users.csv"}, cleaning={"min_user_interactions": 2})
    assert (filtered.user_ids, filtered.users["age"].to_list()) == (("v",), [30])


def test_the_embedded_data_set_loads_whole() -> None:
    config = DataConfig.model_validate(
        {
            "interactions": {"path": CORE / "ratings.csv.gz"},
            "items": {"path": CORE / "movies.csv.gz", "namespace": "imdb"},
            "feedback": "explicit",
            "cleaning": {"value_range": (0, 10)},
        }
    )
    data = load_platform_data(config)
    assert (data.interactions.n_users, data.interactions.n_items, data.interactions.nnz) == (2290, 2146, 53556)
    assert data.report.dropped == ()
    assert data.interactions.row_lengths.min() >= 10
    assert "imdb:0012349" not in data.items.keys
    assert data.items.titles[data.items.keys.index("imdb:0013442")] == "Nosferatu, eine Symphonie des Grauens (1922)"


@pytest.mark.data
def test_movielens_1m_loads_whole_with_its_rows_without_a_time_oldest() -> None:
    folder = Path(os.environ.get("CROSSFED_DATA", Path(__file__).parents[5] / "shared" / "data")) / "ml1m"
    if not folder.exists():
        pytest.skip("MovieLens-1M is not here; set CROSSFED_DATA")
    config = DataConfig.model_validate(
        {
            "interactions": {"path": folder / "ratings.parquet"},
            "items": {"path": folder / "movies.csv", "namespace": "imdb"},
            "users": {"path": folder / "users.csv"},
        }
    )
    data = load_platform_data(config, platform="ml1m")
    assert (data.interactions.n_users, len(data.items), data.interactions.nnz) == (6040, 3883, 1_000_209)
    assert data.report.notes[0] == "598 rows without a time are kept as their users' oldest"
    assert sum(key.startswith("ml1m:") for key in data.items.keys) == 52
    assert all(
        np.diff(data.interactions.times[start:end]).min(initial=0) >= 0 for start, end in _rows(data.interactions)
    )


def _rows(matrix: UserItemMatrix) -> list[tuple[int, int]]:
    return list(zip(matrix.indptr[:-1].tolist(), matrix.indptr[1:].tolist(), strict=True))
