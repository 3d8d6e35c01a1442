"""The passport's form: what is written is read, and nothing else is."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from client.passport import envelope
from client.passport.contents import Basis, Contents, Factor, Profile, Tastes, Texts
from client.passport.envelope import Passport, armoured, issue, read_passport, unseal
from common.errors import PassportError
from common.privacy.secure_sum import PlatformIdentity

_NOW = 1_800_000_000
_DAY = 86_400
_IDENTITY, _STRANGER = PlatformIdentity.generate(), PlatformIdentity.generate()
_SEALING, _OTHER_SEALING = X25519PrivateKey.generate(), X25519PrivateKey.generate()
_BASIS = Basis("cinema/1", bytes(range(32)))
_CONTENTS = Contents(
    factor=Factor(Basis("run 7", bytes(32)), np.arange(64, dtype=np.float32)),
    tastes=Tastes((("genre:drama", 0.5), ("year:1990", -0.25))),
    profile=Profile(_BASIS, np.full(256, 1 / 16, dtype=np.float32)),
    texts=Texts(Basis("usem3", bytes(32)), np.full(64, 1 / 8, dtype=np.float32)),
)


def _issued(contents: Contents = _CONTENTS, **changed: object) -> Passport:
    fields: dict[str, object] = {
        "issuer": "cinema",
        "identity": _IDENTITY,
        "receiver": "books",
        "receiver_key": _SEALING.public_key().public_bytes_raw(),
        "not_before": _NOW,
        "expires": _NOW + 30 * _DAY,
    }
    return issue(contents, **(fields | changed))  # type: ignore[arg-type]


def _opened(passport: Passport, **changed: object) -> Contents:
    fields: dict[str, object] = {
        "platform": "books",
        "sealing_key": _SEALING,
        "issuer_key": _IDENTITY.public,
        "now": _NOW + 60,
    }
    return unseal(passport, **(fields | changed))  # type: ignore[arg-type]


def _sealed_raw(body: bytes) -> Passport:
    """A passport whose body is ``body``, signed and sealed rightly: what a hostile issuer could send."""

    class Raw(Contents):
        def encoded(self) -> bytes:
            return body

    return _issued(Raw())


def test_what_is_sealed_is_opened() -> None:
    passport = read_passport(armoured(_issued()).encode())
    opened = _opened(passport)

    assert opened.kinds == ("factor", "tastes", "profile", "texts")
    assert opened.encoded() == _CONTENTS.encoded()
    assert opened.profile is not None
    assert opened.profile.basis == _BASIS
    assert len(passport.encoded()) < 2048


def test_largest_passport_stays_under_8_kib() -> None:
    tastes = Tastes(tuple((f"genre:{number:03d}" + "x" * 25, 0.5) for number in range(100)))
    whole = Contents(bytes(32), Factor(_BASIS, np.ones(256, np.float32)), tastes, _CONTENTS.profile)
    assert len(_issued(whole).encoded()) <= 8192
    with pytest.raises(PassportError, match="more than 8192 bytes"):
        _issued(replace(whole, tastes=Tastes(tuple((f"{i:064d}", 0.5) for i in range(128)))))


def test_usual_passport_fits_into_a_qr_code() -> None:
    usual = Contents(
        bytes(32),
        tastes=Tastes(tuple((f"released:{year}", 0.0123) for year in range(1900, 1967))),
        profile=Profile(_BASIS, np.full(64, 1 / 8, dtype=np.float32)),
    )
    # Version 40 with the least correction, bytes.
    assert len(armoured(_issued(usual))) <= 2953


def test_bytes_are_as_documented() -> None:
    data = _issued(Contents(tastes=Tastes((("genre:drama", 0.5),)))).encoded()
    assert data[:7] == b"CFPASS\x01"
    assert struct.unpack(">QQ", data[23:39]) == (_NOW, _NOW + 30 * _DAY)
    assert data[39:46] == b"\x06cinema"
    assert data[46:78] == _IDENTITY.public
    assert data[78:84] == b"\x05books"
    assert data[84:116] == _SEALING.public_key().public_bytes_raw()
    (length,) = struct.unpack(">H", data[148:150])
    assert len(data) == 150 + length + 64
    # The body: section 2, 18 bytes, one taste of 11 characters and a float32; and GCM's tag.
    assert length == 3 + 18 + 16


def test_any_flipped_bit_is_refused() -> None:
    data = _issued(Contents(tastes=Tastes((("genre:drama", 0.5),)))).encoded()
    for place in range(len(data)):
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << (place % 8)
        with pytest.raises(PassportError):
            _opened(read_passport(bytes(spoilt)))


def test_cut_short_or_too_long_is_refused() -> None:
    data = _issued().encoded()
    for length in range(len(data)):
        with pytest.raises(PassportError):
            read_passport(data[:length])
    for longer in (data + b"\0", data + bytes(8192)):
        with pytest.raises(PassportError):
            read_passport(longer)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    for data in (noise, b"CFPASS\x01" + noise, b"-----BEGIN CROSSFED PASSPORT-----" + noise):
        with pytest.raises(PassportError):
            read_passport(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise_under_a_good_signature_is_refused(body: bytes) -> None:
    with pytest.raises(PassportError):
        _opened(_sealed_raw(body))


def test_another_version_is_named() -> None:
    data = bytearray(_issued().encoded())
    data[6] = 2
    with pytest.raises(PassportError, match="has version 2, and this platform reads version 1"):
        read_passport(bytes(data))


def test_foreign_signer_is_refused() -> None:
    with pytest.raises(PassportError, match="not signed by the pinned key of 'cinema'"):
        _opened(_issued(identity=_STRANGER))
    with pytest.raises(PassportError, match="'cinema', whose key is not pinned"):
        _opened(_issued(), issuer_key=None)


def test_signed_anew_by_another_it_cannot_be_opened() -> None:
    passport = _issued()
    head = replace(passport.head, issuer="club", issuer_key=_STRANGER.public)
    signed = envelope._LABEL + envelope._signed(head, passport.box)
    stolen = replace(passport, head=head, signature=_STRANGER.sign(signed))
    with pytest.raises(PassportError, match="cannot be opened"):
        _opened(stolen, issuer_key=_STRANGER.public)


def test_another_platform_refuses() -> None:
    with pytest.raises(PassportError, match="is for 'books', and this platform is 'club'"):
        _opened(_issued(), platform="club")
    with pytest.raises(PassportError, match="sealed to a key"):
        _opened(_issued(), sealing_key=_OTHER_SEALING)


def test_own_platform_is_refused_at_both_ends() -> None:
    with pytest.raises(PassportError, match="knows its own user"):
        _issued(receiver="cinema")
    with pytest.raises(PassportError, match="issued by this platform itself"):
        _opened(_issued(), platform="cinema")


def test_times_are_kept_with_five_minutes_of_clock() -> None:
    passport = _issued()
    assert _opened(passport, now=_NOW - 299)
    assert _opened(passport, now=_NOW + 30 * _DAY - 1)
    with pytest.raises(PassportError, match="one of the two clocks is wrong"):
        _opened(passport, now=_NOW - _DAY)
    for late in (30 * _DAY, 31 * _DAY):
        with pytest.raises(PassportError, match="has expired"):
            _opened(passport, now=_NOW + late)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("kind", ["factor", "tastes", "profile", "texts"])
def test_nan_and_huge_numbers_are_refused(kind: str, value: float) -> None:
    contents = {
        "factor": Contents(factor=Factor(_BASIS, np.array([0, value], np.float32))),
        "tastes": Contents(tastes=Tastes((("genre:drama", value),))),
        "profile": Contents(profile=Profile(_BASIS, np.array([0, value], np.float32))),
        "texts": Contents(texts=Texts(_BASIS, np.array([0, value], np.float32))),
    }[kind]
    with pytest.raises(PassportError, match="not a number within"):
        _opened(_issued(contents))


def test_text_may_be_wrapped_anew() -> None:
    text = armoured(_issued())
    begin, *lines, end = text.strip().split("\n")
    wrapped = "\r\n".join(["", begin, "  ".join(lines), end, "", ""])
    assert read_passport(wrapped.encode()).encoded() == read_passport(text.encode()).encoded()


def test_one_content_has_one_encoding() -> None:
    tastes = Contents(tastes=Tastes((("genre:drama", 0.5),))).encoded()
    profile = Contents(profile=_CONTENTS.profile).encoded()
    for body in (tastes + tastes, profile + tastes, b"", b"\x09\x00\x00"):
        with pytest.raises(PassportError):
            Contents.decoded(body)
    with pytest.raises(PassportError, match="in order of name"):
        Contents.decoded(Contents(tastes=Tastes((("b", 0.1), ("a", 0.1)))).encoded())


def test_empty_passport_is_not_issued() -> None:
    with pytest.raises(PassportError, match="nothing to put into"):
        _issued(Contents())
