"""The federation's contract: which arrays each request and each answer may hold, for the mode of privacy that is agreed.

Named sizes: ``vocabulary`` m, ``catalogue`` m_p (the items that a platform shares), ``row`` (d, or d + 1 with a bias),
``packed`` row(row + 1)/2, ``counts`` m_p + 1, ``platforms`` P; and those of the kinds of contributions, which they declare.
"""

from __future__ import annotations

from collections.abc import Mapping

from common.catalogue import DIGEST_BYTES
from common.config.federation import FederationPlan
from common.contributions.kind import MASKED
from common.contributions.registry import all_kinds, kinds_by_wire_name, kinds_of
from common.errors import ContractError
from common.linalg import packed_size
from common.wire.contract import ArraySpec, MessageSpec
from common.wire.exchange import Arrays

IDENTITY_BYTES = 32

_MESSAGE = (ArraySpec("message", "uint8", ("message_bytes",)),)
"""One step of the secure sum, as its library makes it."""

_REQUESTS_WITHOUT_DATA = (
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
    MessageSpec("secure_sum", _MESSAGE),
)

_REPLIES_WITHOUT_DATA = (
    MessageSpec(
        "join",
        (
            ArraySpec("digests", "uint8", ("catalogue", DIGEST_BYTES)),
            ArraySpec("cards", "uint8", ("card_bytes",)),
            ArraySpec("card_offsets", "int64", ("card_offsets",)),
            # Keyed digests of public attributes (genres, years), item by item: which items have one in common, not which.
            ArraySpec("feature_tokens", "uint64", ("feature_tokens",)),
            ArraySpec("feature_offsets", "int64", ("card_offsets",)),
            ArraySpec("identity", "uint8", (IDENTITY_BYTES,)),  # Ed25519 public key; zeros where there is no secure sum
        ),
    ),
    MessageSpec("vocabulary", ()),
    MessageSpec("secure_sum", _MESSAGE),
    MessageSpec("finish", ()),
)


def contribution_specs(plan: FederationPlan) -> tuple[MessageSpec, ...]:
    """Return what is derived from interactions: made by a mechanism, charged, journaled."""
    return tuple(MessageSpec(name, kind.reply(plan)) for name, kind in kinds_by_wire_name(plan).items())


def reply_specs() -> tuple[MessageSpec, ...]:
    """Return what leaves a platform besides: nothing that is derived from interactions."""
    return _REPLIES_WITHOUT_DATA


def request_contract(plan: FederationPlan) -> Mapping[str, MessageSpec]:
    """Return what an agent accepts under ``plan``, by kind."""
    asked = [MessageSpec(name, kind.request(plan)) for name, kind in kinds_by_wire_name(plan).items()]
    final = MessageSpec("finish", tuple(array for kind in kinds_of(plan) for array in kind.final(plan)))
    return {spec.kind: spec for spec in (*_REQUESTS_WITHOUT_DATA, *asked, final)}


def reply_contract(plan: FederationPlan) -> Mapping[str, MessageSpec]:
    """All that may leave a platform under ``plan``, by kind."""
    return {spec.kind: spec for spec in (*contribution_specs(plan), *_REPLIES_WITHOUT_DATA)}


def spec_of(contract: Mapping[str, MessageSpec], kind: str) -> MessageSpec:
    """Raises: ContractError when the contract has no such kind."""
    try:
        return contract[kind]
    except KeyError:
        raise ContractError(f"{kind!r} is not a request of this federation; known are {', '.join(contract)}") from None


_OPEN_SIZES = {
    "digests": "vocabulary",
    "cards": "card_bytes",
    "card_offsets": "card_offsets",
    "feature_tokens": "feature_tokens",
    "message": "message_bytes",
    MASKED: "masked_bytes",
}


def open_sizes(arrays: Arrays) -> dict[str, int]:
    """Sizes that a message fixes by itself: both sides learn them from it, within the bound on its bytes."""
    named = [_OPEN_SIZES, *(kind.own_sizes for kind in all_kinds())]
    sizes = {
        size: len(arrays[name]) for own in named for name, size in own.items() if name in arrays and arrays[name].ndim
    }
    owners = arrays.get("owners")
    if owners is not None and owners.ndim == 2:
        sizes["platforms"] = owners.shape[1]
    return sizes


def plan_sizes(plan: FederationPlan, *, catalogue: int, vocabulary: int | None = None) -> dict[str, int]:
    """The contract's named sizes, as both sides know them from the plan."""
    row = plan.row
    sizes = {"catalogue": catalogue, "counts": catalogue + 1, "row": row, "packed": packed_size(row)}
    return sizes if vocabulary is None else sizes | {"vocabulary": vocabulary}
