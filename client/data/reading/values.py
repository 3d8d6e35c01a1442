"""Numbers and lists as people write them into a field: prices, decimal commas, dates, lists in brackets.

A column is read by one rule, which its own values decide and no interaction: whether a comma stands before a fraction or
between thousands. Each value is read by itself then.
"""

from __future__ import annotations

import ast
import calendar
import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from client.data.reading.identifiers import identifier

_CODES: Final = (
    "AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HKD|HUF|IDR|INR|JPY|KRW|MXN|NOK|NZD|PLN|RMB|RUB|SEK|SGD|TRY|TWD|UAH|USD|ZAR"
)
_SYMBOLS: Final = r"[$\xa2-\xa5\u20a0-\u20cf\ufe69\uff04\uffe0\uffe1\uffe5\uffe6]"
_SIGN: Final = rf"(?:[A-Z]{{0,3}}{_SYMBOLS}|元|円|원|(?:{_CODES})(?![A-Za-z])|%)"
_WITH_SIGN: Final = re.compile(rf"({_SIGN})?\s*([^A-Za-z]*?)\s*({_SIGN})?")
_GROUPS: Final = re.compile(r"(?<=[0-9])['’\s](?=[0-9]{3}(?![0-9]))")
_PLAIN: Final = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_POINT_IN_FRACTION: Final = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+\.[0-9]+|[0-9]*\.(?:[0-9]{1,2}|[0-9]{4,}))")
_COMMA_IN_FRACTION: Final = re.compile(r"[-+]?(?:[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+|[0-9]*,(?:[0-9]{1,2}|[0-9]{4,}))")
_THOUSANDS: Final = {
    ",": re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?"),
    ".": re.compile(r"[-+]?[0-9]{1,3}(?:\.[0-9]{3})+(?:,[0-9]*)?"),
}
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}(?:-[0-9]{2}(?:[T ][0-9:.,]+(?:Z|[-+][0-9:]+)?)?)?")
_LONGEST: Final = 100_000


def numbers(texts: Sequence[str | None]) -> tuple[list[float | None], tuple[str, ...]]:
    """Read the numbers of a column of text, and how they were written where that is no plain number.

    A date is its year with the part of it that has passed, so that years and dates stand on one scale.

    Args:
        texts: of one column; None where there is nothing.

    Returns:
        Finite numbers, None where there is none; and words for the cleaning report.

    >>> numbers(["$ 3.50", "1,200", None, "about 4"])
    ([3.5, 1200.0, None, None], ('$ is left out',))
    >>> numbers(["3,5", "1.200,00 €", "2016-07-01"])[0]
    [3.5, 1200.0, 2016.4972677595629]
    """
    bare = [(None, "") if text is None else _without_sign(text) for text in texts]
    comma = any(_COMMA_IN_FRACTION.fullmatch(one) for one, _ in bare if one) and not any(
        _POINT_IN_FRACTION.fullmatch(one) for one, _ in bare if one
    )
    found = [None if one is None else _number(one, comma) for one, _ in bare]
    signs = sorted({sign for (_, sign), number in zip(bare, found, strict=True) if sign and number is not None})
    dates = sum(
        number is not None and bool(_DATE.fullmatch(one or "")) for (one, _), number in zip(bare, found, strict=True)
    )
    said = [f"{', '.join(signs[:5])} {'is' if len(signs) == 1 else 'are'} left out"] if signs else []
    said += ["a comma is taken to stand before the fraction"] if comma else []
    said += [f"{dates:,} dates are read as years"] if dates else []
    return found, tuple(said)


def year_of(moment: datetime) -> float:
    """Return the year with the part of it that has passed by the day's begin.

    >>> year_of(datetime(1970, 1, 1))
    1970.0
    """
    return moment.year + (moment.timetuple().tm_yday - 1) / (366 if calendar.isleap(moment.year) else 365)


def listed(text: str) -> list[str] | None:
    """Return the values of a list that stands in brackets, as JSON or Python write it; None of any other text.

    >>> listed('["a", "b, c"]'), listed("['a', 3]"), listed("[untitled]")
    (['a', 'b, c'], ['a', '3'], None)
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]") and len(text) <= _LONGEST):
        return None
    found = _parsed(text)
    if not isinstance(found, list) or any(isinstance(one, list | dict | tuple | set) for one in found):
        return None
    return [str(one) for one in found if one is not None]


def is_nothing(text: str) -> bool:
    r"""Whether a field says that there is no value: empty, ``NULL``, ``nan``, ``None``, ``<NA>``, ``\N``.

    >>> is_nothing(" nan "), is_nothing("Nancy")
    (True, False)
    """
    return identifier(text) is None


def _without_sign(text: str) -> tuple[str | None, str]:
    """Split off what is left of an amount without its currency or percent sign, and the sign."""
    text = text.strip().replace("\u2212", "-")
    if is_nothing(text):
        return None, ""
    matched = _WITH_SIGN.fullmatch(text)
    if matched is None or not matched[2]:
        return text, ""
    return _GROUPS.sub("", matched[2]), matched[1] or matched[3] or ""


def _number(text: str, comma: bool) -> float | None:
    if _DATE.fullmatch(text):
        return _year_in(text)
    group, fraction = (".", ",") if comma else (",", ".")
    if _THOUSANDS[group].fullmatch(text):
        text = text.replace(group, "")
    if comma:
        text = text.replace(fraction, ".", 1)
    if not _PLAIN.fullmatch(text):
        return None
    number = float(text)
    return number if abs(number) != float("inf") else None


def _year_in(text: str) -> float | None:
    try:
        return year_of(datetime.fromisoformat(text[:10] if len(text) > 7 else f"{text}-01"))
    except ValueError:
        return None


def _parsed(text: str) -> Any:
    """The value of a text in JSON or as Python writes it; None where it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
