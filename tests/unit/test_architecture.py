"""docs/architecture.svg is drawn from the code as it is."""

from __future__ import annotations

from tools.architecture import BANDS, PICTURE, imports, picture


def test_the_picture_is_of_this_version() -> None:
    assert picture() == PICTURE.read_text(encoding="utf-8"), "run make docs-reference"


def test_what_is_drawn_above_is_not_imported_from_below() -> None:
    rank = {top: place for place, band in enumerate(BANDS) for top in band}
    for folder, others in imports().items():
        own = folder.split("/")[0]
        for other in others:
            top = other.split("/")[0]
            assert top == own or rank[top] > rank[own], f"{folder} imports {other}"
