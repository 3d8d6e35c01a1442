"""Recorded feedback is data like any other: cleaned as if it stood in the file, bounded, and never fatal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from client.data.cleaning import load_platform_data
from client.data.dataset import PlatformData
from client.data.recorded import (
    LARGEST_VALUE,
    NO_EVENTS,
    SMALLEST_WEIGHT,
    Event,
    EventRules,
    RecordedEvents,
    bounded_weights,
    columns_of,
    problem_of_time,
)
from client.deploy.agent_process import PlatformProcess, ReloadableAgent, serve_of_platform
from client.deploy.loading import load_training_data
from client.keys import KeyFolder
from client.recommend.feedback import FeedbackLog
from client.recommend.feedback_file import FEEDBACK_LOG
from client.service.client import RecommenderClient
from common.config.data import CleaningConfig, DataConfig
from common.deploy.roles import PlatformConfig
from common.errors import ContractError, DataError
from simulations.engine.deployment import free_port
from tests.support import Recorder
from tests.support.platform_files import config

ITEMS = ["a", "b", "c", "d"]
Row = tuple[str, str, float, int]

rows_of_anyone = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "bob ", "3", "3.0"]),
        st.sampled_from([*ITEMS, "z"]),
        st.sampled_from([0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 1e6]),
        st.integers(1, 4),
    ),
    min_size=2,
    max_size=30,
)
cleanings = st.fixed_dictionaries(
    {
        "value_range": st.sampled_from([None, (1, 5)]),
        "duplicates": st.sampled_from(["last", "first"]),
        "positive_threshold": st.sampled_from([None, 3.0]),
        "implicit_weights": st.sampled_from(["one", "value"]),
        "max_history": st.sampled_from([None, 1, 2]),
        "min_user_interactions": st.integers(0, 2),
        "min_item_interactions": st.integers(0, 2),
    }
)


def read(folder: Path, rows: list[Row], recorded: list[Row], *, items: bool = True, **data: Any) -> PlatformData | str:
    """The data of rows in a file and of rows that were recorded; the message where nothing is left."""
    (folder / "rows.csv").write_text("user,item,rating,time\n" + "".join(f"{u},{i},{v},{t}\n" for u, i, v, t in rows))
    (folder / "items.csv").write_text("item\n" + "".join(f"{item}\n" for item in ITEMS))
    given: dict[str, Any] = {"interactions": {"path": folder / "rows.csv"}, "items": {"namespace": "x"}}
    if items:
        given["items"]["path"] = folder / "items.csv"
    settings = DataConfig.model_validate(given | data)
    try:
        return load_platform_data(settings, recorded=as_events(recorded))
    except DataError as error:
        return type(error).__name__


def as_events(rows: list[Row]) -> RecordedEvents:
    return columns_of(
        [
            (n, user.strip().removesuffix(".0"), Event(f"x:{item}", v, t))
            for n, (user, item, v, t) in enumerate(rows, 1)
        ],
        len(rows),
    )


def same(one: PlatformData | str, other: PlatformData | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    arrays = ("indptr", "indices", "values", "times")
    return (
        (one.user_ids, one.items.keys) == (other.user_ids, other.items.keys)
        and all(getattr(one.interactions, a).tobytes() == getattr(other.interactions, a).tobytes() for a in arrays)
        and _sums(one) == _sums(other)
    )


def _sums(data: PlatformData) -> dict[str, int]:
    sums: dict[str, int] = {}
    for dropped in data.report.dropped:
        sums[dropped.reason] = sums.get(dropped.reason, 0) + dropped.rows
    return sums


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows_of_anyone, cut=st.integers(1, 29), cleaning=cleanings, explicit=st.booleans(), items=st.booleans())
def test_rows_half_recorded_are_as_rows_in_the_file(
    tmp_path: Path, rows: list[Row], cut: int, cleaning: dict[str, Any], explicit: bool, items: bool
) -> None:
    if explicit:
        cleaning = cleaning | {"positive_threshold": None, "implicit_weights": "one"}
    data: dict[str, Any] = {"feedback": "explicit" if explicit else "implicit", "cleaning": cleaning}
    whole = read(tmp_path, rows, [], items=items, **data)
    cut = min(cut, len(rows) - 1)
    assert same(read(tmp_path, rows[:cut], rows[cut:], items=items, **data), whole)


def test_the_oracle_of_equality_sees_a_difference(tmp_path: Path) -> None:
    rows = [("ann", "a", 5.0, 1), ("bob", "b", 5.0, 1)]
    assert same(read(tmp_path, rows, []), read(tmp_path, rows[:1], rows[1:]))
    assert not same(read(tmp_path, rows, []), read(tmp_path, rows[:1], [("bob", "b", 5.0, 2)]))
    assert not same(read(tmp_path, rows, []), read(tmp_path, rows[:1], [("bob", "c", 5.0, 1)]))


def test_recorded_events_come_after_a_file_that_counts_positions(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("user,item,seq\nann,a,1700000000000\nann,b,1700000000001\nbob,a,5\n")
    interactions = {"path": tmp_path / "rows.csv", "time_column": "seq", "time_format": "order"}
    settings = DataConfig.model_validate({"interactions": interactions, "items": {"namespace": "x"}})
    recorded = as_events([("ann", "c", 1.0, 20), ("ann", "a", 1.0, 10), ("cy", "a", 1.0, 7)])
    data = load_platform_data(settings, recorded=recorded)
    keys = [[data.items.keys[item] for item in data.interactions.row(row)] for row in range(3)]
    assert keys == [["x:b", "x:a", "x:c"], ["x:a"], ["x:a"]]
    times = data.interactions.times.tolist()
    assert times == [1700000000001, 1700000000002, 1700000000003, 5, 1]


def test_what_is_dropped_of_recorded_feedback_is_named_apart(tmp_path: Path) -> None:
    data = read(
        tmp_path,
        [("ann", "a", 4.0, 1), ("ann", "z", 4.0, 1)],
        [("bob", "a", 9.0, 1), ("bob", "b", 4.0, 2), ("bob", "z", 4.0, 3)],
        cleaning={"value_range": (1, 5)},
    )
    assert not isinstance(data, str)
    assert data.report.render().splitlines() == [
        f"{tmp_path / 'rows.csv'}: kept 2 of 5 rows (3 of them recorded feedback); 2 users, 4 items",
        "  dropped 1: with a value outside 1 to 5 (recorded feedback, number 1)",
        "  dropped 1: of an item that is not in the items file (line 3)",
        "  dropped 1: of an item that is not in the items file (recorded feedback, number 3)",
        "  WARNING: 40.0% of the rows were dropped, and no setting asks for that: mend the data or the settings that the "
        "reasons name, or what is trained is not what you have",
    ]


def test_without_a_catalogue_feedback_on_others_items_falls_out(tmp_path: Path) -> None:
    recorded = replace(as_events([("ann", "b", 1.0, 1)] * 2), item_keys=("x:new", "imdb:1"))
    (tmp_path / "rows.csv").write_text("user,item\nann,a\n")
    given = {"interactions": {"path": tmp_path / "rows.csv"}, "items": {"namespace": "x"}}
    data = load_platform_data(DataConfig.model_validate(given), recorded=recorded)
    assert data.items.keys == ("x:a", "x:new")
    assert [(one.reason, one.examples) for one in data.report.dropped] == [("of an item of another namespace", (2,))]


@pytest.mark.parametrize("source", ["file", "feedback"])
def test_weights_have_bounds_from_below_and_above_whoever_wrote_them(tmp_path: Path, source: str) -> None:
    rows = [
        ("ann", "a", 1e30, 1),
        ("ann", "b", 1e-30, 1),
        ("ann", "c", 2.5, 1),
        ("bob", "a", -0.01, 1),
        ("bob", "b", 1.0, 1),
    ]
    first, recorded = (rows, []) if source == "file" else (rows[2:3], rows[:2] + rows[3:])
    data = read(tmp_path, first, recorded, cleaning={"implicit_weights": "value"})
    assert not isinstance(data, str)
    assert sorted(data.interactions.values.tolist()) == pytest.approx([SMALLEST_WEIGHT, 1.0, 2.5, LARGEST_VALUE])
    assert any("2 weights below 0.001 or above 1,000" in note for note in data.report.notes)


def test_the_last_bound_lets_nothing_through() -> None:
    weights = np.array([-1.0, -0.01, 0.0, np.nan, -np.inf, np.inf, 1e38, 3.0], dtype=np.float32)
    bounded = bounded_weights(weights)
    np.testing.assert_allclose(bounded, [1e-3] * 5 + [1e3, 1e3, 3.0], rtol=1e-6)
    assert bounded.dtype == np.float32


RULES = {
    "weight": EventRules(meaning="weight"),
    "judged": EventRules(meaning="judged", threshold=4.0, value_range=(0.5, 5.0), one_weight=True),
    "rating": EventRules(meaning="rating", value_range=(1.0, 5.0)),
}


@pytest.mark.parametrize(
    ("rules", "given", "taken"),
    [
        ("weight", None, 1.0), ("weight", 2.5, 2.5), ("weight", 0.0, None), ("weight", -5.0, None), ("weight", 1001.0, None),
        ("judged", None, 4.0), ("judged", 2.0, 2.0), ("judged", 6.0, None), ("judged", float("nan"), None),
        ("rating", None, None), ("rating", 3.0, 3.0), ("rating", 0.0, None),
    ],
)  # fmt: skip
def test_a_value_is_taken_or_refused_by_name(rules: str, given: float | None, taken: float | None) -> None:
    if taken is None:
        with pytest.raises(ContractError, match=r"^value: "):
            RULES[rules].value_of(given)
    else:
        assert RULES[rules].value_of(given) == taken


def test_rules_are_those_of_the_configuration() -> None:
    def of(**data: Any) -> EventRules:
        return EventRules.of(DataConfig.model_validate({"interactions": {"path": "x.csv"}} | data))

    assert of().meaning == "weight"
    assert of().one_weight
    assert not of(cleaning={"implicit_weights": "value"}).one_weight
    assert of(cleaning={"positive_threshold": 4}).meaning == "judged"
    assert of(feedback="explicit").meaning == "rating"
    assert of(cleaning={"duplicates": "first", "max_history": 3}).keep_first
    assert of(cleaning={"max_history": 3}).max_history == 3
    assert of(interactions={"path": "x.csv", "time_format": "order"}).by_order


def test_milliseconds_are_refused_when_they_arrive() -> None:
    assert problem_of_time(1_700_000_000) is None
    assert "not milliseconds" in str(problem_of_time(1_700_000_000_000))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=st.lists(st.tuples(st.sampled_from(ITEMS), st.sampled_from([1.0, 3.0, 5.0])), max_size=6),
    events=st.lists(
        st.tuples(st.sampled_from(ITEMS), st.sampled_from([1.0, 3.0, 5.0]), st.integers(5, 12)), max_size=6
    ),
    duplicates=st.sampled_from(["last", "first"]),
    threshold=st.sampled_from([None, 3.0]),
    weights=st.sampled_from(["one", "value"]),
)
def test_what_serves_before_training_is_what_is_trained(
    tmp_path: Path,
    history: list[tuple[str, float]],
    events: list[tuple[str, float, int]],
    duplicates: str,
    threshold: float | None,
    weights: str,
) -> None:
    """The oracle is cleaning itself. (A dislike that takes an earlier event away is no event in the cleaned history.)"""
    cleaning = {"duplicates": duplicates, "positive_threshold": threshold, "implicit_weights": weights}
    file = [("ann", item, value, place) for place, (item, value) in enumerate(history)] + [("bob", "a", 5.0, 1)]
    recorded = [("ann", *event) for event in events]
    before, after = read(tmp_path, file, [], cleaning=cleaning), read(tmp_path, file, recorded, cleaning=cleaning)
    assert not isinstance(before, str)
    assert not isinstance(after, str)
    rules = EventRules.of(DataConfig.model_validate({"interactions": {"path": "x"}, "cleaning": cleaning}))
    columns, values, times = (_of(before, name) for name in ("indices", "values", "times"))
    item = {key: place for place, key in enumerate(before.items.keys)}
    columns = np.concatenate([columns, np.array([item[f"x:{key}"] for key, _, _ in events], dtype=np.int32)])
    values = np.concatenate([values, np.array([rules.weight(value) for _, value, _ in events], dtype=np.float32)])
    times = np.concatenate([times, np.array([at for _, _, at in events], dtype=np.int64)])
    kept = rules.counted(columns, values, times, earlier=len(_of(before, "indices")))
    dropped_first = duplicates == "first" and threshold is not None and any(value < 3 for _, value in history)
    if not dropped_first:
        assert columns[kept].tolist() == _of(after, "indices").tolist()
        assert values[kept].tolist() == _of(after, "values").tolist()


def _of(data: PlatformData, name: str) -> Any:
    if "ann" not in data.user_ids:
        return np.zeros(0, dtype=getattr(data.interactions, name).dtype)
    row = data.user_ids.index("ann")
    found = getattr(data.interactions, name)
    return found[data.interactions.indptr[row] : data.interactions.indptr[row + 1]]


def test_positions_and_a_longest_history_hold_in_what_serves() -> None:
    columns = np.array([0, 1, 2, 0], dtype=np.int32)
    values = np.ones(4, dtype=np.float32)
    times = np.array([10**12, 10**12 + 1, 5, 4])
    assert EventRules(by_order=True).counted(columns, values, times, earlier=2).tolist() == [1, 3, 2]
    assert EventRules(by_order=True, max_history=2).counted(columns, values, times, earlier=2).tolist() == [3, 2]


def test_a_platform_starts_with_what_an_earlier_version_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The wedge of issue 10: −5 before the first model, and `T ` beside `T`."""
    platform = config(tmp_path)
    path = platform.state / "store" / FEEDBACK_LOG
    with FeedbackLog(path) as log:  # without a configuration, as before
        log.record("e1", "c", "imdb:4", -5.0, 7)
        log.record("e2", "c ", "imdb:4", 1.0, 8)
        log.record("e3", "c", "imdb:4", 0.0, 9)
    data = load_training_data(platform)
    assert data.user_ids == ("c", "a")
    assert data.known.row_lengths.tolist() == [5, 4]
    assert set(data.known.values.tolist()) == {1.0}
    assert "2 entries are not used (number 1, number 3)" in caplog.text
    assert NO_EVENTS.through == 0


