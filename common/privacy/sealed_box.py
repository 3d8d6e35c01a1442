"""Seals bytes to the holder of an X25519 key: an ephemeral key, HKDF-SHA256 and AES-256-GCM, as in ECIES (SEC 1, 5.1).

A box says nothing of its sender: who needs that signs it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

# A key is used for one box, so the nonce may be constant.
_NONCE = bytes(12)


@dataclass(frozen=True)
class SealedBox:
    """Holds a box on its way to its receiver.

    Attributes:
        ephemeral: X25519 public key made for this box alone, 32 bytes.
        content: ciphertext and tag, 16 bytes longer than what was sealed.
    """

    ephemeral: bytes
    content: bytes

    @classmethod
    def seal(cls, plain: bytes, receiver: bytes, *, label: bytes, context: bytes = b"", associated: bytes) -> SealedBox:
        """Seal ``plain``.

        Args:
            plain: what only the receiver may read.
            receiver: X25519 public key, 32 bytes.
            label: of the format; keys of two formats differ.
            context: what else the key is bound to.
            associated: what the box is bound to and travels outside of it.

        Raises:
            ValueError: ``receiver`` is no key.
        """
        key = X25519PrivateKey.generate()
        ephemeral = key.public_key().public_bytes_raw()
        shared = key.exchange(X25519PublicKey.from_public_bytes(receiver))
        cipher = _cipher(shared, label + ephemeral + receiver + context)
        return cls(ephemeral, cipher.encrypt(_NONCE, plain, associated))

    def open(self, own: X25519PrivateKey, *, label: bytes, context: bytes = b"", associated: bytes) -> bytes | None:
        """Return what was sealed; None where the box is for another key, of another context, or altered."""
        receiver = own.public_key().public_bytes_raw()
        try:
            shared = own.exchange(X25519PublicKey.from_public_bytes(self.ephemeral))
            cipher = _cipher(shared, label + self.ephemeral + receiver + context)
            return cipher.decrypt(_NONCE, self.content, associated)
        except (InvalidTag, ValueError):
            return None


def _cipher(shared: bytes, info: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(shared))
