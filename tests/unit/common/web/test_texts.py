"""English and Chinese in step: every text has both, names the same values, is used, and is there where it is used."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from common.errors import ConfigError
from common.web.texts import LANGUAGES, Texts, accepted_language, language_of

ROOT = Path(__file__).parents[4]
PACKAGES = sorted(
    str(path.parent.relative_to(ROOT)).replace("/", ".")
    for top in ("client", "common", "server", "simulations")
    for path in (ROOT / top).rglob("texts.yaml")
)
SHARED = ("common.web", "common.web.console")
"""Whose texts the pages of every other package may use."""
HAN = re.compile("[\u4e00-\u9fff]")


def texts_of(package: str) -> dict[str, dict[str, str]]:
    path = ROOT / package.replace(".", "/") / "texts.yaml"
    found: dict[str, dict[str, str]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def used(package: str) -> Iterator[str]:
    """Keys that a package's templates and code ask for; of a key that is put together, its beginning and ``*``."""
    folder = ROOT / package.replace(".", "/")
    others = [ROOT / each.replace(".", "/") for each in PACKAGES if each.startswith(f"{package}.")]
    for path in (*folder.rglob("*.html"), *folder.rglob("*.py")):
        if any(path.is_relative_to(other) for other in others):
            continue
        text = path.read_text(encoding="utf-8")
        for key, joined in re.findall(r"""\bt\(\s*["'](\w+)["'](\s*~)?""", text):
            yield f"{key}*" if joined else key
        yield from (f"{prefix}_*" for prefix in re.findall(r"""\bknown\((?:language, )?["'](\w+)["']""", text))
        yield from re.findall(r"""\bsay\(\s*\w+(?:\.\w+)?,\s*["'](\w+)["']""", text)
        yield from (f"{prefix}*" for prefix in re.findall(r"""\bsay\([^,()]+, f["'](\w+)\{""", text))
        yield from re.findall(r"""\blabel=["'](\w+)["']""", text) if package.endswith(".console") else ()


def names(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_there_are_texts() -> None:
    assert {"common.web", "simulations.report"} <= set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_text_has_both_languages(package: str) -> None:
    for key, text in texts_of(package).items():
        assert set(text) == set(LANGUAGES), key
        assert all(isinstance(part, str) and part.strip() for part in text.values()), key
        assert names(text["en"]) == names(text["zh"]), key
        assert not HAN.search(text["en"]), key
        assert HAN.search(text["zh"]) or text["zh"] == text["en"], f"{key}: is its Chinese Chinese?"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_key_that_is_used_is_there(package: str) -> None:
    there = {key for each in (package, *SHARED) for key in texts_of(each)}
    for key in used(package):
        assert any(name.startswith(key[:-1]) for name in there) if key.endswith("*") else key in there, key


@pytest.mark.parametrize("package", PACKAGES)
def test_every_text_is_used(package: str) -> None:
    asked = set(used(package)) | (
        {key for each in PACKAGES for key in used(each)} if package == "common.web" else set()
    )
    for key in texts_of(package):
        assert key in asked or any(one.endswith("*") and key.startswith(one[:-1]) for one in asked), key


def test_no_two_packages_of_a_page_share_a_key() -> None:
    shared = [key for each in SHARED for key in texts_of(each)]
    assert len(shared) == len(set(shared))
    for package in set(PACKAGES) - set(SHARED):
        assert not set(shared) & set(texts_of(package)), package


def test_values_are_filled_in() -> None:
    texts = Texts(["common.web"])
    assert texts.say("en", "kept", source="a.csv", kept=1, read=2, users=3, items=4).startswith("a.csv: kept 1 of 2")
    assert texts.known("zh", "no_such", "word") == "word"


def test_a_language_is_asked_for_by_its_code() -> None:
    assert language_of("zh") == "zh"
    with pytest.raises(ConfigError, match="--language fr: there are en, zh"):
        language_of("fr")


@pytest.mark.parametrize(
    ("header", "language"), [("", "en"), ("zh-TW,zh", "zh"), ("de, en;q=0.9, zh", "en"), ("xx;q=a,,ZH", "zh")]
)
def test_the_browser_says_which_language(header: str, language: str) -> None:
    assert accepted_language(header) == language
