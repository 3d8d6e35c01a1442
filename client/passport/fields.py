"""Bounded reading and writing of a passport's bytes; everything is big-endian."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from common.errors import PassportError

_Tag = TypeVar("_Tag", int, str)


class FieldReader:
    """Takes fields off a byte string, one after another; never reads past its end.

    Args:
        data: what is read.
        what: names it in errors.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._at, self._what = data, 0, what

    @property
    def position(self) -> int:
        return self._at

    def take(self, length: int) -> bytes:
        """Raises: PassportError when fewer bytes are left."""
        if length > len(self._data) - self._at:
            raise PassportError(f"{self._what}: cut short at byte {len(self._data)}; ask for the passport again")
        self._at += length
        return self._data[self._at - length : self._at]

    def number(self, width: int) -> int:
        """An unsigned integer of ``width`` bytes."""
        return int.from_bytes(self.take(width), "big")

    def text(self, name: str, *, longest: int) -> str:
        """One byte of length, then UTF-8; printable, not empty.

        Raises:
            PassportError: it is none of that.
        """
        raw = self.take(self.number(1))
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = ""
        if not 0 < len(raw) <= longest or not text.isprintable():
            raise PassportError(f"{self._what}: {name} is no printable text of 1 … {longest} bytes")
        return text

    def floats(self, name: str, count: int, *, largest: float) -> NDArray[np.float32]:
        """float32 ``[count]``.

        Raises:
            PassportError: a value is not finite, or beyond ±``largest``.
        """
        values = np.frombuffer(self.take(4 * count), dtype=">f4").astype(np.float32)
        # NaN compares false, so the test is that all lie inside.
        if not (np.abs(values) <= largest).all():
            raise PassportError(f"{self._what}: {name} holds a value that is not a number within ±{largest:g}")
        return values

    def end(self) -> None:
        """Raises: PassportError when something is left."""
        if self._at != len(self._data):
            raise PassportError(
                f"{self._what}: {len(self._data) - self._at} bytes too many; ask for the passport again"
            )


def text_field(text: str) -> bytes:
    """As :meth:`FieldReader.text` reads it."""
    raw = text.encode("utf-8")
    if not 0 < len(raw) < 256:
        raise PassportError(f"passport: a name of {len(raw)} bytes; it must have 1 … 255")
    return bytes([len(raw)]) + raw


def number_field(value: int, width: int) -> bytes:
    """An unsigned integer of ``width`` bytes."""
    return value.to_bytes(width, "big")


def float_field(values: Sequence[float] | NDArray[np.floating]) -> bytes:
    """float32 values."""
    return np.asarray(values, dtype=">f4").tobytes()


def strictly_rising(tags: Sequence[_Tag]) -> bool:
    """Whether each is greater than the one before, so that one content has one encoding."""
    return all(before < after for before, after in pairwise(tags))
