"""Drops of cleaning are said wherever data are read, with the mend where it is known, and never with an id or a value."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from client.cli.main import app
from client.data.cleaning import load_platform_data
from client.data.dataset import PlatformData
from client.deploy.agent_process import PlatformProcess
from client.deploy.join import join_federation
from client.deploy.loading import load_training_data
from client.keys import KeyFolder
from common.config.data import DataConfig
from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.roles import AggregatorConfig, PlatformConfig
from common.errors import DataError
from server.deploy.provisioning import initialise, invite
from simulations.cli import main as cli
from simulations.engine.datasets import make_platforms
from simulations.scenarios.scenario import load_scenario

PLAN = read_plan({"federation": "films", "platforms": 2, "privacy": {"mode": "none"}})
COMMAS = "user_id,item_id,rating\n" + "".join(
    f"reader{user},{item},{'4' if (user + item) % 5 else chr(34) + '3,5' + chr(34)}\n"
    for user in range(12)
    for item in range(10)
)
ITEMS = "item_id,title\n" + "".join(f"{item},Book {item}\n" for item in range(10))
SAID = (
    "kept 96 of 120 rows",
    "dropped 24: whose value is missing or not a finite number (lines 2, 7, 16, …)",
    'note: 24 values have a decimal comma, as 3,5: set interactions.decimal: ","',
    "WARNING: 20.0% of the rows were dropped",
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "comma.csv").write_text(COMMAS)
    (tmp_path / "books.csv").write_text(ITEMS)
    return tmp_path


@pytest.fixture
def invitation(files: Path) -> Path:
    aggregator = load_yaml_model(initialise(files / "agg", PLAN, "h.example.org:9443").config, AggregatorConfig)
    invite(aggregator, "shop", files / "shop.invitation")
    return files / "shop.invitation"


@pytest.fixture
def config_path(invitation: Path) -> Path:
    folder = invitation.parent
    given = {"interactions": folder / "comma.csv", "items": folder / "books.csv", "namespace": "isbn"}
    path = join_federation(invitation, folder / "shop", **given).config  # type: ignore[arg-type]
    KeyFolder(folder / "shop/keys").new_secret()
    return path


def told(text: str) -> None:
    plain = " ".join(text.split())
    assert [said for said in SAID if said not in plain] == []
    assert "reader" not in plain


def client(*arguments: object) -> tuple[str, str]:
    done = CliRunner().invoke(app, [str(word) for word in arguments], env={"COLUMNS": "200"})
    assert done.exit_code in (0, 1), done.output
    return done.stdout, done.stderr


def test_join_says_what_it_would_drop(invitation: Path) -> None:
    folder = invitation.parent
    files = ("--interactions", folder / "comma.csv", "--items", folder / "books.csv", "--namespace", "isbn")
    told(client("join", invitation, folder / "new", *files)[0])


def test_join_says_why_data_cannot_be_used_yet(invitation: Path) -> None:
    folder = invitation.parent
    (folder / "empty.csv").write_text("user_id,item_id\n")
    output, _ = client("join", invitation, folder / "new", "--interactions", folder / "empty.csv")
    assert "the data cannot be used yet" in output
    assert (folder / "new" / "platform.yaml").exists()


def test_doctor_and_preview_say_it(config_path: Path) -> None:
    [found] = [
        one
        for one in json.loads(client("doctor", "-c", config_path, "--json", "--no-devices")[0])
        if one["what"] == "data"
    ]
    assert found["level"] == "note"
    told(found["detail"])
    told(client("preview", "-c", config_path)[0])
    rows, said = client("preview", "-c", config_path, "--json")
    assert json.loads(rows), "the report does not stand in the way of programs"
    told(said)


def test_start_says_it_in_the_log(config_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Started(Exception):
        """The data has been read."""

    def stop(*_: object) -> NoReturn:
        raise Started

    caplog.set_level(logging.INFO)
    with pytest.raises(Started):
        PlatformProcess(config_path, "agent", make=stop).run()
    told(caplog.text.replace(": 20.0%", ": WARNING: 20.0%"))
    assert [record.levelname for record in caplog.records if "20.0%" in record.message] == ["WARNING"]


def scenario(folder: Path, **interactions: str) -> Path:
    content: dict[str, Any] = {
        "partition": {
            "data": {
                "interactions": {"path": "comma.csv"} | interactions,
                "items": {"path": "books.csv", "namespace": "isbn"},
            },
            "platforms": {"a": 1, "b": 1},
            "common_items": 0.5,
        },
        "plan": {"rounds": 1, "model": {"dimension": 2}, "privacy": {"mode": "none"}},
        "personalization": {"tuning_candidates": 1, "anchored": False},
        "cross": {"ceiling": False, "tune_beta": False},
    }
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.usefixtures("one_thread")
def test_run_and_cross_validate_say_it(files: Path) -> None:
    path = scenario(files)
    for command in (["run"], ["cross-validate", "--folds", "2"]):
        done = CliRunner().invoke(cli.app, [command[0], str(path), *command[1:], "--output", str(files / command[0])])
        told(done.stdout.split("\n\na, b: ", maxsplit=1)[1].split("\n\nwritten")[0])
    cleaning = json.loads((files / "run/result.json").read_text())["platforms"]["a"]["cleaning"]
    assert cleaning["warning"].startswith("20.0%")


def test_commands_with_other_tables_warn(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_platforms(load_scenario(str(scenario(files))))
    told(caplog.text)
    caplog.clear()
    make_platforms(load_scenario(str(scenario(files, decimal=","))))
    assert caplog.text == ""


def read(folder: Path, rows: str, catalogue: str | None = None, /, **settings: Any) -> PlatformData:
    (folder / "i.csv").write_text(rows)
    given: dict[str, Any] = {"interactions": {"path": folder / "i.csv"}, "items": {"namespace": "isbn"}}
    if catalogue is not None:
        (folder / "items.csv").write_text(catalogue)
        given["items"]["path"] = folder / "items.csv"
    for name, value in settings.items():
        given[name] = given.get(name, {}) | value if isinstance(value, dict) else value
    return load_platform_data(DataConfig.model_validate(given))


def test_decimal_commas_are_read_where_a_setting_says_so(tmp_path: Path) -> None:
    rows = 'user;item;rating\nu;a;3,5\nu;b;4.5\nu;c;2\nu;d;"1.234,5"\nu;e;1,2,3\nv;a;-0,5\n'
    data = read(tmp_path, rows, interactions={"separator": ";", "decimal": ","}, feedback="explicit")
    assert data.interactions.values.tolist() == [3.5, 4.5, 2.0, -0.5]
    assert [(one.rows, one.examples) for one in data.report.dropped] == [(2, (5, 6))]
    plain = read(tmp_path, rows, interactions={"separator": ";"}, feedback="explicit")
    assert plain.interactions.values.tolist() == [4.5, 2.0]
    assert '2 values have a decimal comma, as 3,5: set interactions.decimal: ","' in plain.report.notes


def test_decimal_commas_of_items_and_users_too(tmp_path: Path) -> None:
    items = 'item;title;price;code\na;A;"3,5";1,a\nb;B;4;2\n'
    (tmp_path / "users.csv").write_text("user;age\nu;30,5\nv;20\n")
    comma = {"separator": ";", "decimal": ","}
    data = read(tmp_path, "user,item\nu,a\nv,b\n", items, items=comma, users=comma | {"path": tmp_path / "users.csv"})
    assert data.items.attributes["price"].to_list() == [3.5, 4.0]
    assert data.items.attributes["code"].dtype == pl.String
    assert data.users is not None
    assert data.users["age"].to_list() == [30.5, 20.0]


def test_a_file_of_decimal_commas_alone_is_an_error_with_its_mend(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'dropped all of its 1 rows.*set interactions\.decimal: ","'):
        read(tmp_path, 'user,item,rating\nu,a,"3,5"\n')


def test_dates_of_other_kinds_among_iso_dates_are_named(tmp_path: Path) -> None:
    rows = "user,item,date\nu,a,2024-12-31\nu,b,12/31/2024\nu,c,31.12.2024 10:00\nu,d,soon\nu,e,1700000000\n"
    data = read(tmp_path, rows)
    assert [(one.reason, one.rows, one.examples) for one in data.report.dropped] == [
        ("with an unreadable time", 3, (3, 4, 5))
    ]
    assert any(note.startswith("2 times are dates such as 12/31/2024") for note in data.report.notes)


def test_ids_that_a_spreadsheet_cut_down_are_named(tmp_path: Path) -> None:
    items = "isbn,title\n9.78E+12,One\n9.78E+12,Other\n9780306406157,Third\n5E12,Code\n"
    rows = "user,item\nu,9.78E+12\nu,9780306406157\nv,5E12\n"
    data = read(tmp_path, rows, items)
    notes = "\n".join(data.report.notes)
    assert "2 ids of the items file are written as 9.78E+12" in notes
    assert "1 rows of the items file repeat an id" in notes
    assert "1 item ids of the interactions are written as 9.78E+12" in notes
    assert not any("9.78E+12" in note for note in read(tmp_path, "user,item\nu,5E12\n").report.notes)


def test_whole_numbers_with_a_fraction_meet_those_without(tmp_path: Path) -> None:
    data = read(tmp_path, "user,item\n1,3.0\n1.0,4\n2,3\n", "item,title\n3,Three\n4,Four\n")
    assert (data.user_ids, data.interactions.row_lengths.tolist(), data.report.dropped) == (("1", "2"), [2, 1], ())
    assert data.report.notes[:2] == (
        "1 rows have the user id written as 3.0, as programs write whole numbers once one is missing; it is taken as 3",
        "1 rows have the item id written as 3.0, as programs write whole numbers once one is missing; it is taken as 3",
    )


def test_what_a_setting_asks_for_is_no_warning(tmp_path: Path) -> None:
    rows = "user,item,rating\n" + "".join(f"u,{item},{item % 5}\n" for item in range(100)) + "u,1,4\n"
    data = read(tmp_path, rows, cleaning={"positive_threshold": 4, "max_history": 10})
    assert {one.asked for one in data.report.dropped} == {True}
    assert "WARNING" not in data.report.render()


@pytest.mark.parametrize(("bad", "warned"), [(1, False), (2, True)])
def test_the_warning_begins_above_one_percent(tmp_path: Path, bad: int, warned: bool) -> None:
    rows = "".join(f"u,{item}\n" for item in range(100 - bad)) + ",x\n" * bad
    assert ("WARNING" in read(tmp_path, "user,item\n" + rows).report.render()) == warned


@pytest.mark.parametrize("end", ["\n", "\r\n", ""], ids=repr)
def test_examples_are_lines_where_rows_are_lines(tmp_path: Path, end: str) -> None:
    line = end or "\n"
    text = line.join(["user,item", "u,a", ",b", "u,c"]) + end
    assert "without a user (line 3)" in read(tmp_path, text).report.render()
    assert "without a user (line 2)" in read(
        tmp_path, line.join(["u,a", ",b"]) + end,
        interactions={"header": False, "user_column": "column_1", "item_column": "column_2"},
    ).report.render()  # fmt: skip
    spread = read(tmp_path, 'user,item,text\nu,a,"two\nlines"\n,b,one\n')
    assert "without a user (line 4)" in spread.report.render(), "the line on which the record begins"


def test_a_deployed_platform_reads_the_setting(config_path: Path) -> None:
    content = yaml.safe_load(config_path.read_text())
    content["data"]["interactions"]["decimal"] = ","
    config_path.write_text(yaml.safe_dump(content))
    assert load_training_data(load_yaml_model(config_path, PlatformConfig)).known.nnz == 120
