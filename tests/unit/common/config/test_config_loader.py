"""YAML into frozen models: what is read, and how what is wrong is named."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr

from common.config.base import FrozenModel
from common.config.loader import ConfigPath, load_yaml_model, parse_model
from common.errors import ConfigError

# Put together here, so that the traceback's own source lines do not hold it.
SECRET = "hunter" + "2"


class Trainer(FrozenModel):
    regularization: Annotated[float, Field(gt=0)] = 1.0
    dimension: int = 8


class FileSource(FrozenModel):
    kind: Literal["file"] = "file"
    path: ConfigPath


class SplitSource(FrozenModel):
    kind: Literal["split"]
    users_share: float = 0.5


class Platform(FrozenModel):
    name: str
    source: Annotated[FileSource | SplitSource, Field(discriminator="kind")]
    secret: SecretStr | None = None


class Root(FrozenModel):
    trainer: Trainer = Trainer()
    platforms: tuple[Platform, ...] = ()
    by_name: dict[str, Trainer] = {}
    bounds: tuple[float, float] = (0, 1)
    note: str = ""
    output: ConfigPath | None = None


@pytest.fixture
def write(tmp_path: Path):
    def write_text(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_yaml_model(path, Root, overrides)
    return str(caught.value).replace(f"{path}", "FILE").splitlines()


def test_reads_a_file_and_takes_relative_paths_from_its_folder(write, tmp_path: Path) -> None:
    path = write("trainer: {dimension: 16}\noutput: out/here\nplatforms: [{name: a, source: {kind: file, path: /x}}]")
    root = load_yaml_model(path, Root)
    assert root.trainer.dimension == 16
    assert root.output == tmp_path / "out" / "here"
    assert root.platforms[0].source == FileSource(path=Path("/x"))


def test_an_empty_file_gives_the_defaults(write) -> None:
    assert load_yaml_model(write("# nothing\n"), Root) == Root()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E5", 1e5), ("010", 10.0), ("-.5", -0.5), ("7", 7.0), ("12.", 12.0), ("+3", 3.0)],
)
def test_numbers_are_read_as_yaml_1_2_has_them(write, text: str, value: float) -> None:
    assert load_yaml_model(write(f"bounds: [{text}, 2]"), Root).bounds[0] == value


@pytest.mark.parametrize("text", ["yes", "off", "12:30", "2024-01-02", "1_000", "0x1z"])
def test_what_only_looks_like_another_type_stays_text(write, text: str) -> None:
    assert load_yaml_model(write(f"note: {text}"), Root).note == text


def test_every_problem_is_named_by_file_and_key_path_at_once(write) -> None:
    path = write(
        "trainer: {regularisation: 1, dimension: many}\nbounds: [.nan, 1]\n"
        "platforms: [{name: a, source: {kind: split, user_share: 1}}]\nby_name: {x: {dimensions: 3}}\n"
    )
    assert problems(path) == [
        "FILE: trainer.dimension: input should be a valid integer, unable to parse string as an integer (got 'many')",
        "FILE: trainer.regularisation: unknown key; did you mean 'regularization'?",
        "FILE: platforms.0.source.split.user_share: unknown key; did you mean 'users_share'?",
        "FILE: by_name.x.dimensions: unknown key; did you mean 'dimension'?",
        "FILE: bounds.0: input should be a finite number (got nan)",
    ]


def test_a_key_that_stands_in_the_wrong_place_is_told_its_place(write) -> None:
    assert problems(write("dimension: 3")) == ["FILE: dimension: unknown key; did you mean 'trainer.dimension'?"]


def test_a_key_like_no_other_gets_no_guess(write) -> None:
    assert problems(write("zzzz: 3\nnote: a")) == ["FILE: zzzz: unknown key"]


def test_a_missing_key_is_named(write) -> None:
    assert problems(write("platforms: [{source: {kind: file, path: x}}]")) == [
        "FILE: platforms.0.name: is required and missing"
    ]


@pytest.mark.parametrize("number", [".nan", "'nan'", ".inf", "-.inf"])
def test_nan_and_infinity_are_refused_wherever_they_are(write, number: str) -> None:
    [line] = problems(write(f"trainer: {{regularization: {number}}}"))
    assert line.startswith("FILE: trainer.regularization: input should be a finite number")


def test_duplicate_keys_are_refused_with_their_line(write) -> None:
    assert problems(write("note: a\ntrainer:\n  dimension: 1\n  dimension: 2\n")) == [
        "FILE:4: not valid YAML: duplicate key: this line repeats the key of an earlier one"
    ]


def test_broken_yaml_names_the_line(write) -> None:
    [line] = problems(write("note: a\nbounds: [1,\ntrainer: x\n"))
    assert line.startswith("FILE:4: not valid YAML: ")


def test_python_objects_are_not_built(write) -> None:
    [line] = problems(write("note: !!python/object/apply:os.getcwd []"))
    assert "not valid YAML" in line


def test_a_list_at_the_top_is_refused(write) -> None:
    assert problems(write("[1, 2]")) == [
        "FILE: holds a list of 2, not a mapping of keys to values; is it another kind of file?"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "ann@mail.example,40,2\nann@mail.example,17,3\n",
        "ann: 40\nbob: 3\n",
        '{"ann": {"item": 3}}',
        "ann: 40\nann: 3\n",
        "- ann\n- 40\n",
        "!ann 40\n",
        "*ann,40\n",
        "note: !!timestamp ann\n",
        "ann: [40\n",
        "ann\t40\nann: 3\n",
    ],
)
def test_a_data_file_is_refused_without_a_word_of_it(write, text: str) -> None:
    [line] = problems(write(text))
    assert line.startswith("FILE:")
    assert "ann" not in line
    assert "40" not in line


def test_broken_yaml_still_says_what_was_expected(write) -> None:
    assert problems(write("note: [1\nbounds: 3"))[0].endswith("did not find expected ',' or ']'")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('""', "is empty"),
        ('"  "', "is empty"),
        ("$CROSSFED_TEST_EMPTY", "$CROSSFED_TEST_EMPTY is set to nothing"),
        ("$CROSSFED_TEST_EMPTY/r.csv", "$CROSSFED_TEST_EMPTY is set to nothing"),
        ("x/${CROSSFED_TEST_EMPTY}/r.csv", "$CROSSFED_TEST_EMPTY is set to nothing"),
        ("$CROSSFED_TEST_UNSET/r.csv", "$CROSSFED_TEST_UNSET is not set"),
        ("~nosuchuser/r.csv", "~nosuchuser: there is no such user"),
        ("n" * 300, "is too long"),
        ("/".join(["n" * 200] * 21), "is too long"),
        ('"a\\0b"', "holds a control character"),
    ],
)
def test_a_path_that_can_be_none_is_named(write, monkeypatch: pytest.MonkeyPatch, given: str, message: str) -> None:
    monkeypatch.setenv("CROSSFED_TEST_EMPTY", "")
    monkeypatch.delenv("CROSSFED_TEST_UNSET", raising=False)
    [line] = problems(write(f"output: {given}"))
    assert line.startswith(f"FILE: output: {message}")


def test_a_dot_is_the_folder_of_the_file(write, tmp_path: Path) -> None:
    assert load_yaml_model(write("output: ."), Root).output == tmp_path


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.yaml") == ["FILE: cannot be read: No such file or directory"]


def test_overrides_win_over_the_file_and_later_over_earlier(write) -> None:
    path = write("trainer: {dimension: 16}\nplatforms: [{name: a, source: {kind: file, path: x}}]")
    overrides = ["trainer.dimension=4", "trainer.dimension=5", "by_name.x.regularization=1e-2", "bounds=[0, 3]"]
    root = load_yaml_model(path, Root, [*overrides, "platforms.0.name=b=c"])
    assert root.trainer.dimension == 5
    assert root.by_name["x"].regularization == 0.01
    assert root.bounds == (0, 3)
    assert root.platforms[0].name == "b=c"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.dimensoin=4", "--set trainer.dimensoin: unknown key; did you mean 'dimension'?"),
        ("trainr.dimension=4", "--set trainr: unknown key; did you mean 'trainer'?"),
        ("trainer.regularization=-1", "--set trainer.regularization: input should be greater than 0 (got -1)"),
        ("trainer", "--set trainer: write it as key.path=value, for instance --set model.dimension=64"),
        ("note.x=1", "--set note: is 'a' in the file, so nothing can be set below it"),
        ("platforms.2.name=1", "--set platforms.2: is a list of 0; name an element by its number from 0"),
    ],
)
def test_a_wrong_override_is_named_as_such(write, override: str, message: str) -> None:
    assert problems(write("note: a\nplatforms: []"), override) == [message]


def test_the_given_mapping_is_left_as_it_was() -> None:
    mapping = {"trainer": {"dimension": 1}}
    assert parse_model(mapping, Root, "x", overrides=["trainer.dimension=2"]).trainer.dimension == 2
    assert mapping == {"trainer": {"dimension": 1}}


def test_a_secret_is_in_no_message_and_no_traceback(write) -> None:
    path = write(f"platforms: [{{name: a, source: {{kind: file, path: x}}, secret: [{SECRET}]}}]")
    with pytest.raises(ConfigError) as caught:
        load_yaml_model(path, Root)
    assert "platforms.0.secret" in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_secret_in_broken_yaml_is_in_no_traceback(write) -> None:
    with pytest.raises(ConfigError) as caught:
        load_yaml_model(write(f"secret: '{SECRET}\nnote: [1,"), Root)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-300), st.integers(-(10**9), 10**9))
def test_values_survive_the_way_through_an_override(number: float, integer: int) -> None:
    root = parse_model({}, Root, "x", overrides=[f"trainer.regularization={number!r}", f"trainer.dimension={integer}"])
    assert (root.trainer.regularization, root.trainer.dimension) == (number, integer)
