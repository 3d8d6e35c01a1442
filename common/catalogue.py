"""Item identity across platforms: keys, digests, the union vocabulary, and encrypted item cards.

An item key is a namespaced public id (``imdb:0114709``) or a platform-private one (``shop:sku-17``). Platforms agree on
what is the same item through the *digest* HMAC-SHA256(federation secret, key); the aggregator sees digests only, and the
union of all digests is the :class:`Vocabulary`. Digests are pseudonyms, not secrets from those who hold the federation
secret (see the privacy card): they hide the key from the aggregator, not the size of a catalogue.

*Item cards* carry key, title, genres and what else is described to the other platforms, encrypted under a key derived from
the same secret and bound to their digest, so that the aggregator relays what it cannot read.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from logging import getLogger
from types import MappingProxyType

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray
from pydantic import JsonValue, TypeAdapter

from common.attributes import LARGEST_CARD, AttributeKind, Value, to_json, told
from common.errors import CatalogueError, SecretMismatchError

_log = getLogger(__name__)

DIGEST_BYTES = 32
_NONCE_BYTES = 12
_LENGTH_BYTES = 4
# Cards are padded to a multiple of this, so that the ciphertext's length says little about the title's.
_CARD_BLOCK = 128
_MIN_SECRET_BYTES = 16
_KEY_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]*:\S(?:.*\S)?", re.IGNORECASE)

_Plain = tuple[str, str, tuple[str, ...], str | None]
# A card without further attributes is the same to the bit as before there were any.
_Described = tuple[str, str, tuple[str, ...], str | None, dict[str, JsonValue]]
_CARD: TypeAdapter[_Plain | _Described] = TypeAdapter(_Plain | _Described)


@dataclass(frozen=True, slots=True)
class ItemCard:
    """Holds what a platform lets others know of an item.

    Attributes:
        key, title, genres, link: for people.
        attributes: what else is described, by name (:mod:`common.attributes`).
    """

    key: str
    title: str
    genres: tuple[str, ...] = ()
    link: str | None = None
    attributes: Mapping[str, Value] = field(default_factory=dict)


class FederationSecret:
    """The secret that the platforms share and the aggregator never has.

    Args:
        secret: at least 16 random bytes; :meth:`generate` makes 32.

    Raises:
        CatalogueError: the secret is too short.
    """

    __slots__ = ("_card_cipher", "_digest_key", "_feature_key", "fingerprint")

    def __init__(self, secret: bytes) -> None:
        if len(secret) < _MIN_SECRET_BYTES:
            raise CatalogueError(
                f"the federation secret has {len(secret)} bytes; it needs at least {_MIN_SECRET_BYTES} random ones"
            )
        self._digest_key = _derive(secret, b"crossfed item digest v1")
        self._feature_key = _derive(secret, b"crossfed item feature v1")
        self._card_cipher = AESGCMSIV(_derive(secret, b"crossfed item card v1"))
        self.fingerprint = _derive(secret, b"crossfed secret fingerprint v1")[:8].hex()
        """16 hex digits that tell whether two platforms hold the same secret, and nothing about it."""

    def __repr__(self) -> str:
        return f"FederationSecret(fingerprint={self.fingerprint})"

    @staticmethod
    def generate() -> bytes:
        """32 bytes from the operating system's CSPRNG."""
        return os.urandom(32)

    def digests(self, keys: Iterable[str]) -> NDArray[np.uint8]:
        """HMAC-SHA256 of each key: uint8 ``[m, 32]``.

        Raises:
            CatalogueError: a key is not ``namespace:id``.
        """
        rows = [hmac.digest(self._digest_key, check_key(key).encode(), hashlib.sha256) for key in keys]
        return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), DIGEST_BYTES)

    def feature_tokens(self, features: Iterable[Sequence[str]]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Keyed digests of each item's public attributes: uint64 tokens, and int64 ``[m + 1]`` offsets by item.

        Whoever lacks the secret learns which items have an attribute in common, and not which attribute it is.
        """
        rows = [
            [hmac.digest(self._feature_key, name.encode(), hashlib.sha256)[:8] for name in names] for names in features
        ]
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
        return np.frombuffer(b"".join(token for row in rows for token in row), dtype="<u8"), offsets

    def seal_cards(self, cards: Sequence[ItemCard | None], digests: NDArray[np.uint8]) -> list[bytes]:
        """Encrypt each card for the holders of the secret, bound to its digest (AES-256-GCM-SIV); None stays empty."""
        return [
            self._seal(card, digest.tobytes()) if card else b"" for card, digest in zip(cards, digests, strict=True)
        ]

    def open_cards(
        self,
        sealed: Sequence[bytes],
        digests: NDArray[np.uint8],
        kinds: Mapping[str, AttributeKind] = MappingProxyType({}),
    ) -> list[ItemCard | None]:
        """Decrypt cards; an empty one (an item nobody described) is None.

        So is one that was made with another secret, tampered with, is malformed or describes another item than it stands
        beside: any platform can spoil the cards that it sends, and must not spoil the federation with them. Of attributes,
        those that were agreed (``kinds``) and are within their bounds are read; others are left out.
        """
        return self.open_first_cards([[box] if box else [] for box in sealed], digests, kinds)

    def open_first_cards(
        self,
        candidates: Sequence[Sequence[bytes]],
        digests: NDArray[np.uint8],
        kinds: Mapping[str, AttributeKind] = MappingProxyType({}),
    ) -> list[ItemCard | None]:
        """The first card of each item that :meth:`open_cards` would open; None where there is none."""
        cards = [
            next((card for box in boxes if (card := self._open(box, digest.tobytes(), kinds))), None)
            for boxes, digest in zip(candidates, digests, strict=True)
        ]
        bad = sum(1 for boxes, card in zip(candidates, cards, strict=True) if boxes and card is None)
        if bad:
            _log.warning(
                "%d of %d item cards cannot be used and their items stay undescribed: made with another federation secret, "
                "altered on the way, or of another item",
                bad,
                len(cards),
            )
        return cards

    def _seal(self, card: ItemCard, digest: bytes) -> bytes:
        content: list[object] = [card.key, card.title, card.genres, card.link]
        if card.attributes:
            content.append({name: to_json(value) for name, value in card.attributes.items()})
        text = json.dumps(content, ensure_ascii=False).encode()
        padded = text + b" " * (-len(text) % _CARD_BLOCK)
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._card_cipher.encrypt(nonce, padded, digest)

    def _open(self, box: bytes, digest: bytes, kinds: Mapping[str, AttributeKind]) -> ItemCard | None:
        if len(box) > LARGEST_CARD:
            return None
        try:
            text = self._card_cipher.decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], digest)
            content = _CARD.validate_json(text, strict=True)
            key, title, genres, link = content[:4]
            described = self.digests([key]).tobytes()
        except (InvalidTag, ValueError, CatalogueError):
            return None
        if described != digest:
            return None
        attributes = told(kinds, content[4]) if len(content) == 5 else {}
        return ItemCard(key=key, title=title, genres=genres, link=link, attributes=attributes)


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose).derive(secret)


def is_key(key: str) -> bool:
    """Whether ``key`` is a namespaced item key."""
    return _KEY_PATTERN.fullmatch(key) is not None


def check_key(key: str) -> str:
    """Return ``key`` if it is a namespaced item key.

    >>> check_key("imdb:0114709")
    'imdb:0114709'

    Raises:
        CatalogueError: it has no ``namespace:`` in front, or blanks at an end.
    """
    if not is_key(key):
        raise CatalogueError(f"item key {key!r} is not 'namespace:id' (for instance imdb:0114709); set items.namespace")
    return key


def check_same_secret(fingerprints: Mapping[str, str]) -> None:
    """Refuse a federation whose platforms made their digests with different secrets.

    Args:
        fingerprints: :attr:`FederationSecret.fingerprint` by platform name.

    Raises:
        SecretMismatchError: names the platforms that differ from the majority.
    """
    values = sorted(fingerprints.values())
    if len(set(values)) <= 1:
        return
    common = max(values, key=values.count)
    odd = sorted(name for name, value in fingerprints.items() if value != common)
    raise SecretMismatchError(
        f"the item digests of {', '.join(odd)} were made with another federation secret than those of the other "
        f"platforms, so no item could ever match; give every platform the same secret file and join again"
    )


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The union of all platforms' digests; position in it is an item's row in every shared array.

    Attributes:
        digests: uint8 ``[m, 32]``, unique. Append-only: an item keeps its position when platforms join later.
        owners: platform name → int32 positions of the items it shares, in the platform's own order.
    """

    digests: NDArray[np.uint8]
    owners: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.digests)

    @classmethod
    def empty(cls) -> Vocabulary:
        return cls(np.zeros((0, DIGEST_BYTES), dtype=np.uint8))

    def extended(self, catalogues: Mapping[str, NDArray[np.uint8]]) -> Vocabulary:
        """This vocabulary with ``catalogues`` (uint8 ``[m_p, 32]`` by platform name) added.

        New digests go behind the known ones, sorted, so that the result depends neither on the order in which platforms
        answer nor on how a platform orders its catalogue. A platform already known is replaced; its items stay.

        Raises:
            CatalogueError: a catalogue is not uint8 ``[m, 32]`` or repeats an item.
        """
        known = {row.tobytes(): position for position, row in enumerate(self.digests)}
        rows_of = {name: _digest_rows(name, digests) for name, digests in sorted(catalogues.items())}
        new = sorted(set().union(*rows_of.values()) - known.keys()) if rows_of else []
        position_of = known | {row: len(known) + offset for offset, row in enumerate(new)}
        owners = dict(self.owners)
        for name, rows in rows_of.items():
            owners[name] = np.fromiter((position_of[row] for row in rows), dtype=np.int32, count=len(rows))
        added = np.frombuffer(b"".join(new), dtype=np.uint8).reshape(len(new), DIGEST_BYTES)
        return Vocabulary(np.concatenate([self.digests, added]), dict(sorted(owners.items())))

    def positions(self, digests: NDArray[np.uint8]) -> NDArray[np.int32]:
        """int32 ``[k]``: the position of each digest (uint8 ``[k, 32]``).

        Raises:
            CatalogueError: one is not in the vocabulary.
        """
        known = {row.tobytes(): position for position, row in enumerate(self.digests)}
        try:
            return np.fromiter((known[row.tobytes()] for row in digests), dtype=np.int32, count=len(digests))
        except KeyError:
            raise CatalogueError(
                "the vocabulary lacks an item that this platform shares; join the federation again"
            ) from None

    def ownership(self) -> NDArray[np.bool_]:
        """Bool ``[m, P]``: who shares what, platforms in sorted order."""
        mask = np.zeros((len(self), len(self.owners)), dtype=np.bool_)
        for column, name in enumerate(sorted(self.owners)):
            mask[self.owners[name], column] = True
        return mask

    def shared_items(self) -> int:
        """How many items more than one platform shares."""
        return int((self.ownership().sum(axis=1) > 1).sum())


