"""Pages from templates: every value is text, whoever wrote it, and never markup."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from common.visible import visible
from common.web.phrases import phrases
from common.web.texts import LANGUAGES, Language, Texts

SHARED = "common.web"


class Pages:
    """Renders the templates of some packages in any of the languages.

    A template has ``t(KEY, …)`` for its own texts, ``known(PREFIX, WORD)`` for names that code may add to, ``told(TEXT)`` for
    what code says in English (:mod:`common.web.phrases`), and the filters of this module for numbers. What it is given is
    escaped, and what would be invisible in it is written out.

    Args:
        packages: dotted names of packages with ``templates/`` and ``texts.yaml``; ``common.web`` is always among them.
    """

    def __init__(self, *packages: str) -> None:
        every = (*packages, SHARED)
        self.texts = Texts(every)
        self._environment = Environment(
            loader=ChoiceLoader([FileSystemLoader(str(files(package) / "templates")) for package in every]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
        )
        self._environment.filters |= {
            "figure": figure, "signed": signed, "interval": interval, "share": share, "count": count, "size": size,
            "seconds": seconds, "moment": moment,
        }  # fmt: skip

    def render(self, template: str, language: Language, **content: Any) -> str:
        """A page.

        Args:
            template: its file's name.
            language: of its texts.
            content: what the template shows; a name that it uses and is not given is an error.
        """
        texts: dict[str, Any] = {
            "t": partial(self.texts.say, language),
            "known": partial(self.texts.known, language),
            "told": partial(told, language),
            "language": language,
            "languages": LANGUAGES,
        }
        return self._environment.get_template(template).render(content | texts)


def told(language: Language, text: str) -> Markup:
    """Return what code says, in the page's language where there is a phrase for it, marked with the language that it is in."""
    said, of = phrases().say(language, text)
    shown = visible(said, lines=True)
    return escape(shown) if of == language else Markup('<span lang="{}">{}</span>').format(of, shown)


def stylesheet() -> str:
    """The style of all pages, light and dark."""
    return (files(SHARED) / "static" / "style.css").read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    return visible(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


def figure(value: float | None) -> str:
    """Three decimals; a dash for what is not known.

    >>> figure(0.28368)
    '0.284'
    """
    return "–" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """The same with its sign, as of a difference.

    >>> signed(-0.0012)
    '−0.001'
    """
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def interval(ends: Any) -> str:
    """The two ends of an interval, empty without one.

    >>> interval([0.1, 0.25])
    '0.100–0.250'
    """
    return "" if not ends else f"{ends[0]:.3f}–{ends[1]:.3f}"


def share(value: float | None) -> str:
    """Per cent.

    >>> share(0.256)
    '26%'
    """
    return "–" if value is None else f"{value:.0%}"


def count(value: float | None) -> str:
    """A number of things.

    >>> count(1374)
    '1,374'
    """
    return "–" if value is None else f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes for people.

    >>> size(2354312)
    '2.4 MB'
    """
    return f"{value / 1e6:.1f} MB" if value >= 100_000 else f"{value / 1e3:.1f} kB"


def seconds(value: float | None) -> str:
    """A duration.

    >>> seconds(0.2148)
    '0.21 s'
    """
    return "–" if value is None else f"{value:,.2f} s"


def moment(value: float | str | None) -> str:
    """A time in UTC, from seconds since 1970 or ISO 8601.

    >>> moment(0)
    '1970-01-01 00:00 UTC'
    """
    if value is None:
        return "–"
    at = datetime.fromtimestamp(value, UTC) if isinstance(value, (int, float)) else datetime.fromisoformat(value)
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
