"""Consent, objection and retention, as files and configuration say; each decided by one person's rows alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from client.data.cleaning import load_platform_data
from client.data.dataset import PlatformData
from client.data.independence import check_users_independent
from client.data.recorded import Event, columns_of
from common.config.data import DataConfig
from common.errors import DataError

NOW = int(time.time())
VIEWS = f"""user_id,item_id,timestamp,agreed,stop
ann,0,{NOW - 100},yes,
ann,1,{NOW - 90 * 86_400}, YES ,
bob,0,{NOW - 100},no,
bob,2,{NOW - 100},1,
cid,0,{NOW - 100},yes,
cid,1,{NOW - 100},yes,x
dan,3,,yes,
"""
USERS = "user_id,age,agreed,stop\nann,20,true,\nbob,30,false,\ncid,40,TRUE,\nbob,31,true,\ndan,,true,1\n"


def read(folder: Path, recorded: Any = (), views: str = VIEWS, **changes: Any) -> PlatformData:
    (folder / "views.csv").write_text(views)
    (folder / "users.csv").write_text(USERS)
    (folder / "items.csv").write_text("item_id\n0\n1\n2\n3\n")
    interactions = {"path": folder / "views.csv"} | changes.pop("interactions", {})
    users = {"path": folder / "users.csv"} | changes.pop("users", {})
    data = {"interactions": interactions, "items": {"path": folder / "items.csv", "namespace": "x"}, "users": users}
    config = DataConfig.model_validate(data | changes)
    check_users_independent(config)
    return load_platform_data(config, recorded=columns_of(recorded, len(recorded)))


def histories(data: PlatformData) -> Mapping[str, list[int]]:
    return {user: sorted(data.interactions.row(row).tolist()) for row, user in enumerate(data.user_ids)}


def test_without_settings_everybody_is_read(tmp_path: Path) -> None:
    assert histories(read(tmp_path)) == {"ann": [0, 1], "bob": [0, 2], "cid": [0, 1], "dan": [3]}


def test_rows_need_consent_of_their_own(tmp_path: Path) -> None:
    data = read(tmp_path, interactions={"consent": {"column": "agreed", "values": ["yes"]}})
    assert histories(data) == {"ann": [0, 1], "cid": [0, 1], "dan": [3]}
    data = read(tmp_path, interactions={"consent": {"column": "agreed", "values": [" 1 ", "Yes"]}})
    assert histories(data)["bob"] == [2]


def test_one_objecting_row_takes_all_rows_of_its_person(tmp_path: Path) -> None:
    mark = {"column": "stop", "values": ["x"]}
    assert histories(read(tmp_path, interactions={"opt_out": mark})).keys() == {"ann", "bob", "dan"}


def test_the_users_file_decides_for_a_person(tmp_path: Path) -> None:
    consent = {"column": "agreed", "values": ["true"]}
    data = read(tmp_path, users={"consent": consent, "opt_out": {"column": "stop", "values": ["1"]}})
    # Of Bob's two rows the last counts, and Dan objects.
    assert histories(data).keys() == {"ann", "bob", "cid"}
    assert data.users is not None
    assert data.users.columns == ["age"], "marks are no attributes"


def test_who_is_in_no_users_file_has_not_consented(tmp_path: Path) -> None:
    event = (1, "eve", Event("x:2", 1.0, NOW))
    assert "eve" in read(tmp_path, [event]).user_ids
    data = read(tmp_path, [event], users={"consent": {"column": "agreed", "values": ["true"]}})
    assert "eve" not in data.user_ids


def test_recorded_events_count_for_who_consents_in_the_file(tmp_path: Path) -> None:
    events = [(n, user, Event("x:2", 1.0, NOW)) for n, user in enumerate(("ann", "bob", "eve"), start=1)]
    data = read(tmp_path, events, interactions={"consent": {"column": "agreed", "values": ["yes"]}})
    assert histories(data)["ann"] == [0, 1, 2]
    assert {"bob", "eve"}.isdisjoint(data.user_ids)
    events = [(1, "cid", Event("x:2", 1.0, NOW))]
    assert "cid" not in read(tmp_path, events, interactions={"opt_out": {"column": "stop", "values": ["x"]}}).user_ids


def test_what_is_old_or_without_a_time_is_not_read(tmp_path: Path) -> None:
    events = [(1, "bob", Event("x:3", 1.0, NOW - 31 * 86_400)), (2, "bob", Event("x:1", 1.0, NOW - 86_400))]
    data = read(tmp_path, events, retention_days=30)
    assert histories(data) == {"ann": [0], "bob": [0, 1, 2], "cid": [0, 1]}
    [dropped] = [one for one in data.report.dropped if "retention_days" in one.reason and not one.recorded]
    assert (dropped.rows, dropped.asked) == (2, True)
    assert histories(read(tmp_path, retention_days=365))["ann"] == [0, 1]


@pytest.mark.parametrize("section", ["interactions", "users"])
@pytest.mark.parametrize("kind", ["consent", "opt_out"])
def test_a_file_without_the_column_is_refused(tmp_path: Path, section: str, kind: str) -> None:
    with pytest.raises(DataError, match=rf"{section}\.{kind}\.column"):
        read(tmp_path, **{section: {kind: {"column": "consented", "values": ["yes"]}}})


def test_retention_without_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="retention_days"):
        read(tmp_path, retention_days=3, interactions={"time_format": "order"})
    (tmp_path / "items.csv").write_text("item_id\n0\n")
    path = tmp_path / "bare.csv"
    path.write_text("user_id,item_id\na,0\n")
    config = DataConfig.model_validate({"interactions": {"path": path}, "retention_days": 3})
    with pytest.raises(DataError, match=r"interactions\.time_column"):
        load_platform_data(config, platform="p")


def test_nobody_is_changed_by_another_persons_mark(tmp_path: Path) -> None:
    settings = {
        "interactions": {
            "consent": {"column": "agreed", "values": ["yes"]},
            "opt_out": {"column": "stop", "values": ["x"]},
        },
        "retention_days": 30,
    }
    views = f"{VIEWS}eli,1,{NOW},yes,\n"
    everybody = histories(read(tmp_path, views=views, **settings))
    for gone in ("ann", "bob", "cid", "dan"):
        lines = [line for line in views.splitlines(keepends=True) if not line.startswith(gone)]
        (tmp_path / gone).mkdir()
        (tmp_path / gone / "views.csv").write_text("".join(lines))
        data = settings | {"items": {"path": tmp_path / "items.csv", "namespace": "x"}}
        section = {"path": tmp_path / gone / "views.csv"} | settings["interactions"]  # type: ignore[operator]
        found = histories(load_platform_data(DataConfig.model_validate(data | {"interactions": section})))
        assert found == {user: row for user, row in everybody.items() if user != gone}
