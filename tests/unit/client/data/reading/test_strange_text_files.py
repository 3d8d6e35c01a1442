"""Text files of strangers: read, with a word of what was told from them, or refused with the setting that mends them."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.cli.main import app as client_app
from client.data.cleaning import load_platform_data
from client.data.reading.reader import open_interactions, read_items, read_users, scan_interactions
from client.deploy.doctor import examine
from client.keys import SealedSecret
from common.config.data import DataConfig, InteractionsConfig, ItemsConfig, UsersConfig
from common.config.loader import load_yaml_model
from common.deploy.provisioning import Invitation, Registration
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError, DataError
from simulations.scenarios.scenario import load_scenario

HEADER = "user_id,item_id,rating,timestamp"
ROWS = ["ann@mail.example,i1,4,1700118705", "ann@mail.example,i2,3,1700491854", "bob@mail.example,i1,5,1700399253"]
FOUND = [tuple(row.split(",")[:2]) for row in ROWS]
BY_NUMBER = {
    "user_column": "column_1",
    "item_column": "column_2",
    "value_column": "column_3",
    "time_column": "column_4",
}
SECOND = 1_700_118_705


def write(path: Path, separator: str = ",", *, header: bool = True, encoding: str = "utf-8", before: str = "") -> Path:
    text = "\n".join([HEADER, *ROWS] if header else ROWS).replace(",", separator) + "\n"
    path.write_bytes((before + text).encode(encoding))
    return path


def pairs(path: Path, **settings: Any) -> list[tuple[str, str]]:
    return scan_interactions(InteractionsConfig(path=path, **settings)).select("user", "item").collect().rows()


def notes(path: Path, **settings: Any) -> str:
    config = DataConfig.model_validate({"interactions": {"path": path, **settings}, "items": {"namespace": "x"}})
    return load_platform_data(config).report.render()


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        open_interactions(InteractionsConfig(path=path, **settings)).frame.collect()
    message = str(caught.value).removeprefix(f"{path}: ")
    assert not any(word in message for row in ROWS for word in row.split(",") if len(word) > 1)
    return message


@pytest.mark.parametrize(("separator", "shown"), [(";", '";"'), ("\t", "tab"), ("|", '"|"'), ("::", '"::"')])
def test_a_separator_is_told_from_the_header_and_said(tmp_path: Path, separator: str, shown: str) -> None:
    path = write(tmp_path / "a.csv", separator)
    assert pairs(path) == FOUND
    assert f"note: fields are taken to be separated by {shown}" in notes(path)
    assert "else set interactions.separator" in notes(path)


def test_the_formats_own_separator_needs_no_word(tmp_path: Path) -> None:
    assert "separated" not in notes(write(tmp_path / "a.csv"))
    assert "separated" not in notes(write(tmp_path / "a.tsv", "\t"))


def test_a_row_never_decides_the_separator(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ";", header=False)
    assert 'set interactions.separator: ";"' in refusal(path, header=False, **BY_NUMBER)
    assert pairs(path, header=False, separator=";", **BY_NUMBER) == FOUND


@pytest.mark.parametrize("separator", [",", "\t", "|"])
def test_a_wrong_separator_is_named_with_the_likely_one(tmp_path: Path, separator: str) -> None:
    message = refusal(write(tmp_path / "a.csv", ";"), separator=separator)
    assert '";" would split its first line into 4 fields' in message
    assert 'set interactions.separator: ";"' in message


@pytest.mark.parametrize("line", ["sep=;\n", '"SEP=;"\r\n'])
def test_the_first_line_of_excel_is_taken_at_its_word(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "a.csv", ";", before=line)
    assert pairs(path) == FOUND
    assert scan_interactions(InteractionsConfig(path=path)).collect()["row"].to_list() == [3, 4, 5]
    assert 'its first line says that ";" separates fields' in notes(path)
    assert pairs(write(tmp_path / "b.csv", "|", before=line), separator="|") == FOUND


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_utf_16_is_read_and_said(tmp_path: Path, mark: bytes) -> None:
    name = "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be"
    path = write(tmp_path / "a.csv", encoding=name)
    message = refusal(path)
    assert "UTF-16" in message
    assert f"set interactions.encoding: {name}" in message
    assert "\0" not in message
    assert pairs(path, encoding=name) == FOUND
    path.write_bytes(mark + path.read_bytes())
    assert pairs(path) == FOUND
    assert "note: its byte-order mark says UTF-16, and so it was read" in notes(path)


def test_latin_1_is_refused_with_its_line_and_setting(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("user,item\nann,café\nbob,thé\n".encode("latin-1"))
    message = refusal(path)
    assert message.startswith("line 2 is not UTF-8 text; set interactions.encoding")
    assert "latin-1" in message
    assert pairs(path, encoding="latin-1") == [("ann", "café"), ("bob", "thé")]
    assert "not text in ascii; set interactions.encoding" in refusal(path, encoding="ascii")


def test_a_byte_order_mark_of_utf_8_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", encoding="utf-8-sig")
    assert open_interactions(InteractionsConfig(path=path)).table.schema.keys() == set(HEADER.split(","))


def test_a_file_without_header_is_told_and_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", header=False)
    message = refusal(path)
    assert "set interactions.header: false" in message
    assert "column_1 to column_4" in message
    assert "set interactions.user_column" in refusal(path, header=False)
    assert pairs(path, header=False, **BY_NUMBER) == FOUND
    assert "did you mean" not in refusal(path, user_column="anm@mail.example")


@pytest.mark.parametrize("row", ["ann,alien", "ann,alien,order", "ann,,alien", "ann@mail.example,alien,rating,time"])
def test_a_first_row_that_looks_like_names_is_not_shown(tmp_path: Path, row: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{row}\n{row}\n")
    with pytest.raises(DataError) as caught:
        open_interactions(InteractionsConfig(path=path))
    assert "ann" not in str(caught.value).removeprefix(str(path))
    assert "alien" not in str(caught.value).removeprefix(str(path))


def test_double_colons_are_named_with_all_settings(tmp_path: Path) -> None:
    path = write(tmp_path / "ratings.dat", "::", header=False)
    message = refusal(path)
    assert "set interactions.format: csv" in message
    assert 'format: csv, separator: "::", and header: false' in message
    assert pairs(path, format="csv", separator="::", header=False, **BY_NUMBER) == FOUND
    path.write_text('1::"24::x\n2::3::y\n')
    found = pairs(path, format="csv", separator="::", header=False, user_column="column_1", item_column="column_2")
    assert found == [("1", '"24'), ("2", "3")]
    path.write_text("1::2\n3\x1f4::5\n")
    assert "line 2 holds the control character" in refusal(
        path, format="csv", separator="::", header=False, user_column="column_1", item_column="column_2"
    )


@pytest.mark.parametrize(
    ("content", "mend"),
    [
        (b"PK\x03\x04 and so on", "is a ZIP archive or an Excel workbook; save it as CSV"),
        (b"PAR1 and so on", "set interactions.format: parquet"),
        (b"\x28\xb5\x2f\xfd and so on", "is compressed with zstd"),
        (b"user,item\rann@mail.example,i1\rbob@mail.example,i2\r", "its lines end in CR alone"),
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"sep=;\n", "is empty"),
        (b"user,item\n", "has a header and no rows"),
        (gzip.compress(b"user,item\nann,i1\n", mtime=0)[:-12], "is a damaged or truncated gzip file"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path: Path, content: bytes, mend: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    assert mend in refusal(tmp_path / "a.csv")


def test_a_column_may_be_called_as_the_row_number_was(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("user,item,_row_number,row,_row\nann,1,7,8,9\n")
    frame = scan_interactions(InteractionsConfig(path=path, item_column="row")).collect()
    assert frame.select("row", "item").rows() == [(2, "8")]
    assert read_items(ItemsConfig(path=path)).attributes.columns == ["user", "_row_number", "row", "_row"]


@pytest.mark.parametrize("settings", [{"separator": "\n"}, {"separator": ""}, {"quote": "no"}, {"encoding": "klingon"}])
def test_settings_that_can_be_none_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        InteractionsConfig(path=Path("a.csv"), **settings)


@pytest.mark.parametrize("name", ["items", "users"])
def test_items_and_users_files_are_told_and_read_alike(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.csv"
    path.write_bytes(f"{name[:-1]}_id;title;genres\n1;café;a\n".encode("utf-16"))
    if name == "items":
        assert read_items(ItemsConfig(path=path)).frame["title"].to_list() == ["café"]
    else:
        assert read_users(UsersConfig(path=path))["title"].to_list() == ["café"]


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("second", [SECOND, 8_000_000, 90_000_000, 7_200_000_000])
def test_times_are_told_in_whatever_unit(tmp_path: Path, unit: int, second: int) -> None:
    """Milliseconds of the early seventies were taken for seconds of the year 3000."""
    path = tmp_path / "a.csv"
    path.write_text(f"user,item,time\nann,1,{second * unit}\nann,2,{second * unit}.0\n")
    for time_format in ("auto", "unix"):
        frame = scan_interactions(InteractionsConfig(path=path, time_format=time_format)).collect()
        assert frame["time"].to_list() == [second, second]


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    return write(tmp_path / "nohead.csv", header=False)


@pytest.mark.parametrize(
    "read",
    [
        Registration.read,
        Invitation.read,
        load_scenario,
        lambda path: load_yaml_model(path, PlatformConfig),
        lambda path: load_yaml_model(path, SealedSecret),
    ],
)
def test_a_data_file_in_a_configurations_place_is_not_shown(rows_file: Path, read: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read(rows_file)
    assert str(caught.value).startswith(f"{rows_file}: holds text")
    assert "ann" not in str(caught.value)


PLATFORM = """
name: cinema
aggregator: "127.0.0.1:1"
data: {interactions: {path: %s}, items: {path: items.csv, namespace: x}}
plan: {federation: films, platforms: 2, privacy: {mode: none}}
"""


@pytest.mark.parametrize("path", ['""', ".", "~nosuchuser/r.csv", "n" * 300, "$CROSSFED_TEST_EMPTY", "'x.csv'"])
def test_doctor_names_a_path_that_can_be_none(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSFED_TEST_EMPTY", "")
    (tmp_path / "items.csv").write_text("item\n1\n")
    (tmp_path / "platform.yaml").write_text(PLATFORM % path)
    findings = {one.what: one for one in examine(tmp_path / "platform.yaml", devices=False)}
    found = findings["data"] if path in (".", "'x.csv'") else findings["configuration"]
    assert found.level == "wrong"
    expected = {".": "is a folder without .parquet files", "'x.csv'": "there is no such file"}
    assert expected.get(path, "data.interactions.path: ") in found.detail


def test_the_clients_commands_do_not_show_a_data_file(rows_file: Path) -> None:
    result = CliRunner().invoke(client_app, ["doctor", "--config", str(rows_file)])
    assert result.exit_code == 1
    assert "ann@" not in result.output
