"""Described attributes of items: what is publicly said of one, by kind, bounded in size, the same at home and on a card.

A value is brought to its final form once, where a platform reads its files (:mod:`client.data.describe`). That form is what
its own models see and what others read on the item's card: nobody learns from one wording and is told another.

    category    one text                     ``str``
    categories  several texts                ``tuple[str, ...]``
    number      a finite number              ``float``
    text        words to be read             ``str``
    vector      numbers of one length        ``bytes``: float16, little-endian
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

AttributeKind = Literal["category", "categories", "number", "text", "vector"]
Value = str | float | tuple[str, ...] | bytes

ALWAYS: Final[Mapping[str, AttributeKind]] = {"title": "text", "genres": "categories"}
"""Attributes that every item has a place for, whatever the plan names besides."""

LONGEST_CATEGORY: Final = 200
"""Characters of a category's name."""
MOST_CATEGORIES: Final = 64
"""Values of one item under ``categories``."""
LONGEST_TEXT: Final = 2000
"""Characters of a text: as many as text encoders read."""
LONGEST_VECTOR: Final = 1024
"""Numbers of a vector."""
LARGEST_DESCRIPTION: Final = 12_288
"""Bytes of all attributes of one item besides title and genres, as they stand on its card."""
LARGEST_CARD: Final = 98_304
"""Bytes of a sealed card; a larger one, which no platform makes, is not opened."""
_VECTOR: Final = "f2"
_LARGEST_WHOLE: Final = 1 << 1000


def nfc(text: str) -> str:
    """A letter with its accent as one character, however it was typed."""
    return unicodedata.normalize("NFC", text)


def folded(value: str) -> str:
    """A category's value as it is compared: neither letter case nor the way an accent was typed counts.

    >>> folded("CAFÉ")
    'café'
    """
    return nfc(value).casefold()


def fits(kind: AttributeKind, value: object) -> bool:
    """Whether ``value`` is one of ``kind`` in its final form, within its bounds.

    >>> fits("category", "Le Guin"), fits("number", 1969.0), fits("number", math.nan), fits("categories", ("a", ""))
    (True, True, False, False)
    """
    match kind:
        case "category":
            return _is_text(value, LONGEST_CATEGORY)
        case "text":
            return _is_text(value, LONGEST_TEXT)
        case "number":
            return type(value) is float and math.isfinite(value)
        case "categories":
            return (
                type(value) is tuple
                and 0 < len(value) <= MOST_CATEGORIES
                and all(_is_text(one, LONGEST_CATEGORY) for one in value)
            )
        case "vector":
            if type(value) is not bytes or len(value) % 2 or not 0 < len(value) <= 2 * LONGEST_VECTOR:
                return False
            return bool(np.isfinite(numbers_of(value)).all())


def numbers_of(vector: bytes) -> NDArray[np.float32]:
    """float32 ``[w]``."""
    return np.frombuffer(vector, dtype="<f2").astype(np.float32)


def vector_of(numbers: NDArray[np.floating]) -> bytes:
    """The final form of numbers ``[w]``, which half precision must be able to hold."""
    return numbers.astype("<f2").tobytes()


def values_of(value: Value | None) -> tuple[str, ...]:
    """Of ``category`` or ``categories`` the values, of nothing none."""
    if isinstance(value, tuple):
        return value
    return (value,) if isinstance(value, str) else ()


def to_json(value: Value) -> Any:
    """As cards and stores hold it."""
    if isinstance(value, bytes):
        return {_VECTOR: base64.b64encode(value).decode()}
    return list(value) if isinstance(value, tuple) else value


def from_json(value: Any) -> Value | None:
    """The inverse of :func:`to_json`; None of what it cannot have made."""
    match value:
        case str() | float():
            return value
        case int() if not isinstance(value, bool) and abs(value) < _LARGEST_WHOLE:
            return float(value)
        case list():
            return tuple(value)
        case {"f2": str(encoded)}:
            return _bytes(encoded)
    return None


def _bytes(encoded: str) -> bytes | None:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None


def told(kinds: Mapping[str, AttributeKind], given: Mapping[str, Any]) -> dict[str, Value]:
    """Of what stands on a card the attributes that were agreed, in their final form; all else is left out."""
    found = {name: from_json(given[name]) for name in kinds if name in given}
    return {name: value for name, value in found.items() if value is not None and fits(kinds[name], value)}


def bounded(description: Mapping[str, Value]) -> tuple[dict[str, Value], tuple[str, ...]]:
    """A description that fits a card, and the names of attributes that were left out for it, the largest first."""
    kept, left_out = dict(description), list[str]()
    sizes = {name: card_bytes({name: value}) for name, value in kept.items()}
    while kept and card_bytes(kept) > LARGEST_DESCRIPTION:
        largest = max(kept, key=lambda name: (sizes[name], name))
        del kept[largest]
        left_out.append(largest)
    return kept, tuple(left_out)


def card_bytes(description: Mapping[str, Value]) -> int:
    """How many bytes a description takes on a card."""
    return len(json.dumps({name: to_json(value) for name, value in description.items()}, ensure_ascii=False).encode())


def _is_text(value: object, longest: int) -> bool:
    return type(value) is str and 0 < len(value) <= longest and value == value.strip()