def _digest_rows(platform: str, digests: NDArray[np.uint8]) -> list[bytes]:
    if digests.dtype != np.uint8 or digests.ndim != 2 or digests.shape[1] != DIGEST_BYTES:
        raise CatalogueError(
            f"platform {platform}: digests are {digests.dtype} {digests.shape}, not uint8 [m, {DIGEST_BYTES}]"
        )
    rows = [row.tobytes() for row in digests]
    if len(set(rows)) != len(rows):
        raise CatalogueError(f"platform {platform}: its catalogue repeats an item; item keys must be unique")
    return rows


def pack_blobs(blobs: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Byte strings as one uint8 array and int64 ``[n + 1]`` offsets, the form in which cards travel."""
    offsets = np.concatenate([[0], np.cumsum([len(blob) for blob in blobs], dtype=np.int64)]).astype(np.int64)
    return np.frombuffer(b"".join(blobs), dtype=np.uint8), offsets


def unpack_blobs(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> list[bytes]:
    """The inverse of :func:`pack_blobs`.

    Raises:
        CatalogueError: the offsets do not cut ``data``.
    """
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(data) or np.any(np.diff(offsets) < 0):
        raise CatalogueError("item cards: the offsets do not fit the data")
    raw = data.tobytes()
    return [raw[start:end] for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]


def join_boxes(boxes: Sequence[bytes]) -> bytes:
    """Several sealed cards of one item as one byte string: each behind its length (uint32, little-endian)."""
    return b"".join(len(box).to_bytes(_LENGTH_BYTES, "little") + box for box in boxes)


def split_boxes(joined: bytes) -> list[bytes]:
    """The inverse of :func:`join_boxes`. What does not come apart is handed on as it is, to be refused as a card.

    >>> split_boxes(join_boxes([b"one", b"two"])), split_boxes(b"")
    ([b'one', b'two'], [])
    """
    boxes: list[bytes] = []
    start = 0
    while start < len(joined):
        end = start + _LENGTH_BYTES + int.from_bytes(joined[start : start + _LENGTH_BYTES], "little")
        if end > len(joined):
            return [*boxes, joined[start:]]
        boxes.append(joined[start + _LENGTH_BYTES : end])
        start = end
    return boxes