def test_a_deployed_recommender_always_has_the_event_rules(tmp_path: Path) -> None:
    def written(**cleaning: Any) -> PlatformConfig:
        platform = config(tmp_path, recommender={"port": port, "token_file": None})
        platform = platform.model_copy(
            update={"data": platform.data.model_copy(update={"cleaning": CleaningConfig(**cleaning)})}
        )
        path.write_text(json.dumps(platform.model_dump(mode="json", exclude_defaults=True)))
        return platform

    port, path = free_port(), tmp_path / "platform.yaml"
    process = PlatformProcess(path)
    process._agent = ReloadableAgent(Recorder(None))  # type: ignore[arg-type]
    (tmp_path / "keys").mkdir()
    KeyFolder(tmp_path / "keys").new_secret()
    with (
        serve_of_platform(written(), CollectorRegistry()) as process._recommender,
        RecommenderClient(f"127.0.0.1:{port}") as client,
    ):
        with pytest.raises(ContractError, match="value: must be a weight above 0"):
            client.record_feedback("c", "imdb:4", value=-5.0)
        assert client.record_feedback("c", "imdb:4", value=7.0).sequence == 1
        written(value_range=(0, 5))
        process._reload()
        with pytest.raises(ContractError, match="value: must lie between 0 and 5"):
            client.record_feedback("c", "imdb:3", value=7.0)
