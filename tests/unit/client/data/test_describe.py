"""Columns of an items file become described attributes: in any script, missing in part or whole, bounded, or refused."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from client.data.dataset import ItemTable
from client.data.describe import describe_items
from client.data.described import Described, with_always
from client.deploy.loading import load_training_data
from common.attributes import (
    LARGEST_CARD,
    LARGEST_DESCRIPTION,
    LONGEST_CATEGORY,
    LONGEST_TEXT,
    LONGEST_VECTOR,
    MOST_CATEGORIES,
    bounded,
    card_bytes,
    fits,
    numbers_of,
)
from common.catalogue import ItemCard
from common.config.attributes import AttributeRule, DescribeConfig
from common.config.platform import CatalogueConfig
from common.errors import DataError
from tests.support import SECRET
from tests.support.platform_files import config

KINDS = {"maker": "category", "topics": "categories", "year": "number", "blurb": "text", "cover": "vector"}


def table(**columns: Any) -> ItemTable:
    frame = pl.DataFrame(columns)
    keys = tuple(f"shop:{row}" for row in range(frame.height))
    return ItemTable(keys, keys, ((),) * len(keys), frame)


def described(items: ItemTable, **declared: Any) -> tuple[Described, tuple[str, ...]]:
    given_as = {name: DescribeConfig.model_validate(own) for name, own in declared.items()}
    found, notes = describe_items(items, given_as)
    return found.further, notes


def test_each_kind_is_read_and_columns_may_have_other_names() -> None:
    items = table(
        author=["Le Guin", None, " "],
        tags=["war; peace;war", "", None],
        year=[1969, None, 1974],
        blurb=["On Winter", "", None],
        cover=[[1.0, 2.0], None, [3.0, 4.5]],
    )
    found, notes = described(
        items,
        maker={"kind": "category", "column": "author"},
        topics={"kind": "categories", "column": "tags", "separator": ";"},
        year="number",
        blurb="text",
        cover="vector",
    )
    assert (notes, dict(found.kinds)) == ((), KINDS)
    assert found.values("maker") == (("Le Guin",), (), ())
    assert found.values("topics") == (("war", "peace"), (), ())
    assert found.numbers("year")[[0, 2]].tolist() == [1969.0, 1974.0]
    assert np.isnan(found.numbers("year")[1])
    assert found.texts("blurb") == ("On Winter", "", "")
    assert found.vectors("cover").tolist() == [[1.0, 2.0], [0.0, 0.0], [3.0, 4.5]]
    assert found.row(1) == {}


def test_an_accent_is_the_same_however_it_was_typed() -> None:
    items = table(maker=["Cafe\u0301", "Café"], topics=[["e\u0301"], ["é"]], blurb=["nin\u0303o", "niño"])
    found, _ = described(items, maker="category", topics="categories", blurb="text")
    for name in ("maker", "topics", "blurb"):
        assert found.columns[name][0] == found.columns[name][1]
    rule = AttributeRule(any_of=("CAFE\u0301",))
    assert found.passing("maker", rule).all()


def test_columns_that_are_not_declared_are_not_described() -> None:
    found, _ = described(table(maker=["A"], margin=[0.4]), maker="category")
    assert list(found.columns) == ["maker"]


@pytest.mark.parametrize(
    ("columns", "declared", "said"),
    [
        ({"maker": ["A"]}, {"author": "category"}, "no column 'author'"),
        ({"maker": [["A"]]}, {"maker": "category"}, "kind: categories"),
        ({"maker": [["A"]]}, {"maker": "text"}, "kind: categories"),
        ({"maker": ["A", "B"]}, {"maker": "number"}, "no number at all"),
        ({"maker": [True]}, {"maker": "number"}, "no numbers"),
        ({"maker": ["A"]}, {"maker": "vector"}, "no list of numbers"),
        ({"cover": [[1.0], [1.0, 2.0]]}, {"cover": "vector"}, "of 1 to 2 numbers"),
        ({"cover": [[1e9]]}, {"cover": "vector"}, "scale them"),
        ({"cover": [[0.0] * (LONGEST_VECTOR + 1)]}, {"cover": "vector"}, "items.reduction"),
        ({"maker": [[["A"]]]}, {"maker": "categories"}, "lists of lists"),
    ],
)
def test_what_fits_no_kind_is_refused_by_field_and_mend(columns: Any, declared: Any, said: str) -> None:
    with pytest.raises(DataError, match=rf"catalogue\.describe\.\w+: .*{said}"):
        described(table(**columns), **declared)


def test_what_is_cut_is_said_and_bounded() -> None:
    items = table(
        maker=["m" * (LONGEST_CATEGORY + 1), "x"],
        topics=["|".join(map(str, range(MOST_CATEGORIES + 1))), "x"],
        year=["1969", "about 1970"],
        blurb=["b" * (LONGEST_TEXT + 1), "x"],
        cover=[[1.0, float("inf")], [1.0, 2.0]],
    )
    found, notes = described(items, **KINDS)
    assert [len(note) > 0 for note in notes] == [True] * 5
    for name, kind in found.kinds.items():
        assert all(value is None or fits(kind, value) for value in found.columns[name])
    assert [found.columns[name][0] for name in ("year", "cover")] == [1969.0, None]
    assert found.columns["year"][1] is None


def test_columns_of_a_text_file_are_read_as_people_write_them() -> None:
    items = table(
        price=["$ 3.50", "$ 1,200", None],
        since=["2016-01-01", "1994", "nan"],
        topics=['["a", "b|c"]', "a|NULL", "None"],
        cover=["[1.0, 2.0]", "3 4", "NULL"],
        maker=["NULL", "Nancy", "nan"],
    )
    found, notes = described(
        items, price="number", since="number", topics="categories", cover="vector", maker="category"
    )
    assert [found.columns["price"], found.columns["since"]] == [(3.5, 1200.0, None), (2016.0, 1994.0, None)]
    assert found.values("topics") == (("a", "b|c"), ("a",), ())
    assert found.values("maker") == ((), ("Nancy",), ())
    assert found.vectors("cover").tolist() == [[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]
    assert notes == ("price: $ is left out", "since: 1 dates are read as years")


def test_dates_and_missing_numbers_of_parquet_are_numbers() -> None:
    items = table(since=[date(2016, 1, 1), None], at=[datetime(1994, 1, 1, 5), None], price=[float("nan"), 2.0])
    found, notes = described(items, since="number", at="number", price="number")
    assert [found.columns[name][0] for name in ("since", "at", "price")] == [2016.0, 1994.0, None]
    assert not any("count as missing" in note for note in notes)


def test_a_description_too_large_for_a_card_loses_its_largest() -> None:
    names = {f"text{n}": "text" for n in range(4)}
    items = table(**{name: ["界" * LONGEST_TEXT, "short"] for name in names}, maker=["A", "B"])
    found, notes = described(items, **names, maker="category")
    kept = found.row(0)
    assert "maker" in kept
    assert card_bytes(kept) <= LARGEST_DESCRIPTION
    assert len(found.row(1)) == 5
    assert "left out of 1 items" in " ".join(notes)


ANY_TEXT = st.none() | st.text(max_size=60)
NUMBERS = st.none() | st.floats(width=32)
VECTORS = st.none() | st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT, NUMBERS, ANY_TEXT, VECTORS), min_size=1, max_size=8))
def test_any_values_reach_the_other_side_of_a_card_as_they_are(rows: list[tuple[Any, ...]]) -> None:
    columns = zip(*rows, strict=True)
    types = {
        "maker": pl.String,
        "topics": pl.String,
        "year": pl.Float64,
        "blurb": pl.String,
        "cover": pl.List(pl.Float64),
    }
    items = table(
        **{name: pl.Series(own, dtype=types[name]) for name, own in zip(KINDS, map(list, columns), strict=True)}
    )
    found, _ = described(items, **KINDS)
    cards = [ItemCard(key, "t", attributes=found.row(row)) for row, key in enumerate(items.keys)]
    digests = SECRET.digests(items.keys)
    sealed = SECRET.seal_cards(cards, digests)
    assert SECRET.open_cards(sealed, digests, dict(found.kinds)) == cards
    assert max(map(len, sealed)) < LARGEST_CARD
    again = Described.from_json(found.to_json())
    assert (again.kinds, again.columns) == (found.kinds, found.columns)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.text(max_size=9000) | st.floats(allow_nan=False, allow_infinity=False)))
def test_a_bounded_description_fits_and_is_part_of_what_was_given(given_as: dict[str, Any]) -> None:
    kept, left_out = bounded(given_as)
    assert card_bytes(kept) <= LARGEST_DESCRIPTION
    assert kept.keys() | set(left_out) == given_as.keys()
    assert (not left_out) == (card_bytes(given_as) <= LARGEST_DESCRIPTION)


def test_ten_thousand_values_in_every_script_are_kept_apart() -> None:
    scripts = [0x41, 0x4E00, 0x0905, 0x0627, 0xAC00]
    makers = [f"{chr(scripts[n % 5] + n % 20)}{n}" for n in range(10_000)]
    found, notes = described(table(maker=makers), maker="category")
    assert notes == ()
    assert len(set(found.values("maker"))) == 10_000


def test_a_card_is_as_before_where_nothing_further_is_told() -> None:
    plain = ItemCard("imdb:1", "Alien", ("Horror",))
    digests = SECRET.digests(["imdb:1"])
    (box,) = SECRET.seal_cards([plain], digests)
    text = SECRET._card_cipher.decrypt(box[:12], box[12:], digests[0].tobytes())  # as older ones read it
    assert text.rstrip() == b'["imdb:1", "Alien", ["Horror"], null]'


def test_of_a_card_only_what_was_agreed_is_read() -> None:
    told = {"maker": "A", "year": 3.0, "topics": ("x",), "cover": b"\x00\x3c"}
    digests = SECRET.digests(["shop:1"])
    sealed = SECRET.seal_cards([ItemCard("shop:1", "t", attributes=told)], digests)
    (card,) = SECRET.open_cards(sealed, digests, {"maker": "number", "topics": "categories", "cover": "vector"})
    assert card is not None
    assert dict(card.attributes) == {"topics": ("x",), "cover": b"\x00\x3c"}
    assert numbers_of(b"\x00\x3c").tolist() == [1.0]


@pytest.mark.parametrize(
    "hostile",
    [
        {"maker": "x" * 201},
        {"maker": " x"},
        {"maker": ["a"]},
        {"maker": {"f2": "AA=="}},
        {"maker": True},
        {"maker": None},
    ],
)
def test_values_beyond_their_bounds_are_left_out_on_arrival(hostile: dict[str, Any]) -> None:
    from common.attributes import told

    assert told({"maker": "category"}, hostile) == {}


def test_title_and_genres_are_two_of_the_attributes() -> None:
    all_of_them = with_always(("Alien", ""), (("Horror",), ()), Described({"year": "number"}, {"year": (1979.0, None)}))
    assert list(all_of_them.kinds) == ["title", "genres", "year"]
    assert all_of_them.row(0) == {"title": "Alien", "genres": ("Horror",), "year": 1979.0}
    assert all_of_them.row(1) == {}


def test_a_platform_describes_what_the_plan_names_alone(tmp_path: Path) -> None:
    plan = {"federation": "films", "platforms": 2, "privacy": {"mode": "none"}, "attributes": {"maker": "category"}}
    with pytest.raises(
        ValidationError, match=r"catalogue.describe.author: is none of the attributes .*maker.*column: author"
    ):
        config(tmp_path, plan=plan, catalogue={"describe": {"author": "category"}})
    with pytest.raises(ValidationError, match=r"catalogue.describe.maker: is a text here and a category in plan"):
        config(tmp_path, plan=plan, catalogue={"describe": {"maker": "text"}})
    with pytest.raises(ValidationError, match="title: is always among the attributes"):
        CatalogueConfig.model_validate({"describe": {"title": "text"}})
    with pytest.raises(ValidationError, match="separator: is for kind: categories"):
        CatalogueConfig.model_validate({"describe": {"maker": {"kind": "text", "separator": ";"}}})


@pytest.mark.parametrize("column", ["tags", "category", "Name"])
def test_a_described_column_is_not_guessed_to_be_another(tmp_path: Path, column: str) -> None:
    plan = {"federation": "films", "platforms": 2, "privacy": {"mode": "none"}, "attributes": {"topics": "categories"}}
    describe = {"topics": {"kind": "categories", "column": column, "separator": ";"}}
    platform = config(tmp_path, plan=plan, catalogue={"describe": describe})
    (tmp_path / "films.csv").write_text(
        f"item_id,{column},genre\n" + "".join(f"{item},a;b{item},Drama\n" for item in range(5))
    )
    cards = [card for card in load_training_data(platform).cards() if card]
    assert [dict(card.attributes) for card in cards] == [{"topics": ("a", f"b{item}")} for item in range(5)]
    assert {card.genres for card in cards} == {("Drama",)}


def test_a_deployed_platform_reads_and_seals_what_it_declares(tmp_path: Path) -> None:
    plan = {"federation": "films", "platforms": 2, "privacy": {"mode": "none"}, "attributes": {"maker": "category"}}
    platform = config(tmp_path, plan=plan, catalogue={"describe": {"maker": {"kind": "category", "column": "author"}}})
    (tmp_path / "films.csv").write_text(
        "item_id,title,author,margin\n" + "".join(f"{item},Film {item},A{item % 2},0.{item}\n" for item in range(5))
    )
    cards = load_training_data(platform).cards()
    assert [dict(card.attributes) for card in cards if card] == [{"maker": f"A{item % 2}"} for item in range(5)]
