"""Sealed envelopes: one platform's Shamir shares for another, for all rounds of the run, opaque to the aggregator."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.errors import SecureSumError
from common.privacy.secure_sum.masks import agree, bind
from common.privacy.secure_sum.shamir import SHARE_BYTES

if TYPE_CHECKING:
    from common.privacy.secure_sum.transcript import Transcript

Shares = tuple[tuple[bytes, bytes], ...]
"""Per round the shares of its mask key and of its self-mask secret, 33 bytes each."""
_NONCE_BYTES = 12


def seal(secret: bytes, transcript: Transcript, sender: str, receiver: str, shares: Shares) -> bytes:
    """AES-256-GCM under a key of this direction and transcript; rounds follow one another in roster order.

    ``secret`` is the sender's encryption secret.
    """
    key, context = _key_and_context(secret, receiver, transcript, sender, receiver)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, b"".join(part for pair in shares for part in pair), context)


def open_sealed(secret: bytes, transcript: Transcript, sender: str, receiver: str, envelope: bytes) -> Shares:
    """The shares in an envelope; ``secret`` is the receiver's encryption secret.

    Raises:
        SecureSumError: altered, or sealed for another run, roster, set of keys, sender or receiver.
    """
    key, context = _key_and_context(secret, sender, transcript, sender, receiver)
    try:
        opened = AESGCM(key).decrypt(envelope[:_NONCE_BYTES], envelope[_NONCE_BYTES:], context)
    except (InvalidTag, ValueError):
        raise SecureSumError(
            f"shares from {sender!r}: the envelope was altered, or that platform accepted other adverts; enrol again"
        ) from None
    rounds = len(transcript.roster.rounds)
    if len(opened) != rounds * 2 * SHARE_BYTES:
        raise SecureSumError(f"shares from {sender!r}: not two a round for {rounds} rounds; it runs another version")
    parts = [opened[start : start + SHARE_BYTES] for start in range(0, len(opened), SHARE_BYTES)]
    return tuple(zip(parts[::2], parts[1::2], strict=True))


def _key_and_context(
    secret: bytes, peer: str, transcript: Transcript, sender: str, receiver: str
) -> tuple[bytes, bytes]:
    """The transcript stands for run, roster, rounds and keys; sender and receiver give the direction."""
    context = bind("share envelope", transcript.digest, sender.encode(), receiver.encode())
    return agree(secret, transcript.advert_of(peer).encryption_key, context), context
