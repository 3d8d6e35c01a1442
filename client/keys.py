"""The keys that a platform makes for itself when it joins: identity, sealing key, node key; and the federation secret.

None of them is ever seen by the aggregator. The federation secret passes from one platform to another sealed to the
receiver's key and signed by the sender, whose fingerprints both sides have compared; the file may travel by any way, the
aggregator's included.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import Field

from common.catalogue import FederationSecret
from common.config.base import FrozenModel
from common.config.loader import load_yaml_model
from common.deploy.provisioning import Registration
from common.errors import ConfigError
from common.files import make_folder, write_atomically
from common.privacy.sealed_box import SealedBox
from common.privacy.secure_sum import PlatformIdentity
from common.privacy.secure_sum.identity import signed_by

SECRET_BYTES = 32
"""Of the federation secret."""

_LABEL = b"crossfed sealed secret v1"


@dataclass(frozen=True)
class KeyFolder:
    """Where a platform's private keys are."""

    folder: Path

    @property
    def identity_path(self) -> Path:
        return self.folder / "identity.pem"

    @property
    def sealing_path(self) -> Path:
        return self.folder / "sealing.pem"

    @property
    def secret_path(self) -> Path:
        return self.folder / "federation.secret"

    def identity(self) -> PlatformIdentity:
        """Raises: SecureSumError when there is none or others may read it."""
        return PlatformIdentity.load(self.identity_path)

    def secret(self) -> FederationSecret:
        """Raises: ConfigError when this platform has none yet."""
        return FederationSecret(self._secret_bytes())

    def new_secret(self) -> FederationSecret:
        """Make the federation's secret: on one platform, once.

        Raises:
            ConfigError: there is one already.
        """
        return self._store_secret(FederationSecret.generate())

    def seal_secret(self, own: Registration, receiver: Registration) -> bytes:
        """The federation secret in a file that only ``receiver`` can open.

        Raises:
            ConfigError: this platform has no secret.
        """
        receiver_key = bytes.fromhex(receiver.sealing_key)
        box = SealedBox.seal(self._secret_bytes(), receiver_key, label=_LABEL, associated=_LABEL)
        signature = self.identity().sign(_signed(own.name, receiver.name, box))
        return SealedSecret(
            sender=own.name,
            receiver=receiver.name,
            ephemeral=box.ephemeral.hex(),
            box=box.content.hex(),
            signature=signature.hex(),
        ).model_dump_json(indent=1).encode()  # fmt: skip

    def open_secret(self, path: Path, own: Registration, pinned: dict[str, Registration]) -> FederationSecret:
        """Take the federation secret over from a pinned platform.

        Raises:
            ConfigError: not meant for this platform, not from a pinned one, or altered; or there is a secret already.
        """
        return self.open_sealed(load_yaml_model(path, SealedSecret), str(path), own, pinned)

    def open_sealed(
        self, sealed: SealedSecret, path: str, own: Registration, pinned: Mapping[str, Registration]
    ) -> FederationSecret:
        """As :meth:`open_secret`, of what was read from ``path``."""
        if sealed.receiver != own.name:
            raise ConfigError(f"{path}: is for {sealed.receiver!r}, and this platform is {own.name!r}")
        sender = pinned.get(sealed.sender)
        if sender is None:
            raise ConfigError(
                f"{path}: comes from {sealed.sender!r}, whose key is not pinned; run crossfed-client pin first"
            )
        box = SealedBox(bytes.fromhex(sealed.ephemeral), bytes.fromhex(sealed.box))
        signed = _signed(sealed.sender, sealed.receiver, box)
        if not signed_by(bytes.fromhex(sender.identity), bytes.fromhex(sealed.signature), signed):
            raise ConfigError(f"{path}: not signed by the pinned key of {sealed.sender!r}; ask for it again")
        secret = box.open(self.sealing_key(), label=_LABEL, associated=_LABEL)
        if secret is None:
            raise ConfigError(f"{path}: cannot be opened with this platform's sealing key; ask for it again")
        return self._store_secret(secret)

    def sealing_public(self) -> bytes:
        """32 bytes, X25519."""
        return self.sealing_key().public_key().public_bytes_raw()

    def sealing_key(self) -> X25519PrivateKey:
        """Raises: ConfigError when it is missing or damaged."""
        try:
            key: object = serialization.load_pem_private_key(_private_bytes(self.sealing_path), password=None)
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, X25519PrivateKey):
            raise ConfigError(f"{self.sealing_path}: not an X25519 key, or damaged; restore it from your backup")
        return key

    def _secret_bytes(self) -> bytes:
        if not self.secret_path.exists():
            raise ConfigError(
                f"{self.secret_path}: this platform has no federation secret yet; crossfed-client sign ROSTER brings it (or "
                "one by one: a platform makes it, secret new, and the others take it over, secret seal there and import here)"
            )
        secret = _private_bytes(self.secret_path)
        if len(secret) != SECRET_BYTES or not any(secret):
            raise ConfigError(
                f"{self.secret_path}: is damaged: not the {SECRET_BYTES} random bytes that were written, so that items would "
                "be digested otherwise than on the other platforms. Restore it from your backup; or move it away and take it "
                "over again (secret seal on another platform, secret import here)"
            )
        return secret

    def _store_secret(self, secret: bytes) -> FederationSecret:
        checked = FederationSecret(secret)
        if self.secret_path.exists():
            if _private_bytes(self.secret_path) == secret:
                return checked
            raise ConfigError(
                f"{self.secret_path}: this platform has another federation secret already; items and cards of runs so far "
                "were made with it. To change to the new one, move the file away first"
            )
        write_atomically(self.secret_path, secret)
        return checked


