"""The receipt of an erasure or an objection: what was done and what could not be, signed by the platform's identity.

It names nobody: the person is the HMAC of the exclusion list, which the platform can compute again from the id.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from common.config.base import FrozenModel
from common.config.loader import load_yaml_model
from common.errors import ConfigError
from common.files import write_atomically
from common.privacy.secure_sum import PlatformIdentity
from common.privacy.secure_sum.identity import fingerprint, signed_by

_LABEL = b"crossfed person receipt v1\0"


class PersonReceipt(FrozenModel):
    """One act for one person."""

    receipt: str
    """Random, hex."""
    platform: str
    """The platform's name."""
    federation: str
    """Its federation."""
    act: Literal["erased", "objected"]
    """What was asked for."""
    person: str
    """HMAC of the id under the platform's exclusion list, hex."""
    asked: str
    """When, ISO 8601 in UTC."""
    completed: str
    """When the last step was done."""
    done: tuple[str, ...]
    """The steps, in words, in order."""
    own_files: tuple[str, ...]
    """The platform's own files in which the person stood at that time: they are left out when read, and are to be mended."""
    not_undone: tuple[str, ...]
    """What no erasure here can undo."""
    identity: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Ed25519 public key of the platform."""
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")] = "0" * 128
    """Of all fields above."""

    def signed(self, identity: PlatformIdentity) -> Self:
        """With the signature."""
        return self.model_copy(update={"signature": identity.sign(self._signed_bytes()).hex()})

    @property
    def fingerprint(self) -> str:
        """Of the identity that signed it."""
        return fingerprint(bytes.fromhex(self.identity))

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_atomically(path, self.model_dump_json(indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check.

        Raises:
            ConfigError: it is none, or was altered.
        """
        receipt = load_yaml_model(path, cls)
        if not signed_by(bytes.fromhex(receipt.identity), bytes.fromhex(receipt.signature), receipt._signed_bytes()):
            raise ConfigError(f"{path}: its signature does not fit: it was altered, or cut short")
        return receipt

    def _signed_bytes(self) -> bytes:
        return _LABEL + json.dumps(self.model_dump(mode="json", exclude={"signature"}), sort_keys=True).encode()
