"""A sealed box opens for its receiver alone, in its context, unaltered; boxes of earlier versions still open."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.privacy.sealed_box import SealedBox

RECEIVER = X25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = RECEIVER.public_key().public_bytes_raw()
BOUND = {"label": b"label", "context": b"context", "associated": b"outside"}
EPHEMERAL = bytes.fromhex("7d9c24316539825c1896e57f28197746793ce60cbee3ad47da9d07b85fa55e2a")


def test_a_box_opens_for_its_receiver() -> None:
    box = SealedBox.seal(b"tastes", PUBLIC, **BOUND)
    assert box.open(RECEIVER, **BOUND) == b"tastes"
    assert b"tastes" not in box.content
    assert SealedBox.seal(b"tastes", PUBLIC, **BOUND) != box


@pytest.mark.parametrize("part", BOUND)
def test_a_box_opens_in_its_own_context_alone(part: str) -> None:
    assert SealedBox.seal(b"tastes", PUBLIC, **BOUND).open(RECEIVER, **BOUND | {part: b"another"}) is None


def test_a_box_of_another_or_altered_stays_shut() -> None:
    box = SealedBox.seal(b"tastes", PUBLIC, **BOUND)
    assert box.open(X25519PrivateKey.generate(), **BOUND) is None
    for altered in (bytes(32), b"short", EPHEMERAL):
        assert replace(box, ephemeral=altered).open(RECEIVER, **BOUND) is None
    assert replace(box, content=box.content[:-1]).open(RECEIVER, **BOUND) is None
    assert replace(box, content=bytes([box.content[0] ^ 1]) + box.content[1:]).open(RECEIVER, **BOUND) is None


def test_a_federation_secret_of_an_earlier_version_opens() -> None:
    """Sealed by the code that the helper replaced, with keys of fixed bytes."""
    content = bytes.fromhex(
        "a43d2dbc0b74a3e82cb99e98cacade89e7fb09961a886a22619e937ddc2b42f13de49e88495487d1eb271ab95316498d"
    )
    label = b"crossfed sealed secret v1"
    opened = SealedBox(EPHEMERAL, content).open(RECEIVER, label=label, associated=label)
    assert opened == bytes(range(200, 232))


def test_a_passport_of_an_earlier_version_opens() -> None:
    issuer = bytes([7] * 32)
    times = (1_700_000_000).to_bytes(8, "big") + (1_800_000_000).to_bytes(8, "big")
    head = b"CFPASS\x01" + bytes(16) + times + b"\x05forum" + issuer + b"\x04club" + PUBLIC
    box = SealedBox(EPHEMERAL, bytes.fromhex("f72e83262ee8db2c150162137f68f91aeef6670f5da8"))
    assert box.open(RECEIVER, label=b"crossfed passport v1\0", context=issuer, associated=head) == b"tastes"
