"""The messages of the secure sum, as bytes: four bytes of header length, a JSON header, and for a masked vector its
packed words. Nothing is unpickled, sizes are checked, and a malformed message is refused whole.
"""

from __future__ import annotations

import struct
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from common.config.base import FrozenModel
from common.errors import SecureSumError
from common.privacy.secure_sum.shamir import SHARE_BYTES

Key = Annotated[bytes, Field(min_length=32, max_length=32)]
Signature = Annotated[bytes, Field(min_length=64, max_length=64)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
Share = Annotated[bytes, Field(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]
Round = Annotated[int, Field(ge=0, lt=1 << 32)]
_LENGTH = struct.Struct(">I")


class WireModel(FrozenModel):
    """A frozen model whose JSON holds bytes in base64."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Message(WireModel):
    """Base of everything that is sent. ``kind`` names the class on the wire."""

    def to_bytes(self) -> bytes:
        return frame(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse ``data``.

        Raises:
            SecureSumError: it is not a well-formed message of this kind; the message quotes none of its content.
        """
        header, payload = split_frame(data)
        if payload:
            raise SecureSumError(f"{cls.__name__}: {len(payload)} bytes after its end")
        return cls.from_header(header)

    @classmethod
    def from_header(cls, header: bytes) -> Self:
        try:
            return cls.model_validate_json(header)
        except ValidationError as error:
            raise malformed(cls.__name__, error) from None


class Advert(Message):
    """Platform → all, once a run: its public keys, signed by its identity. The signature also accepts the roster."""

    kind: Literal["advert"] = "advert"
    platform: Name
    encryption_key: Key
    """X25519: Shamir shares for this platform are encrypted to it."""
    mask_keys: tuple[Key, ...]
    """X25519, one a round."""
    commitments: tuple[Key, ...]
    """Digest of each round's self-mask secret; lets the aggregator notice an altered share."""
    signature: Signature


class Enrolment(Message):
    """Aggregator → platform: the adverts of all that enrolled, in roster order."""

    kind: Literal["enrolment"] = "enrolment"
    adverts: tuple[Advert, ...]


class ShareBundle(Message):
    """Platform → aggregator: one sealed envelope of Shamir shares for each other platform."""

    kind: Literal["shares"] = "shares"
    platform: Name
    envelopes: dict[Name, bytes]
    """By receiver."""


class Mailbag(Message):
    """Aggregator → platform: the envelopes addressed to it."""

    kind: Literal["mailbag"] = "mailbag"
    envelopes: dict[Name, bytes]
    """By sender."""


class MaskedVectorHeader(Message):
    """Holds what precedes the packed words of a masked vector."""

    kind: Literal["masked"] = "masked"
    platform: Name
    round_index: Round
    context: Key
    """SHA-256 of what the platform was told; an honest aggregator sees by it whose masks will not cancel."""
    length: Annotated[int, Field(ge=1)]
    """Number of values."""


class SurvivorList(Message):
    """Aggregator → platform: whose masked vectors arrived, in roster order."""

    kind: Literal["survivors"] = "survivors"
    round_index: Round
    survivors: tuple[Name, ...]


class SurvivorSignature(Message):
    """Platform → all: it has accepted this list, and will accept no other in this round."""

    kind: Literal["survivor-signature"] = "survivor-signature"
    platform: Name
    round_index: Round
    signature: Signature


class Certificate(Message):
    """Aggregator → platform: the survivor list and the signatures of those who accepted it."""

    kind: Literal["certificate"] = "certificate"
    round_index: Round
    survivors: tuple[Name, ...]
    signatures: dict[Name, Signature]


class UnmaskShares(Message):
    """Platform → aggregator: for each enrolled platform its share of one secret, never of both."""

    kind: Literal["unmask"] = "unmask"
    platform: Name
    round_index: Round
    self_mask_shares: dict[Name, Share]
    """Of the survivors."""
    mask_key_shares: dict[Name, Share]
    """Of the enrolled that are missing."""


SurvivorReply = SurvivorSignature | UnmaskShares
_reply: TypeAdapter[SurvivorReply] = TypeAdapter(Annotated[SurvivorReply, Field(discriminator="kind")])


def parse_survivor_reply(data: bytes) -> SurvivorReply:
    """A platform's answer to a survivor list or a certificate.

    Raises:
        SecureSumError: it is neither.
    """
    header, _ = split_frame(data)
    try:
        return _reply.validate_json(header)
    except ValidationError as error:
        raise malformed("answer to a survivor list", error) from None


def frame(header: Message, payload: bytes = b"") -> bytes:
    text = header.model_dump_json().encode()
    return b"".join((_LENGTH.pack(len(text)), text, payload))


def split_frame(data: bytes) -> tuple[bytes, memoryview]:
    """Header and payload; the payload is a view of ``data``.

    Raises:
        SecureSumError: ``data`` is cut short.
    """
    if len(data) < _LENGTH.size or len(data) < (end := _LENGTH.size + _LENGTH.unpack_from(data)[0]):
        raise SecureSumError("a message of the secure sum is cut short")
    return data[_LENGTH.size : end], memoryview(data)[end:]


def malformed(what: str, error: ValidationError) -> SecureSumError:
    """Name the field at fault, not its content: it may hold a share."""
    where = ".".join(str(part) for part in error.errors(include_input=False, include_url=False)[0]["loc"])
    return SecureSumError(
        f"{what}: malformed at {where or 'its start'}; the sender runs another version or was tampered with"
    )
