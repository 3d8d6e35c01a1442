"""Numbers and lists as people write them: prices, decimal commas, dates, brackets; what is none stays missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.data.items import catalogue_from_file
from client.data.reading.values import listed, numbers
from common.config.data import ItemsConfig


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["$ 3.50", "US$1,200", "7 EUR", "-2"], [3.5, 1200.0, 7.0, -2.0]),
        (["3,5", "1.200,00 €", "1.250"], [3.5, 1200.0, 1250.0]),
        (["1,234", "12.5"], [1234.0, 12.5]),
        (["1'234'567", "5 000", "\u22122", "12 %"], [1234567.0, 5000.0, -2.0, 12.0]),
        (
            ["1994", "1994-01-01", "2016-07", "2016-07-01T10:00:00Z"],
            [1994.0, 1994.0, 2016 + 182 / 366, 2016 + 182 / 366],
        ),
        (["NULL", "nan", "", None], [None, None, None, None]),
        (["12 OZ", "1.2.3", "0x10", "1_000", "1e999", "$", "2016-13", "$ -"], [None] * 8),
        (["1,234.5", "3,5"], [1234.5, None]),
    ],
)
def test_numbers_are_read_as_people_write_them(written: list[str | None], read: list[float | None]) -> None:
    assert numbers(written)[0] == read


def test_what_was_not_plain_is_said() -> None:
    assert numbers(["1", "2.5"])[1] == ()
    said = " ".join(numbers(["$ 1,5", "3 €", "2016-07-01"])[1])
    assert all(word in said for word in ("$, € are left out", "a comma", "1 dates"))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('["a", "b, c"]', ["a", "b, c"]),
        ("['a', None, 3]", ["a", "3"]),
        ("[]", []),
        ("[untitled]", None),
        ("[[1]]", None),
        ("[" * 9000 + "]" * 9000, None),
        ("[REC]|Horror", None),
        ("__import__('os')", None),
    ],
)
def test_a_list_in_brackets_is_its_values(text: str, values: list[str] | None) -> None:
    assert listed(text) == values


def test_genres_are_read_from_brackets_and_nothing_is_none(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("id,genres\n1,\"['Action', 'War']\"\n2,A|nan|NULL|B\n3,[REC]|Horror\n4,None\n", encoding="utf-8")
    found = catalogue_from_file(ItemsConfig(path=path, namespace="film"), "a").items
    assert found.keys[0] == "film:1"
    assert found.genres == (("Action", "War"), ("A", "B"), ("[REC]", "Horror"), ())
