"""Cards of platforms that ask to take part."""

from __future__ import annotations

from common.deploy.provisioning import Registration
from common.privacy.secure_sum import PlatformIdentity


def node_key() -> str:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def registration(name: str = "cinema", federation: str = "films") -> Registration:
    return Registration.make(name, federation, PlatformIdentity.generate(), sealing_key=bytes(32), node_key=node_key())
