"""Reasons, notes and errors in Chinese, in step with the code: each has a phrase, and each phrase is said."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.data.report import CleaningReport, Dropped
from common.web.pages import Pages, told
from common.web.phrases import SAID, phrases

ROOT = Path(__file__).parents[4]
CLEANING = [
    ROOT / "client" / "data" / f"{name}.py"
    for name in ("admission", "judging", "cleaning", "filters", "items", "recognise", "describe", "reading/dialect")
]
ERRORS = [
    ROOT / name
    for name in (
        "client/console/places.py", "client/console/trying.py", "server/console/places.py",
        "client/personalization/store.py", "client/versions/experiment.py", "client/versions/folder.py",
        "common/sealed/log.py", "server/deploy/aggregator.py",
    )
]  # fmt: skip
"""Modules all of whose errors have a phrase; of others those that a console meets most."""
HAN = re.compile("[\u4e00-\u9fff]")
VALUES = re.compile(r"\{(\w+)\}")


def text_of(node: ast.AST) -> str | None:
    """A text as it is written, 7 in place of each value; None for what is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in node.values)
    return None


def texts_in(node: ast.AST) -> Iterator[str]:
    text = text_of(node)
    if text is not None:
        yield text
    elif isinstance(node, (ast.Tuple, ast.List)):
        for one in node.elts:
            yield from texts_in(one)
    elif isinstance(node, ast.IfExp):
        yield from texts_in(node.body)
        yield from texts_in(node.orelse)
    elif isinstance(node, (ast.ListComp, ast.GeneratorExp)):
        yield from texts_in(node.elt)


def name_of(node: ast.AST) -> str:
    return str(getattr(node, "id", getattr(node, "attr", "")))


def reasons_and_notes(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = name_of(node.func)
            if name in ("Rule", "CountFilter"):
                yield from texts_in(node.args[0])
            elif name == "keep" and len(node.args) == 3:
                yield from texts_in(node.args[2])
            elif name == "append" and isinstance(node.func, ast.Attribute) and name_of(node.func.value) == "notes":
                yield from texts_in(node.args[0])
        elif isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(
                name_of(target) in ("notes", "reason") or name_of(target).endswith("UNREADABLE") for target in targets
            ):
                yield from texts_in(node.value)
        elif isinstance(node, ast.Yield) and node.value is not None and path.stem == "recognise":
            yield from texts_in(node.value)


def raised(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        made = node.exc if isinstance(node, ast.Raise) else node.value if isinstance(node, ast.Return) else None
        if isinstance(made, ast.Call) and made.args and name_of(made.func).endswith("Error"):
            yield from texts_in(made.args[0])


@pytest.mark.parametrize("path", CLEANING, ids=lambda path: path.stem)
def test_every_reason_and_note_of_cleaning_has_a_phrase(path: Path) -> None:
    found = list(reasons_and_notes(path))
    assert found
    # Of a name and a note of its own only the note is a phrase.
    assert [text for text in found if text != "7: 7" and phrases().say("zh", text)[1] != "zh"] == []


@pytest.mark.parametrize("path", ERRORS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_error_of_what_a_console_does_has_a_phrase(path: Path) -> None:
    found = list(raised(path))
    assert found
    assert [text for text in found if phrases().say("zh", text)[1] != "zh"] == []


def test_every_phrase_is_said_somewhere() -> None:
    code = " ".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))
        for top in ("client", "common", "server", "simulations")
        for path in (ROOT / top).rglob("*.py")
    ).replace('\\"', '"')
    for phrase in phrases().all:
        # The longest piece between values, as it stands in the code.
        piece = max(VALUES.split(phrase["en"])[::2], key=len)
        assert piece.strip(" .:;") in code, phrase["en"]


def test_both_languages_name_the_same_values() -> None:
    for phrase in phrases().all:
        assert set(phrase) == {"en", "zh"}
        assert sorted(VALUES.findall(phrase["en"])) == sorted(VALUES.findall(phrase["zh"])), phrase["en"]
        assert HAN.search(phrase["zh"]), phrase["en"]
        assert not HAN.search(phrase["en"])


def test_a_text_within_a_text_is_looked_up_itself() -> None:
    said, language = phrases().say("zh", "items file: 3 rows of the items file have no id and were left out")
    assert (said, language) == ("物品文件：物品文件有 3 行没有 ID，被略去", "zh")
    assert any(SAID in phrase["en"] for phrase in phrases().all)


def test_what_has_no_phrase_stays_and_is_marked_as_english() -> None:
    assert phrases().say("zh", "something else") == ("something else", "en")
    assert str(told("zh", "<b>x</b>")) == '<span lang="en">&lt;b&gt;x&lt;/b&gt;</span>'
    assert str(told("en", "<b>x</b>")) == "&lt;b&gt;x&lt;/b&gt;"
    assert "\u202e" not in told("zh", "without a user\u202e")


def test_a_warning_and_a_report_are_shown_in_chinese() -> None:
    report = CleaningReport("a.csv", 10, 5, (Dropped("without a user", 5),), 1, 1)
    assert report.warning is not None
    page = Pages("client.console", "common.web.console").render(
        "data.html", "zh", report=report.as_dict(), source="a.csv", name="p", places=[], here=None, csrf="x"
    )
    main = page[page.index("<main") : page.index("</main>")]
    assert "缺少用户" in main
    assert "50.0% 的行被丢弃" in main
    assert 'lang="en"' not in main
