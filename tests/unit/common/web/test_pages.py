"""Values on pages are text, whoever wrote them."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from common.web.pages import Pages, stylesheet


@pytest.fixture
def pages(tmp_path: object) -> Pages:
    return Pages()


def rendered(pages: Pages, source: str, **values: object) -> str:
    return pages._environment.from_string(source).render(**values)


def test_markup_in_a_value_is_shown_and_not_obeyed(pages: Pages) -> None:
    shown = rendered(pages, '<p title="{{ x }}">{{ x }}</p>', x="\"><script>alert(1)</script>'")
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 2


def test_what_nobody_sees_is_written_out(pages: Pages) -> None:
    assert rendered(pages, "{{ x }}", x="a\u202eb\x1b[2J") == r"a\u202eb\x1b[2J"


def test_a_value_that_is_not_given_is_an_error(pages: Pages) -> None:
    with pytest.raises(UndefinedError):
        rendered(pages, "{{ missing }}")


def test_the_style_asks_nobody_for_anything() -> None:
    style = stylesheet()
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
