"""One rule for ids, wherever they come from: a person whose id is spelt in two ways is one user."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.cleaning import load_platform_data
from client.data.reading.columns import identifiers
from client.data.reading.identifiers import LONGEST, identifier, item_key, required_identifier, required_key
from common.config.data import DataConfig
from common.errors import ContractError

JOSE = "José"
SAME = [
    ("T", ["T ", " T", "T\t", "\ufeffT", "T\u200b", "\u00a0T\r\n", "\x00T"]),
    ("3", ["3.0", "3.00", " 3.0 "]),
    (JOSE, [unicodedata.normalize("NFD", JOSE), f" {unicodedata.normalize('NFD', JOSE)}\u2060"]),
]
DIFFERENT = ["t", "T T", "03", "3.10", "3.5", "v3.0", "-3", "NA", "nano", "Nonesuch", "0", "ﬁ", "fi"]
NOTHING = ["", " ", "NULL", "null", "nan", "NaN", "None", "\\N", "<NA>", " None\t", "\u200b"]


@pytest.mark.parametrize(("one", "spellings"), SAME)
def test_spellings_of_one_id(one: str, spellings: list[str]) -> None:
    assert {identifier(text) for text in [one, *spellings]} == {one}


def test_what_is_another_id_stays_another() -> None:
    assert [identifier(text) for text in DIFFERENT] == DIFFERENT


@pytest.mark.parametrize("text", NOTHING)
def test_words_for_nothing_are_no_id(text: str) -> None:
    assert identifier(text) is None
    with pytest.raises(ContractError, match=r"^user_id: ") as caught:
        required_identifier("user_id", text)
    assert "NULL" in str(caught.value)


def test_an_id_has_an_end() -> None:
    assert required_identifier("user_id", f" {'u' * LONGEST} ") == "u" * LONGEST
    for check in (required_identifier, required_key):
        with pytest.raises(ContractError, match=r"^user_id: "):
            check("user_id", "u" * (LONGEST + 1))


def test_the_id_behind_a_namespace_is_an_id() -> None:
    assert item_key(" imdb: 3.0 ") == item_key("imdb:3") == "imdb:3"
    assert item_key("imdb:NULL") is None
    assert item_key("a:b:3.0") == "a:b:3.0", "an id that has a colon is no number"


odd = st.sampled_from([*NOTHING, *DIFFERENT, *(text for _, texts in SAME for text in texts)])


@given(
    st.lists(st.one_of(st.none(), odd, st.text(max_size=8), st.from_regex(r"[ +-]?[0-9]{1,3}(\.0*)?", fullmatch=True)))
)
def test_a_column_is_read_as_each_of_its_ids(column: list[str | None]) -> None:
    frame = pl.DataFrame({"id": column}, schema={"id": pl.String})
    read = frame.select(identifiers("id", pl.String()))["id"].to_list()
    assert read == [None if text is None else identifier(text) for text in column]


@given(st.text(max_size=12))
def test_what_was_normalised_stays(text: str) -> None:
    once = identifier(text)
    assert once is None or identifier(once) == once


def test_numbers_of_every_type_are_the_same_ids() -> None:
    for column in (pl.Series("id", [3, 40]), pl.Series("id", [3.0, 40.0]), pl.Series("id", ["3.0", "40 "])):
        read = column.to_frame().select(identifiers("id", column.dtype))["id"].to_list()
        assert read == ["3", "40"]


def test_all_of_a_platforms_files_share_the_rule(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", JOSE)
    (tmp_path / "views.csv").write_text(
        f"user,item\n3.0,7\n3,8.0\n{JOSE},7\n{decomposed}\u200b,8\nNULL,7\nnan,7\nNone,8\n\\N,8\n{'u' * 600},7\n3,NULL\n"
    )
    (tmp_path / "films.csv").write_text("item_id,title\n7.0,None\n 8,Eight\nNULL,Nothing\n")
    (tmp_path / "users.csv").write_text(f"user,age\n3.0 ,20\n{decomposed},30\nnull,99\n")
    data = load_platform_data(
        DataConfig.model_validate(
            {
                "interactions": {"path": tmp_path / "views.csv"},
                "items": {"path": tmp_path / "films.csv", "namespace": "imdb"},
                "users": {"path": tmp_path / "users.csv"},
            }
        )
    )
    assert data.user_ids == ("3", JOSE)
    assert data.items.keys == ("imdb:7", "imdb:8")
    assert data.items.titles == ("None", "Eight"), "a title is no id"
    assert data.interactions.row_lengths.tolist() == [2, 2]
    assert data.users is not None
    assert data.users["age"].to_list() == [20, 30]
    dropped = {one.reason: (one.rows, one.examples) for one in data.report.dropped}
    assert dropped == {
        "without a user": (4, (6, 7, 8)),
        "with an id of more than 512 characters": (1, (10,)),
        "without an item": (1, (11,)),
    }
    notes = "\n".join(data.report.notes)
    assert "1 rows have the user id written as 3.0" in notes
    assert "1 rows have the item id written as 3.0" in notes
