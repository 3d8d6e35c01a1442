"""README.md and README.zh.md in step: the same headings, examples, links, names in code and rows of tables."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"```\w*\n.*?```", re.DOTALL)


def readme(name: str) -> str:
    # Each names the other at its head, in place of itself.
    return (
        (ROOT / name).read_text(encoding="utf-8").replace("README.zh.md", "README.*").replace("README.md", "README.*")
    )


def parts(text: str) -> dict[str, object]:
    """Return what both must have alike, whatever the language."""
    prose = FENCE.sub("", text)
    return {
        "levels of headings": re.findall(r"^(#+) ", prose, re.MULTILINE),
        "examples": FENCE.findall(text),
        "links": Counter(re.findall(r"\]\(([^)]+)\)", prose)),
        "names in code": Counter(re.findall(r"`([^`\n]+)`", prose)),
        "rows of tables": len(re.findall(r"^\|", prose, re.MULTILINE)),
        "points of lists": len(re.findall(r"^(?:- |\d+\. )", prose, re.MULTILINE)),
        "paragraphs": len(re.findall(r"\n\n(?=[^\n#|\-])", prose)),
    }


@pytest.mark.parametrize("part", sorted(parts("")))
def test_both_readmes_say_the_same(part: str) -> None:
    english, chinese = parts(readme("README.md")), parts(readme("README.zh.md"))
    assert chinese[part] == english[part], f"{part}: change README.zh.md with README.md"


def test_a_difference_is_seen() -> None:
    text = readme("README.zh.md")
    for change in (
        ("## ", "### "),
        ("make simulate", "make simulates"),
        ("docs/http.md", "docs/https.md"),
        ("\n- ", "\n"),
    ):
        assert change[0] in text
        assert parts(text.replace(*change, 1)) != parts(text)


def test_the_chinese_one_is_chinese() -> None:
    prose = FENCE.sub("", readme("README.zh.md"))
    paragraphs = [each for each in prose.split("\n\n") if len(each) > 60]
    assert all(re.search("[\u4e00-\u9fff]", each) for each in paragraphs)
