"""A platform's identity: an Ed25519 key that it makes itself and whose fingerprint others compare out of band."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import SecureSumError


@dataclass(frozen=True)
class PlatformIdentity:
    """An Ed25519 private key. ``public`` (32 bytes) is what the roster holds."""

    private: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.public)

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)

    @classmethod
    def generate(cls) -> PlatformIdentity:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def create(cls, path: Path) -> PlatformIdentity:
        """Make a new identity and write it to ``path`` (PEM, mode 0600, never over an existing file).

        Raises:
            SecureSumError: ``path`` exists.
        """
        identity = cls.generate()
        pem = identity.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise SecureSumError(
                f"{path}: an identity key exists already; other platforms have pinned it: load it, or remove it by hand"
            ) from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        return identity

    @classmethod
    def load(cls, path: Path) -> PlatformIdentity:
        """Read the identity at ``path``.

        Raises:
            SecureSumError: missing, readable by others, or not an unencrypted Ed25519 key.
        """
        try:
            mode, pem = path.stat().st_mode, path.read_bytes()
        except OSError as error:
            raise SecureSumError(
                f"{path}: the identity key cannot be read ({error.strerror}); create one first"
            ) from None
        if mode & 0o077:
            raise SecureSumError(
                f"{path}: the identity key is open to other users of this machine; run chmod 600 on it"
            )
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError):
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise SecureSumError(f"{path}: not an Ed25519 private key in unencrypted PEM")
        return cls(private)


def fingerprint(public: bytes) -> str:
    """The first 160 bits of SHA-256 of a public key as ten groups of four hex digits, to be read aloud and compared."""
    digits = hashlib.sha256(public).hexdigest()[:40]
    return " ".join(digits[start : start + 4] for start in range(0, 40, 4))


def signed_by(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` over ``message`` was made with the identity key ``public``."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
