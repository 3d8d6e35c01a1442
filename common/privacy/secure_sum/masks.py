"""Keys and keystreams of the secure sum: X25519, HKDF-SHA256, AES-256 in counter mode.

Every derived key is bound to the enrolment's transcript (roster, run, everyone's keys), to its purpose and to the round
and platforms it serves, so that a key serves one purpose once.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Literal

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.errors import SecureSumError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.privacy.secure_sum.ring import Words

Sign = Literal[1, -1]
_CHUNK_BYTES = 1 << 18  # a slice of the vector and the keystream stay together in the second-level cache


def bind(purpose: str, *parts: bytes) -> bytes:
    """SHA-256 of the parts, each preceded by its length, under ``purpose``: two different lists never collide."""
    digest = hashlib.sha256(b"crossfed secure sum v1")
    for part in (purpose.encode(), *parts):
        digest.update(struct.pack(">Q", len(part)))
        digest.update(part)
    return digest.digest()


def public_key(secret: bytes) -> bytes:
    """The X25519 public key (32 bytes) of a 32-byte secret."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, peer: bytes, context: bytes) -> bytes:
    """HKDF-SHA256 of the X25519 agreement of ``secret`` with public key ``peer``: 32 bytes bound to ``context``.

    Raises:
        SecureSumError: ``peer`` is of low order, which no honest key is.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError:
        raise SecureSumError(
            "a platform's public key is not a usable X25519 key; the run cannot go on with it"
        ) from None
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=context).derive(shared)


def pair_key(
    secret: bytes, peer: bytes, *, transcript: bytes, round_index: int, context: bytes, pair: tuple[str, str]
) -> bytes:
    """Key of the mask that two platforms share in one round; ``pair`` holds their names in roster order.

    It is the same on both sides only if both answer the same broadcast: ``context`` is its digest.
    """
    names = (pair[0].encode(), pair[1].encode())
    return agree(secret, peer, bind("pairwise mask", transcript, round_index.to_bytes(4, "big"), context, *names))


def self_key(secret: bytes, *, transcript: bytes, round_index: int, platform: str) -> bytes:
    """Key of a platform's own mask in one round."""
    context = bind("self mask", transcript, round_index.to_bytes(4, "big"), platform.encode())
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=context).derive(secret)


def add_streams(words: Words, keys: Iterable[tuple[bytes, Sign]]) -> None:
    """Add (sign 1) or subtract (−1) each key's keystream, in place, modulo the size of the word.

    The counter starts at zero: a key is derived for one vector and is never used for a second.
    """
    streams = [(Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor(), sign) for key, sign in keys]
    step = _CHUNK_BYTES // words.itemsize
    zeros, stream = bytes(_CHUNK_BYTES), np.empty(step, dtype=words.dtype)
    octets = stream.view(np.uint8).data
    for start in range(0, len(words), step):
        part = words[start : start + step]
        size = len(part) * words.itemsize
        for encryptor, sign in streams:
            encryptor.update_into(memoryview(zeros)[:size], octets[:size])
            (np.add if sign == 1 else np.subtract)(part, stream[: len(part)], out=part)
