"""docs/troubleshooting.md quotes messages as they are, and the docs' other pages are all in the site."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SEEN = [line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| ") and "you see" not in line]
# Said by a library, typed by the operator, or named as a thing rather than quoted.
NOT_QUOTED = re.compile(
    r"crossfed\.|\.state$|^--|^join$|^run$|^doctor$|^decimal$|^\?$|^\\|^3\.0$|^3$|^03$|^certificate verify failed$"
)


def messages() -> str:
    """All text of the source, with what f-strings insert as a blank."""
    texts = []
    for name in ("client", "common", "server", "simulations"):
        for path in sorted((ROOT / name).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
                if isinstance(node, ast.JoinedStr):
                    texts.append("".join(v.value if isinstance(v, ast.Constant) else " " for v in node.values))
    return " \n".join(texts)


def test_each_quoted_message_is_one() -> None:
    said = messages()
    quoted = [part for cell in SEEN for part in re.findall(r"`([^`]+)`", cell) if not NOT_QUOTED.search(part)]
    assert len(quoted) > 30
    assert not [part for part in quoted if part not in said]


def test_each_row_says_why_and_how_to_mend_it() -> None:
    rows = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    assert len(rows) > 40
    assert not [row for row in rows if len(row) != 3 or not all(cell.strip() for cell in row)]


def test_each_page_is_in_the_sites_navigation() -> None:
    content = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = set(re.findall(r"[\w-]+\.md", str(content["nav"])))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} | {"contributing.md"} == named


def test_each_link_between_pages_leads_to_a_heading() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]
    for page in pages:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
            place = (page.parent / target) if target else page
            place = ROOT / "CONTRIBUTING.md" if target == "contributing.md" else place
            assert place.exists(), f"{page.name}: {target}"
            headings = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in anchors, f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("word", [">>> 1 + 1\n2", "  >>> f(\n  ... 1)\n  [1, 2]"])
def test_doctests_are_shown_as_code(word: str) -> None:
    pytest.importorskip("griffe", reason="make docs installs it")
    from tools.docstrings import fenced

    shown = fenced(f"What it is.\n\n{word}\n\nMore.\n")
    assert shown.count("```") == 2
    assert shown.index("```pycon") < shown.index(">>>") < shown.rindex("```") < shown.index("More.")
