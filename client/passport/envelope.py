"""A passport's outer form: a readable head, a body sealed to one platform, a signature over both (docs/passport.md).

The receiver's X25519 key is the sealing key of its registration, which its identity key has signed and whose fingerprint
was compared out of band when it was pinned. So no key need be derived from another, and a passport is sealed with what
carries the federation's secret already.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client.passport.contents import Contents
from client.passport.fields import FieldReader, number_field, text_field
from common.errors import PassportError
from common.privacy.sealed_box import SealedBox
from common.privacy.secure_sum.identity import PlatformIdentity, signed_by

MAGIC, VERSION = b"CFPASS", 1
LARGEST = 8192
"""Bytes of a passport."""
_LABEL = b"crossfed passport v1\0"
_KEY_BYTES, _SERIAL_BYTES, _SIGNATURE_BYTES, _TAG_BYTES = 32, 16, 64, 16
_LONGEST_PLATFORM = 64
_LATEST = 1 << 40
CLOCK_SECONDS = 300
"""How far the clocks of two platforms may differ."""
_BEGIN, _END = "-----BEGIN CROSSFED PASSPORT-----", "-----END CROSSFED PASSPORT-----"
_LINE = 64


@dataclass(frozen=True)
class Head:
    """Holds what anybody can read of a passport.

    Attributes:
        serial: 16 random bytes.
        issuer, receiver: names of platforms.
        issuer_key: Ed25519 public key.
        receiver_key: X25519 public key that it is sealed to.
        not_before, expires: seconds since 1970; it is good from the one up to the other.
    """

    serial: bytes
    issuer: str
    receiver: str
    issuer_key: bytes
    receiver_key: bytes
    not_before: int
    expires: int

    def encoded(self) -> bytes:
        times = number_field(self.not_before, 8) + number_field(self.expires, 8)
        names = text_field(self.issuer) + self.issuer_key + text_field(self.receiver) + self.receiver_key
        return MAGIC + number_field(VERSION, 1) + self.serial + times + names


@dataclass(frozen=True)
class Passport:
    """A passport as it travels, its form checked and nothing else.

    Attributes:
        head: readable by all.
        box: the sealed contents.
        signature: of the issuer over all before it.
    """

    head: Head
    box: SealedBox
    signature: bytes

    @property
    def serial(self) -> str:
        """In hex."""
        return self.head.serial.hex()

    def encoded(self) -> bytes:
        return _signed(self.head, self.box) + self.signature

    def digest(self) -> str:
        """SHA-256 in hex: two passports of one serial are not the same passport."""
        return hashlib.sha256(self.encoded()).hexdigest()

    @classmethod
    def decoded(cls, data: bytes) -> Passport:
        """Raises: PassportError: not a passport, of another version, cut short or too long."""
        if len(data) > LARGEST:
            raise PassportError(f"passport: {len(data)} bytes; it has at most {LARGEST}")
        reader = FieldReader(data, "passport")
        if reader.take(len(MAGIC)) != MAGIC:
            raise PassportError("passport: this is none; give the file or text as the issuing platform made it")
        version = reader.number(1)
        if version != VERSION:
            raise PassportError(f"passport: has version {version}, and this platform reads version {VERSION}")
        serial, not_before, expires = reader.take(_SERIAL_BYTES), reader.number(8), reader.number(8)
        issuer, issuer_key = reader.text("the issuer", longest=_LONGEST_PLATFORM), reader.take(_KEY_BYTES)
        receiver, receiver_key = reader.text("the receiver", longest=_LONGEST_PLATFORM), reader.take(_KEY_BYTES)
        if not not_before < expires < _LATEST:
            raise PassportError("passport: its times are not in order")
        head = Head(serial, issuer, receiver, issuer_key, receiver_key, not_before, expires)
        box = SealedBox(reader.take(_KEY_BYTES), reader.take(reader.number(2)))
        signature = reader.take(_SIGNATURE_BYTES)
        reader.end()
        return cls(head, box, signature)


def issue(
    contents: Contents,
    *,
    issuer: str,
    identity: PlatformIdentity,
    receiver: str,
    receiver_key: bytes,
    not_before: int,
    expires: int,
) -> Passport:
    """Seal and sign.

    Args:
        contents: what it is to hold.
        issuer: this platform's name.
        identity: its key.
        receiver: the platform that may open it.
        receiver_key: that platform's X25519 sealing key, from its pinned registration.
        not_before: seconds since 1970.
        expires: likewise.

    Raises:
        PassportError: there is nothing to put into it, it would be too large, or would go to its own issuer.
    """
    if issuer == receiver:
        raise PassportError(f"passport: {receiver!r} is this platform, which knows its own user; name another one")
    serial = secrets.token_bytes(_SERIAL_BYTES)
    head = Head(serial, issuer, receiver, identity.public, receiver_key, not_before, expires)
    box = SealedBox.seal(contents.encoded(), receiver_key, **_bound_to(head))
    passport = Passport(head, box, identity.sign(_LABEL + _signed(head, box)))
    if len(passport.encoded()) > LARGEST:
        raise PassportError(f"passport: would have more than {LARGEST} bytes; leave out tastes, or lower the dimension")
    return passport


def unseal(
    passport: Passport, *, platform: str, sealing_key: X25519PrivateKey, issuer_key: bytes | None, now: float
) -> Contents:
    """Check a passport at the platform that it is for, and open it.

    Args:
        passport: as it came.
        platform: this platform's name.
        sealing_key: this platform's X25519 key.
        issuer_key: the pinned identity of the issuer; None: that platform is not pinned.
        now: seconds since 1970.

    Raises:
        PassportError: it is for another platform, of this one, of a stranger, altered, not yet good or not any more.
    """
    _check_parties(passport, platform, issuer_key)
    own_key = sealing_key.public_key().public_bytes_raw()
    head = passport.head
    if head.receiver_key != own_key:
        raise PassportError("passport: sealed to a key that this platform no longer has; ask for a new one")
    if now < head.not_before - CLOCK_SECONDS:
        raise PassportError("passport: not good yet; if it was issued just now, one of the two clocks is wrong")
    check_not_expired(head, now)
    opened = passport.box.open(sealing_key, **_bound_to(head))
    if opened is None:
        raise PassportError("passport: its content cannot be opened; ask for a new one")
    return Contents.decoded(opened)


def check_not_expired(head: Head, now: float) -> None:
    """Raises: PassportError: its time is over."""
    if now >= head.expires:
        raise PassportError("passport: has expired; ask the platform that issued it for a new one")


def _check_parties(passport: Passport, platform: str, issuer_key: bytes | None) -> None:
    head = passport.head
    if head.issuer == platform:
        raise PassportError("passport: was issued by this platform itself, which knows its own users")
    if head.receiver != platform:
        raise PassportError(f"passport: is for {head.receiver!r}, and this platform is {platform!r}")
    if issuer_key is None:
        raise PassportError(
            f"passport: comes from {head.issuer!r}, whose key is not pinned here; run crossfed-client pin first"
        )
    signed = _LABEL + _signed(head, passport.box)
    if head.issuer_key != issuer_key or not signed_by(issuer_key, passport.signature, signed):
        raise PassportError(f"passport: altered on the way, or not signed by the pinned key of {head.issuer!r}")


def armoured(passport: Passport) -> str:
    """As text, for a file, a message or a QR code."""
    text = base64.b64encode(passport.encoded()).decode()
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def read_passport(data: bytes) -> Passport:
    """From bytes or from text, which may have been wrapped anew on the way.

    Raises:
        PassportError: not a passport.
    """
    if data.startswith(MAGIC):
        return Passport.decoded(data)
    if len(data) > 2 * LARGEST:
        raise PassportError(f"passport: {len(data)} bytes of text; it has at most {2 * LARGEST}")
    words = data.strip()
    begin, end = _BEGIN.encode(), _END.encode()
    if not (words.startswith(begin) and words.endswith(end) and len(words) >= len(begin) + len(end)):
        raise PassportError(f"passport: neither a passport's bytes nor text between {_BEGIN} and {_END}")
    try:
        raw = base64.b64decode(b"".join(words[len(begin) : -len(end)].split()), validate=True)
    except (binascii.Error, ValueError):
        raise PassportError("passport: its text is damaged; ask for it again") from None
    return Passport.decoded(raw)


def account_binding(receiver: str, account: str) -> bytes:
    """32 bytes that stand for an account at the receiving platform; only that platform can open what holds them."""
    return hashlib.sha256(_LABEL + text_field(receiver) + account.encode()).digest()


def _signed(head: Head, box: SealedBox) -> bytes:
    return head.encoded() + box.ephemeral + number_field(len(box.content), 2) + box.content


def _bound_to(head: Head) -> dict[str, bytes]:
    return {"label": _LABEL, "context": head.issuer_key, "associated": head.encoded()}
