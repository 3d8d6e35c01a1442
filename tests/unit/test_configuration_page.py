"""docs/configuration.md: of this version, whole, and with a description, a default and a unit for each key."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tools.configuration import CHAPTERS, PAGE, _anchor, page

TEXT = PAGE.read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(("| `", "| [`"))]
    return [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines]


def test_the_page_is_of_this_version() -> None:
    assert page() == TEXT, "run make docs-reference"


def test_each_key_has_values_a_default_and_a_description() -> None:
    for row in rows(TEXT):
        assert len(row) == 4, row
        assert all(cell.strip() for cell in row), row


def test_each_time_and_size_names_its_unit() -> None:
    timed = [
        row for row in rows(TEXT) if re.search(r"seconds|bytes|deadline|every|interval|timeout|minutes|_days", row[0])
    ]
    assert len(timed) >= 6
    for row in timed:
        assert re.search(r"\((seconds|bytes|minutes|days)\)", row[1]), row


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.title)
def test_each_key_of_the_schema_is_on_the_page(chapter: Any) -> None:
    """Pydantic's own JSON schema is the oracle."""
    shown = {
        re.findall(r"`([^`]+)`", row[0])[0].removesuffix(".NAME").rpartition(".")[2].removesuffix("[]")
        for row in rows(TEXT)
    }
    schema = chapter.model.model_json_schema()
    sections = [schema, *schema.get("$defs", {}).values()]
    names = {name for section in sections for name in section.get("properties", {})}
    missing = names - shown - {"search"}
    assert not missing, missing


def test_each_link_of_the_page_leads_to_a_heading() -> None:
    headings = [_anchor(heading) for heading in re.findall(r"^#+ (.*)$", TEXT, flags=re.MULTILINE)]
    assert len(headings) == len(set(headings)), "two headings have one anchor"
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) <= set(headings)