class SealedSecret(FrozenModel):
    """The federation secret on its way between two platforms."""

    sender: str
    receiver: str
    ephemeral: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    box: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){33,1024}$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


def make_keys(keys: KeyFolder, node_key: Path) -> str:
    """Make what is missing of a platform's keys; returns the node's public key in OpenSSH form.

    Raises:
        StoreError: a folder is not writable.
        SecureSumError: an identity is there that cannot be used.
    """
    make_folder(keys.folder, mode=0o700)
    make_folder(node_key.parent, mode=0o750)
    if not keys.identity_path.exists():
        PlatformIdentity.create(keys.identity_path)
    if not keys.sealing_path.exists():
        pem = X25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomically(keys.sealing_path, pem)
    if not node_key.exists():
        private = ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        write_atomically(node_key, private)
    return node_public_key(node_key)


def node_public_key(node_key: Path) -> str:
    """The node's public key in OpenSSH form.

    Raises:
        ConfigError: the file cannot be read, or is no private key.
    """
    try:
        node = serialization.load_ssh_private_key(node_key.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"{node_key}: cannot be read ({error.strerror}); run crossfed-client join first") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{node_key}: not a private key in OpenSSH form, or damaged; restore it from your backup, or delete it, join "
            "again with the old invitation, and have the new registration admitted"
        ) from None
    return node.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def registration_of(name: str, federation: str, keys: KeyFolder, node_key: Path) -> Registration:
    """The platform's public keys, signed with its identity; the same bytes whenever it is made.

    Raises:
        ConfigError: a key is missing or damaged.
        SecureSumError: the identity is.
    """
    return Registration.make(
        name, federation, keys.identity(), sealing_key=keys.sealing_public(), node_key=node_public_key(node_key)
    )


def new_token() -> bytes:
    """A random token for the platform's own applications."""
    return os.urandom(32).hex().encode()


def _private_bytes(path: Path) -> bytes:
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); run crossfed-client join first") from None
    if mode & 0o077:
        raise ConfigError(f"{path}: is open to other users of this machine; run chmod 600 on it")
    return content


def _signed(sender: str, receiver: str, box: SealedBox) -> bytes:
    return _LABEL + b"\0" + json.dumps([sender, receiver]).encode() + b"\0" + box.ephemeral + box.content
