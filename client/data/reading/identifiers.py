r"""How ids are compared: one rule for users and items, wherever an id comes from.

Privacy protects a *user*, and a user is an id: two spellings that count as two users would bring a person's history in twice,
at twice the sensitivity that was declared. So files, recorded feedback, requests and whatever erases or excludes a user read
ids through :func:`identifier`, and two ids are the same when it makes the same text of them:

1  Unicode normal form NFC: a letter with its accent is one character, however it was typed
2  no blanks, line ends or invisible characters (zero-width space, byte-order mark) at the ends
3  a whole number that was stored as a floating-point one loses its ``.0``: ``3.0``, as pandas writes it, is ``3``
4  ``NULL``, ``nan``, ``None``, ``<NA>`` (in any case), ``\N`` and nothing at all stand for no id

Capitals count, and so do zeros in front. An id has at most :data:`LONGEST` characters.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from common.errors import ContractError

LONGEST: Final = 512
"""Most characters of an id, which a request may have, too."""

_INVISIBLE: Final = "\u200b\u2060\ufeff\x00"
_BLANKS: Final = "".join(chr(code) for code in range(0x3001) if chr(code).isspace()) + _INVISIBLE
NO_ID: Final = frozenset({"", "null", "nan", "none", "<na>", "\\n"})
"""What stands for no id, and for no value in other columns, in any case."""
_STORED_AS_FLOAT: Final = re.compile(r"([+-]?[0-9]+)\.0+")
_LONGEST_NO_ID: Final = 4


def identifier(text: str) -> str | None:
    """An id in the form in which ids are compared; None where the text stands for no id.

    >>> identifier(" 42.0 "), identifier("NULL"), identifier("Ann")
    ('42', None, 'Ann')
    """
    found = unicodedata.normalize("NFC", text).strip(_BLANKS)
    if len(found) <= _LONGEST_NO_ID and found.lower() in NO_ID:
        return None
    number = _STORED_AS_FLOAT.fullmatch(found)
    return number[1] if number else found


def required_identifier(field: str, text: str) -> str:
    """An id of a request, normalised.

    Args:
        field: its name, for the message.
        text: as it came.

    Raises:
        ContractError: it stands for no id, or is too long; the message does not repeat it.
    """
    found = identifier(text)
    if found is None or len(found) > LONGEST:
        raise ContractError(
            f"{field}: must have 1 … {LONGEST} characters beside blanks, and be no word for nothing such as NULL"
        )
    return found


def item_key(key: str) -> str | None:
    """An item key (``imdb:0114709``) as keys are compared: the id behind the namespace, too, is an id."""
    found = identifier(key)
    if found is None or ":" not in found:
        return found
    namespace, _, rest = found.partition(":")
    item = identifier(rest)
    return None if item is None else f"{namespace}:{item}"


def required_key(field: str, text: str) -> str:
    """An item key of a request, normalised; arguments and errors as of :func:`required_identifier`."""
    found = item_key(text)
    if found is None or len(found) > LONGEST:
        raise ContractError(f"{field}: must be namespace:id of at most {LONGEST} characters, for instance imdb:0114709")
    return found
