"""Records of text files: against Python's csv module, and one user's text never reaches another user's rows."""

from __future__ import annotations

import csv
import gzip
import io
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.data.cleaning import load_platform_data
from client.data.reading.dialect import find_dialect
from client.data.reading.reader import read_items, read_users, scan_interactions
from client.data.reading.records import LARGEST_RECORD
from client.data.reading.text import scan_text
from common.config.data import DataConfig, FileConfig, InteractionsConfig, ItemsConfig, UsersConfig
from common.config.loader import parse_model
from common.errors import DataError

Row = tuple[str, ...]


def rows_of(
    path: Path, *, kind: str = "csv", size: int = 1 << 20, largest: int = LARGEST_RECORD, **settings: Any
) -> list[Row]:
    """The fields as text, an empty one as ""; without the line numbers."""
    dialect = find_dialect(path, FileConfig(**settings), kind, "interactions")
    frame = scan_text(path, dialect, "line", size, largest=largest).collect(engine="streaming").drop("line")
    return [tuple(field or "" for field in row) for row in frame.rows()]


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        rows_of(path, **settings)
    assert caught.value.__cause__ is None
    return str(caught.value).removeprefix(f"{path}: ")


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


fields = st.text(st.sampled_from(list("ab\" ,;\n\r\t'\\é")), max_size=6)
tables = st.integers(2, 4).flatmap(lambda width: st.lists(st.tuples(*[fields] * width), min_size=1, max_size=12))


@given(tables, st.integers(1, 40), st.sampled_from([",", ";", "\t"]), st.sampled_from(["\n", "\r\n"]))
def test_what_csv_writes_is_read(rows: list[Row], size: int, separator: str, line_end: str) -> None:
    text = io.StringIO(newline="")
    # Where lines end in \n alone, the writer leaves a \r at a line's end without quotes.
    quoting = csv.QUOTE_ALL if line_end == "\n" else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=separator, lineterminator=line_end, quoting=quoting)
    writer.writerow(f"name{column}" for column in range(len(rows[0])))
    writer.writerows(rows)
    expected = [tuple(row) for row in csv.reader(io.StringIO(text.getvalue(), newline=""), delimiter=separator)][1:]
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.csv", text.getvalue())
        assert rows_of(path, size=size, separator=separator, multiline=True) == expected == rows


@given(tables, st.integers(1, 40))
def test_escaped_quotes_are_read(rows: list[Row], size: int) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, doublequote=False, escapechar="\\", quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(f"name{column}" for column in range(len(rows[0])))
    writer.writerows(rows)
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.csv", text.getvalue())
        assert rows_of(path, size=size, escape="backslash", multiline=True) == rows


texts = st.sampled_from(["", "a", '"', '"a', 'a"', '"a"', 'a"b', '""', '"a""', '\\"', '\\"a\\"', '" a', "\\", '"\\'])
naive = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), texts), min_size=1, max_size=8)


@example([("a", "x", '"a'), ("b", "y", ""), ("a", "z", 'a"')], 2, 60, "double")
@example([("a", "x", 'a"b'), ("b", "y", ""), ("a", "z", 'a"b')], 2, 60, "double")
@given(naive, st.integers(0, 2), st.integers(1, 60), st.sampled_from(["double", "backslash"]))
def test_free_text_never_reaches_other_users_rows(rows: list[Row], place: int, size: int, escape: str) -> None:
    """Text that its writer did not quote: an error, or every other user's rows as they stand in the file."""
    columns = ["user", "item"]
    columns.insert(place, "review")

    def read(kept: list[Row]) -> list[Row] | None:
        lines = [[*row[:2][:place], row[2], *row[:2][place:]] for row in kept]
        with TemporaryDirectory() as folder:
            path = write(Path(folder) / "a.csv", "\n".join(",".join(line) for line in [columns, *lines]) + "\n")
            try:
                found = rows_of(path, size=size, separator=",", escape=escape)
            except DataError:
                return None
        return [tuple(row[columns.index(name)] for name in ("user", "item")) for row in found]

    found = read(rows)
    assert found in (None, [row[:2] for row in rows])
    without = read([row for row in rows if row[0] != "a"])
    if found is not None:
        assert without in (None, [row for row in found if row[0] != "a"])


@given(st.text(st.sampled_from(list('ßĸ"",\n\r\\ ')), max_size=40), st.integers(1, 20), st.booleans())
def test_a_refusal_holds_no_word_of_the_file(body: str, size: int, multiline: bool) -> None:
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.csv", "user,item\n" + body)
        try:
            rows_of(path, size=size, multiline=multiline)
        except DataError as error:
            message = str(error)
        else:
            message = ""
    assert not re.search("[ßĸ]", message)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ['1,2,fits 24" wheel', "1,3,ok", '2,2,fits 24" wheel'],
            "line 2 has a quote inside a field that does not begin",
        ),
        (["1,2,ok", '1,2,"24" wheel'], "line 3 has text behind the quote that closes a field"),
        (
            ['1,2,"24', "1,3,ok", '2,2,"24'],
            "line 4 has text behind a quote that closes the field which a quote in line 2",
        ),
        (
            ['1,2,"great', "1,3,ok", '2,2,wheel 24"'],
            "line 2 has a quoted field that goes on to line 4, which looks like a row",
        ),
        (["1,2,ok", '1,2,"never closed', "1,3,ok"], "line 3 has a quote that opens a field and is not closed"),
        (['"1"x,2,ok'], "line 2 has text behind the quote"),
        (['1,"2"\rx,ok'], "line 2 has text behind the quote"),
        (["1,2,a,b"], "line 2 has 4 fields, the first line has 3"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "tsv", "gz", "inter"])
