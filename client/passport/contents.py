"""Encodes a passport's contents: factor, tastes, profile, texts; each with the basis in which its numbers mean something.

Raw interactions have no place in the format: there is no field for an item, a time of an event or a count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.passport.fields import FieldReader, float_field, number_field, strictly_rising, text_field
from common.errors import PassportError

DIGEST_BYTES = 32
LARGEST_DIMENSION = 512
LARGEST_TASTES = 128
LONGEST_NAME = 64
_LARGEST_FACTOR = 1e3
_LARGEST_TASTE = 1.0
_LARGEST_PROFILE = 1e3
_LARGEST_TEXT = 1.0
_WHAT = "passport's content"
KINDS: Final = ("factor", "tastes", "profile", "texts")
"""In order of their tags, from 1 on."""


@dataclass(frozen=True)
class Basis:
    """In which space numbers are coordinates: they mean nothing in another.

    Attributes:
        name: for people, such as ``cinema/1`` or the federation's run.
        digest: 32 bytes, of the item side.
    """

    name: str
    digest: bytes

    def encoded(self) -> bytes:
        return text_field(self.name) + self.digest

    @classmethod
    def read(cls, reader: FieldReader) -> Basis:
        """Raises: PassportError for a name that is none."""
        return cls(reader.text("the basis", longest=LONGEST_NAME), reader.take(DIGEST_BYTES))


@dataclass(frozen=True, eq=False)
class Factor:
    """(a) The user's factor over the federation's shared items: float32 ``[row]``."""

    basis: Basis
    values: NDArray[np.float32]

    def encoded(self) -> bytes:
        return self.basis.encoded() + number_field(len(self.values), 2) + float_field(self.values)

    @classmethod
    def read(cls, reader: FieldReader) -> Factor:
        basis, count = Basis.read(reader), _dimension(reader)
        return cls(basis, reader.floats("the factor", count, largest=_LARGEST_FACTOR))


@dataclass(frozen=True)
class Tastes:
    """(b) Tastes over public attributes: how much more often each stands in the history than in the catalogue, in [−1, 1].

    The names of attributes are the basis, so that platforms without any item or basis in common can use them.
    """

    weights: tuple[tuple[str, float], ...]
    """In order of name: ``genre:drama``, ``maker:pixar``, ``released:1994``, ``year:1990`` (a decade), ``price`` (a number)."""

    def encoded(self) -> bytes:
        parts = (text_field(name) + float_field([weight]) for name, weight in self.weights)
        return number_field(len(self.weights), 2) + b"".join(parts)

    @classmethod
    def read(cls, reader: FieldReader) -> Tastes:
        count = reader.number(2)
        if not 0 < count <= LARGEST_TASTES:
            raise PassportError(f"{_WHAT}: {count} tastes; there must be 1 … {LARGEST_TASTES}")
        weights = []
        for _ in range(count):
            name = reader.text("a taste", longest=LONGEST_NAME)
            weights.append((name, float(reader.floats("a taste", 1, largest=_LARGEST_TASTE)[0])))
        if not strictly_rising([name for name, _ in weights]):
            raise PassportError(f"{_WHAT}: tastes are not in order of name, each once")
        return cls(tuple(weights))


@dataclass(frozen=True, eq=False)
class Profile:
    """(c) The history in the issuing platform's own basis.

    Attributes:
        basis: of the issuing platform, fixed per version.
        values: float32 ``[d]``, of length 1 without noise; the most telling directions first.
        epsilon: of local differential privacy; 0: no noise was added.
    """

    basis: Basis
    values: NDArray[np.float32]
    epsilon: float = 0.0

    def encoded(self) -> bytes:
        head = self.basis.encoded() + float_field([self.epsilon]) + number_field(len(self.values), 2)
        return head + float_field(self.values)

    @classmethod
    def read(cls, reader: FieldReader) -> Profile:
        basis = Basis.read(reader)
        epsilon = float(reader.floats("epsilon", 1, largest=_LARGEST_PROFILE)[0])
        if epsilon < 0:
            raise PassportError(f"{_WHAT}: epsilon is below 0")
        return cls(basis, reader.floats("the profile", _dimension(reader), largest=_LARGEST_PROFILE), epsilon)


@dataclass(frozen=True, eq=False)
class Texts:
    """(b) Mean of the unit vectors of what is written about the history's items: float32 ``[d]``, by the encoder ``basis``."""

    basis: Basis
    values: NDArray[np.float32]

    def encoded(self) -> bytes:
        return self.basis.encoded() + number_field(len(self.values), 2) + float_field(self.values)

    @classmethod
    def read(cls, reader: FieldReader) -> Texts:
        basis, count = Basis.read(reader), _dimension(reader)
        return cls(basis, reader.floats("texts", count, largest=_LARGEST_TEXT))


@dataclass(frozen=True, eq=False)
class Contents:
    """Everything that is sealed.

    Attributes:
        account: 32 bytes that stand for the account at the receiving platform (:func:`account_binding`), or None: the
            first account for which it is redeemed.
        factor, tastes, profile, texts: what could be made; at least one.
    """

    account: bytes | None = None
    factor: Factor | None = None
    tastes: Tastes | None = None
    profile: Profile | None = None
    texts: Texts | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which of :data:`KINDS` are there."""
        return tuple(name for name in KINDS if getattr(self, name) is not None)

    def encoded(self) -> bytes:
        """Sections of tag, length and content, in order of tag.

        Raises:
            PassportError: nothing is in it.
        """
        if not self.kinds:
            raise PassportError("nothing to put into a passport: none of its contents can be made")
        sections: list[tuple[int, bytes]] = [] if self.account is None else [(0, self.account)]
        for tag, name in enumerate(KINDS, start=1):
            section = getattr(self, name)
            sections += [] if section is None else [(tag, section.encoded())]
        return b"".join(number_field(tag, 1) + number_field(len(data), 2) + data for tag, data in sections)

    @classmethod
    def decoded(cls, data: bytes) -> Contents:
        """Raises: PassportError: not what :meth:`encoded` writes."""
        reader, tags, found = FieldReader(data, _WHAT), [], {}
        while reader.position < len(data):
            tag = reader.number(1)
            section = FieldReader(reader.take(reader.number(2)), _WHAT)
            if tag not in _SECTIONS:
                raise PassportError(f"{_WHAT}: has a section {tag}, which this version does not know")
            name, read = _SECTIONS[tag]
            found[name] = read(section)
            section.end()
            tags.append(tag)
        contents = cls(**found)
        if not strictly_rising(tags) or not contents.kinds:
            raise PassportError(f"{_WHAT}: has no content, or a section twice or out of order")
        return contents


_SECTIONS: dict[int, tuple[str, Callable[[FieldReader], Any]]] = {
    0: ("account", lambda reader: reader.take(DIGEST_BYTES)),
    1: ("factor", Factor.read),
    2: ("tastes", Tastes.read),
    3: ("profile", Profile.read),
    4: ("texts", Texts.read),
}


def _dimension(reader: FieldReader) -> int:
    count = reader.number(2)
    if not 0 < count <= LARGEST_DIMENSION:
        raise PassportError(f"{_WHAT}: {count} numbers; there must be 1 … {LARGEST_DIMENSION}")
    return count
