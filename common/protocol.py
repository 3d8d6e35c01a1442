"""The federation's contract: which arrays each request and each answer may hold, for the mode of privacy that is agreed.

Named sizes: ``vocabulary`` m, ``catalogue`` m_p (the items that a platform shares), ``row`` (d, or d + 1 with a bias),
``packed`` row(row + 1)/2, ``platforms`` P.
"""

from __future__ import annotations

from collections.abc import Mapping

from common.catalogue import DIGEST_BYTES
from common.contract import ArraySpec, MessageSpec
from common.errors import ContractError
from common.exchange import Arrays

_SHARED_PARAMETERS = (
    ArraySpec("item_parameters", "float32", ("vocabulary", "row")),
    ArraySpec("item_counts", "float64", ("vocabulary",)),
)

_REQUESTS = (
    MessageSpec("join", ()),
    MessageSpec(
        "vocabulary",
        (
            ArraySpec("digests", "uint8", ("vocabulary", DIGEST_BYTES)),
            ArraySpec("owners", "uint8", ("vocabulary", "platforms")),
            ArraySpec("cards", "uint8", ("card_bytes",)),
            ArraySpec("card_offsets", "int64", ("card_offsets",)),
        ),
    ),
    MessageSpec("counts", ()),
    MessageSpec("statistics", _SHARED_PARAMETERS),
    MessageSpec("finish", _SHARED_PARAMETERS),
)

_JOIN_REPLY = MessageSpec(
    "join",
    (
        ArraySpec("digests", "uint8", ("catalogue", DIGEST_BYTES)),
        ArraySpec("cards", "uint8", ("card_bytes",)),
        ArraySpec("card_offsets", "int64", ("card_offsets",)),
    ),
)

_PLAIN_REPLIES = (
    _JOIN_REPLY,
    MessageSpec("vocabulary", ()),
    MessageSpec(
        "counts",
        (
            ArraySpec("item_counts", "float64", ("catalogue",)),
            ArraySpec("totals", "float64", (3,)),  # users, interactions, sum of the values
        ),
    ),
    MessageSpec(
        "statistics",
        (
            ArraySpec("gram", "float32", ("catalogue", "packed")),
            ArraySpec("rhs", "float32", ("catalogue", "row")),
            ArraySpec("user_gram", "float64", ("row", "row")),
            ArraySpec("objective", "float64", (1,)),
            ArraySpec("evaluation", "float64", (2,)),  # sum of validation Recall@20 over users, and their number
        ),
    ),
    MessageSpec("finish", ()),
)


def request_contract() -> Mapping[str, MessageSpec]:
    """What an agent accepts, by kind."""
    return {spec.kind: spec for spec in _REQUESTS}


def reply_contract() -> Mapping[str, MessageSpec]:
    """What may leave a platform without privacy noise, by kind."""
    return {spec.kind: spec for spec in _PLAIN_REPLIES}


_OPEN_SIZES = {"digests": "vocabulary", "cards": "card_bytes", "card_offsets": "card_offsets"}

CONTRIBUTIONS = ("counts", "statistics")
"""Kinds of answers that are derived from interactions: made by a mechanism, charged, journaled."""


def spec_of(contract: Mapping[str, MessageSpec], kind: str) -> MessageSpec:
    """Raises: ContractError when the contract has no such kind."""
    try:
        return contract[kind]
    except KeyError:
        raise ContractError(f"{kind!r} is not a request of this federation; known are {', '.join(contract)}") from None


def open_sizes(arrays: Arrays) -> dict[str, int]:
    """Sizes that a handshake message fixes by itself, before both sides know them."""
    sizes = {size: len(arrays[name]) for name, size in _OPEN_SIZES.items() if name in arrays}
    owners = arrays.get("owners")
    if owners is not None and owners.ndim == 2:
        sizes["platforms"] = owners.shape[1]
    return sizes