def test_a_stray_quote_is_an_error_with_its_line(tmp_path: Path, lines: list[str], message: str, kind: str) -> None:
    text = "\n".join(["user,item,review", *lines]) + "\n"
    path = tmp_path / ("a.csv.gz" if kind == "gz" else f"a.{kind}")
    text = text if kind in ("csv", "gz") else text.replace(",", "\t")
    path.write_bytes(gzip.compress(text.encode()) if kind == "gz" else text.encode())
    settings = {"kind": kind, "quote": '"'} if kind == "inter" else {"kind": "csv" if kind == "gz" else kind}
    found = refusal(path, **settings)
    assert found.startswith(message)
    if "fields" not in message:
        assert "set interactions.quote: none" in found
        rows = rows_of(path, **settings | {"quote": "none"})
        assert rows == [tuple(line.split(",")) for line in lines]


def test_a_stray_quote_is_refused_in_items_and_users_files(tmp_path: Path) -> None:
    items = write(tmp_path / "items.csv", 'item,title\n1,24" wheel\n2,b\n3,24" wheel\n')
    users = write(tmp_path / "users.csv", 'user,note\n1,24" wheel\n2,b\n3,24" wheel\n')
    with pytest.raises(DataError, match=r"items.csv: line 2 has a quote .*set items.quote: none"):
        read_items(ItemsConfig(path=items))
    with pytest.raises(DataError, match=r"users.csv: line 2 has a quote .*set users.quote: none"):
        read_users(UsersConfig(path=users))
    assert read_items(ItemsConfig(path=items, quote="none")).frame["title"].to_list() == ['24" wheel', "b", '24" wheel']
    assert read_users(UsersConfig(path=users, quote="none"))["note"].to_list() == ['24" wheel', "b", '24" wheel']


def histories(path: Path, **settings: Any) -> dict[str, list[tuple[int, float, int]]]:
    mapping = {"interactions": {"path": str(path), **settings}, "items": {"namespace": "x"}}
    data = load_platform_data(parse_model(mapping, DataConfig, "test"))
    matrix = data.interactions
    return {
        user: [(data.items.keys[item], value) for item, value in zip(matrix.row(row), matrix.values, strict=False)]
        for row, user in enumerate(data.user_ids)
    }


def test_one_users_quotes_leave_other_histories_alone(tmp_path: Path) -> None:
    """The case that was found: two reviews of one user took the rows between them, and changed 59 other histories."""
    rows = [(f"u{row % 20}", f"i{row * 7 % 31}", "ok") for row in range(300)]
    rows[3], rows[250] = ("u3", "i1", '24" ok'), ("u3", "i2", '24" ok')
    text = "user,item,review\n" + "".join(",".join(row) + "\n" for row in rows)
    path = write(tmp_path / "all.csv", text)
    with pytest.raises(DataError, match="line 5 has a quote"):
        histories(path)
    others = write(tmp_path / "others.csv", re.sub(r"u3,.*\n", "", text))
    found, without = histories(path, quote="none"), histories(others)
    assert len(without) == 19
    assert {user: one for user, one in found.items() if user != "u3"} == without


def test_records_are_counted_apart_from_the_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.csv", "user,item\nann,1\nbob,2\ncy,3\n")
    parse = pl.read_csv
    monkeypatch.setattr(pl, "read_csv", lambda *given, **more: parse(*given, **more)[:-1])
    with pytest.raises(DataError, match="lines 2 to 4 hold 3 records, of which 2 were read"):
        scan_interactions(InteractionsConfig(path=path)).collect()


def test_blank_lines_are_no_records_and_lines_are_counted(tmp_path: Path) -> None:
    text = '\n\nuser,item,note\r\n\r\na,1,"x\ny"\n\n\nb,2,z\n\n'
    path = write(tmp_path / "a.csv", text)
    for size in (1, 5, 1000):
        dialect = find_dialect(path, FileConfig(), "csv", "interactions")
        frame = scan_text(path, dialect, "line", size).collect(engine="streaming")
        assert frame.rows() == [("a", "1", "x\ny", 5), ("b", "2", "z", 9)]


def test_missing_fields_at_a_lines_end_are_empty(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "a.csv", "a,b,c\n1\n1,2\n,,\n1,2,3")) == [
        *(("1", "", ""), ("1", "2", ""), ("", "", ""), ("1", "2", "3"))
    ]


def test_a_file_whose_quote_never_closes_is_given_up(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'a,b\n1,"2\n' + "1,2\n" * 600_000)
    assert refusal(path, size=1 << 18, largest=1 << 20).startswith(
        "line 2 has a quote that opens a field and is not closed before 1 MiB"
    )


def test_packed_text_that_breaks_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"user,item\n" + b"1,2\n" * 10_000)[:-9])
    assert refusal(path).startswith("is a damaged or truncated gzip file")
