"""The only way out of a platform to the aggregator: takes what a privacy mechanism made, checks its form, sees it paid for,
writes it down.

The guard looks at form alone (names, dtypes, shapes, finiteness, bytes). It never refuses because a value is large:
that refusal would be a release of its own. It works on one immutable copy taken first, so that what was checked, what
was journaled and what leaves are the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from client.privacy.budget import mu_squared, release_to_json
from client.privacy.journal import Arrays, EgressJournal, pack, unpack
from client.privacy.ledger import BudgetLedger, Receipt
from client.privacy.secure_sum.masking import MaskedContribution
from common.errors import ContractError, CrossfedError, EgressRefusedError
from common.privacy.contribution import PrivatizedContribution
from common.wire.contract import MessageSpec

FieldType = Literal["bool", "int", "float", "text"]
_TYPES: dict[FieldType, type] = {"bool": bool, "int": int, "float": float, "text": str}


@dataclass(frozen=True)
class FieldSpec:
    """One small public value of a reply: its name, its type, and for text its longest length in characters."""

    name: str
    type: FieldType
    max_length: int = 256


@dataclass(frozen=True)
class ReplySpec:
    """A reply that holds nothing derived from interactions: a greeting, digests, keys, an acknowledgement."""

    message: MessageSpec
    fields: tuple[FieldSpec, ...] = ()


@dataclass(frozen=True)
class EgressContract:
    """All that may leave a platform: contributions, which a mechanism made and the ledger charged, and other replies.

    Raises:
        ContractError: a kind is declared twice, above all one kind as both; or an array has a bound of scale.
    """

    contributions: tuple[MessageSpec, ...]
    replies: tuple[ReplySpec, ...]

    def __post_init__(self) -> None:
        kinds = [spec.kind for spec in self.contributions] + [spec.message.kind for spec in self.replies]
        if len(set(kinds)) != len(kinds):
            raise ContractError("the egress contract declares a kind of message twice")
        leaving = [*self.contributions, *(spec.message for spec in self.replies)]
        if any(array.bounded for spec in leaving for array in spec.arrays):
            raise ContractError("the egress contract bounds what leaves: a refusal would release a bit about the data")


class EgressGuard:
    """One platform's guard.

    Guarantees (each with a test of that name in ``test_egress.py``): only what a mechanism made gets out as
    a contribution; nothing leaves without a receipt for exactly its releases; a receipt lets one set of bytes out,
    however often it is shown; what leaves is in the journal first.
    """

    def __init__(self, contract: EgressContract, journal: EgressJournal, ledger: BudgetLedger) -> None:
        self._contributions = {spec.kind: spec for spec in contract.contributions}
        self._replies = {spec.message.kind: spec for spec in contract.replies}
        self._journal = journal
        self._ledger = ledger

    def replay(self, receipt: Receipt) -> Arrays | None:
        """Return what left before under ``receipt``; None if nothing did. Ask before making a contribution for a retry.

        Raises:
            EgressRefusedError: it left, and its bytes are no longer kept.
        """
        self._ledger.confirm(receipt)
        return self._journal.replay(receipt)

    def send(
        self,
        contribution: PrivatizedContribution | MaskedContribution,
        *,
        kind: str,
        sizes: Mapping[str, int],
        receipt: Receipt,
    ) -> Arrays:
        """Let a contribution out: the exact arrays that may leave, journaled and durable.

        Args:
            contribution: of a mechanism; masked first where it carries only a share of the noise.
            kind: what the request asked for and the contract declares; must be the contribution's own.
            sizes: every named size of the contract's shapes.
            receipt: the ledger's, for exactly the contribution's releases.

        Returns:
            Read-only arrays that share no memory with the contribution; those of the first call if the receipt was used
            before.

        Raises:
            EgressRefusedError: the message names what is wrong; nothing left.
            LedgerError: ledger or journal cannot be trusted, or the receipt is not the ledger's; nothing left.
        """
        spec = self._contribution_spec(contribution, kind)
        content, arrays = _snapshot(spec, contribution.arrays, sizes)
        self._check_receipt(contribution, receipt)
        return self._journal.record_contribution(receipt, content, _summary(contribution, arrays, receipt))

    def reply(
        self, kind: str, arrays: Mapping[str, NDArray[Any]], fields: Mapping[str, Any], sizes: Mapping[str, int]
    ) -> tuple[Arrays, dict[str, Any]]:
        """Let a declared reply out that holds nothing derived from data; journaled.

        Raises:
            EgressRefusedError: the kind is not declared as such a reply, or an array or field is not what is declared.
        """
        spec = self._replies.get(kind) if type(kind) is str else None
        if spec is None:
            raise EgressRefusedError(f"{_shown(kind)}: not declared as a reply without data; nothing was sent")
        packed, copied = _snapshot(spec.message, arrays, sizes)
        public = _checked_fields(spec, fields)
        content = packed + json.dumps(public, sort_keys=True).encode()
        self._journal.record_reply({"kind": kind, **_shapes(copied), "fields": sorted(public)}, content)
        return copied, public

    def refusal(self, kind: str, error: CrossfedError) -> str:
        """The code that answers a request that failed; journaled. Nothing else of the error may leave."""
        shown = kind if kind in self._contributions or kind in self._replies else "unknown"
        self._journal.record_reply({"kind": shown, "code": error.code, "arrays": [], "bytes": 0}, error.code.encode())
        return error.code

    def _contribution_spec(self, contribution: object, kind: object) -> MessageSpec:
        if type(contribution) not in (PrivatizedContribution, MaskedContribution):
            raise EgressRefusedError(
                f"{_shown(kind)}: only what a privacy mechanism made may leave, not {type(contribution).__name__}"
            )
        spec = self._contributions.get(kind) if type(kind) is str else None
        if spec is None:
            raise EgressRefusedError(f"{_shown(kind)}: not declared as a contribution; nothing was sent")
        assert isinstance(contribution, PrivatizedContribution | MaskedContribution)
        if not all(hasattr(contribution, name) for name in ("kind", "server_round", "private", "arrays", "releases")):
            raise EgressRefusedError(f"{_shown(kind)}: the contribution was not made by a privacy mechanism")
        if contribution.kind != kind:
            raise EgressRefusedError(f"{_shown(kind)}: the contribution is of another kind, {contribution.kind!r}")
        if isinstance(contribution, PrivatizedContribution) and contribution.masked:
            raise EgressRefusedError(
                f"{kind!r}: {', '.join(sorted(contribution.masked))} carry a share of the noise only: mask them first"
            )
        return spec

    def _check_receipt(self, contribution: PrivatizedContribution | MaskedContribution, receipt: object) -> None:
        if type(receipt) is not Receipt:
            raise EgressRefusedError(f"{contribution.kind!r}: nothing leaves without a receipt of the budget ledger")
        if (receipt.releases, receipt.server_round) != (contribution.releases, contribution.server_round):
            raise EgressRefusedError(f"{contribution.kind!r}: the receipt is for other releases or another round")
        self._ledger.confirm(receipt)


def _snapshot(spec: MessageSpec, arrays: Mapping[str, NDArray[Any]], sizes: Mapping[str, int]) -> tuple[bytes, Arrays]:
    """The arrays' bytes at this moment, and those bytes as arrays: what is checked, journaled and sent is the one copy.

    Nobody can write bytes. The form is looked at first for what it keeps out of the copying, and again on the copy.
    """
    try:
        spec.check_form(arrays, sizes)
        content = pack(arrays)
        copied = unpack(content)
        spec.check(copied, sizes)
    except ContractError as error:
        raise EgressRefusedError(f"{error}; nothing was sent") from error
    return content, copied


def _checked_fields(spec: ReplySpec, fields: Mapping[str, Any]) -> dict[str, Any]:
    kind, declared = spec.message.kind, {field.name: field for field in spec.fields}
    if type(fields) is not dict or any(type(name) is not str for name in fields):
        raise EgressRefusedError(f"{kind!r}: fields must be a plain dict with text keys; nothing was sent")
    wrong = sorted(set(fields) ^ set(declared))
    if wrong:
        raise EgressRefusedError(f"{kind!r}, field {wrong[0][:64]!r}: missing or not declared; nothing was sent")
    for name, field in declared.items():
        value = fields[name]
        fits = type(value) is _TYPES[field.type] and not (type(value) is str and len(value) > field.max_length)
        if not fits or (type(value) is float and not math.isfinite(value)) or (type(value) is int and abs(value) >> 63):
            raise EgressRefusedError(
                f"{kind!r}, field {name!r}: must be {field.type}, finite and not too long; nothing was sent"
            )
    return dict(fields)


def _summary(
    contribution: PrivatizedContribution | MaskedContribution, arrays: Arrays, receipt: Receipt
) -> dict[str, Any]:
    summary = {
        "kind": contribution.kind,
        "run_id": receipt.run_id,
        "round": contribution.server_round,
        "request_digest": receipt.request_digest,
        "private": contribution.private,
        "releases": [release_to_json(release) for release in contribution.releases],
        "mu": math.sqrt(mu_squared(contribution.releases)),
        **_shapes(arrays),
    }
    if not contribution.private:
        # With noise or masks a norm says nothing, and a journal should not invite anyone to look for more.
        summary["norm"] = _norm(arrays)
    return summary


def _norm(arrays: Arrays) -> float | None:
    """L2 norm of all values together; None where it is beyond a float."""
    with np.errstate(over="ignore"):
        norm = math.sqrt(sum(_sum_of_squares(array) for array in arrays.values()))
    return norm if math.isfinite(norm) else None


def _sum_of_squares(array: NDArray[Any]) -> float:
    if array.dtype.kind == "f" and array.dtype.itemsize >= 4:
        # A dot product needs no copy in double precision, unless single precision cannot hold it.
        quick = float(np.vdot(array, array))
        if math.isfinite(quick):
            return quick
    return float(np.square(array, dtype=np.float64).sum())


def _shapes(arrays: Arrays) -> dict[str, Any]:
    described = [[name, array.dtype.name, list(array.shape)] for name, array in sorted(arrays.items())]
    return {"arrays": described, "bytes": sum(array.nbytes for array in arrays.values())}


def _shown(kind: object) -> str:
    return f"{kind[:64]!r}" if isinstance(kind, str) else "a kind that is not text"
