"""The egress journal: what left the platform, entry by entry, and the bytes of the newest contributions.

The journal is a sealed log of its own (:mod:`common.sealed.log`, same key, other label). Each entry names the ledger's
head at that moment and, for a contribution, the receipt that paid for it, so that the two logs vouch for each other.
The bytes of a contribution are written and on disk *before* its entry, and the entry before anything leaves:

- killed before the entry: nothing left; a retry finds the charge paid and makes the contribution anew.
- killed after it: it may have left; a retry gets the very same bytes, or is refused once they are no longer kept.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.privacy.ledger import KEY_FILE, BudgetLedger, Receipt
from common.errors import EgressRefusedError, LedgerError
from common.files import write_under_its_name
from common.sealed.log import Entry, SealedLog, Writer, load_key
from common.sealed.witness import FileWitness, Head, HeadWitness
from common.wire.exchange import octets

JOURNAL_FILE, JOURNAL_HEAD_FILE, CONTENT_FOLDER = "egress.db", "egress.head", "egress"
Arrays = dict[str, NDArray[Any]]
_FIRST = {"event": "opened"}
_LENGTH = struct.Struct("<I")
_ALIGNMENT = 64


class EgressJournal:
    """The journal of one platform, in the directory of its ledger; made on first use.

    Args:
        directory: holds ``egress.db``, ``egress.head`` and the folder ``egress/`` with the kept bytes.
        ledger: the ledger of the same directory.
        witnesses: further places that keep the journal's head.
        keep_bytes: how many bytes of contributions are kept for retries; the newest is always kept.

    Raises:
        LedgerError: the journal is missing although its head is kept, damaged, edited, rolled back, or open to others.
    """

    def __init__(
        self,
        directory: Path,
        ledger: BudgetLedger,
        *,
        witnesses: Sequence[HeadWitness] = (),
        keep_bytes: int = 1 << 30,
    ) -> None:
        self._content = directory / CONTENT_FOLDER
        self._content.mkdir(mode=0o700, exist_ok=True)
        self._ledger = ledger
        self._keep_bytes = keep_bytes
        self._log = _open_log(directory, witnesses)
        if not self._log.exists() and not self._log.kept_heads():
            self._log.create(_FIRST)
        self._log.publish(_no_totals)

    @classmethod
    def restore(cls, directory: Path, ledger: BudgetLedger, *, witnesses: Sequence[HeadWitness] = ()) -> EgressJournal:
        """Go on with an old copy of the journal, or with none; the gap stays visible as an entry.

        Only after :meth:`BudgetLedger.restore`: that closes every run whose receipts could otherwise be used twice.
        """
        _open_log(directory, witnesses).restore(_FIRST, lambda entries, heads: {"event": "restored"}, _no_totals)
        return cls(directory, ledger, witnesses=witnesses)

    def replay(self, receipt: Receipt) -> Arrays | None:
        """The arrays that left under ``receipt``; None if none did.

        Raises:
            EgressRefusedError: they left and are not kept any more.
            LedgerError: the journal or the kept bytes were tampered with.
        """
        entry = _find(self._log.entries(), receipt)
        return None if entry is None else self._load(entry)

    def record_contribution(self, receipt: Receipt, content: bytes, summary: Mapping[str, Any]) -> Arrays:
        """Keep ``content`` (:func:`pack`) and journal it under ``receipt``; returns the arrays that may leave.

        Those of ``content``, or what left before under the same receipt, whichever process was first.

        Raises:
            LedgerError: ledger or journal cannot be trusted or written; nothing may leave.
            StoreError: the bytes cannot be kept, for lack of space most likely; nothing may leave.
        """
        head = self._ledger.head()
        # Hashing and writing both run outside the interpreter's lock, so that they share the time.
        with ThreadPoolExecutor(1) as beside, self._log.writing() as writer:
            earlier = _find(writer.entries, receipt)
            if earlier is None:
                digest = beside.submit(lambda: hashlib.sha256(content).hexdigest())
                write_under_its_name(self._content, content, digest.result, prefix="contribution", read_again=False)
                charge = {"sequence": receipt.sequence, "mac": receipt.mac}
                entry = {**summary, "event": "sent", "digest": digest.result(), "receipt": charge}
                self._append(writer, entry, head)
                self._evict(writer.entries)
        self._log.publish(_no_totals)
        return unpack(content) if earlier is None else self._load(earlier)

    def record_reply(self, summary: Mapping[str, Any], content: bytes) -> None:
        """Journal a reply that holds nothing derived from data; only its digest is kept."""
        head = self._ledger.head()
        with self._log.writing() as writer:
            self._append(writer, {**summary, "event": "replied", "digest": hashlib.sha256(content).hexdigest()}, head)
        self._log.publish(_no_totals)

    def entries(self) -> list[Entry]:
        """All entries, checked. Raises LedgerError: names the first bad one."""
        return self._log.entries()

    def head(self) -> Head:
        entries = self._log.entries()
        return self._log.seal(entries, {})

    def verify(self) -> int:
        """Check journal and ledger against each other; the number of journal entries.

        Raises:
            LedgerError: names the first bad entry: chain broken, a head or a receipt that the ledger does not have, two
                contributions under one receipt, kept bytes that are not those that left.
        """
        entries = self._log.entries()
        charged = {entry.sequence: entry for entry in self._ledger.entries()}
        lost = [e.content["replaces"] for e in charged.values() if "replaces" in e.content]
        paid: set[int] = set()
        for entry in entries[1:]:
            for place in filter(None, (entry.content.get("ledger"), entry.content.get("receipt"))):
                known, sequence = charged.get(place["sequence"]), place["sequence"]
                replaced = any(span["from"] <= sequence <= span["to"] for span in lost)
                if not replaced and (known is None or known.mac != place["mac"]):
                    raise LedgerError(f"{self._log.name}: entry {entry.sequence} names a charge the ledger lacks")
            if entry.content["event"] == "sent":
                if entry.content["receipt"]["sequence"] in paid:
                    raise LedgerError(f"{self._log.name}: entry {entry.sequence} left under a receipt used before")
                paid.add(entry.content["receipt"]["sequence"])
                if (self._content / entry.content["digest"]).exists():
                    self._load(entry)
        return len(entries)

    def _append(self, writer: Writer, content: Mapping[str, Any], head: Head) -> None:
        writer.append({**content, "ledger": {"sequence": head.sequence, "mac": head.mac}})

    def _load(self, entry: Entry) -> Arrays:
        digest = str(entry.content["digest"])
        try:
            content = (self._content / digest).read_bytes()
        except FileNotFoundError as error:
            raise EgressRefusedError(
                f"round {entry.content['round']}: its contribution has left and its bytes are no longer kept; "
                "ask in a new round"
            ) from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise LedgerError(f"{self._log.name}: the bytes kept for entry {entry.sequence} were altered")
        return unpack(content)

    def _evict(self, entries: Sequence[Entry]) -> None:
        """Delete kept bytes beyond the limit, oldest first, and what a crash left without an entry."""
        kept: set[str] = set()
        total = 0
        for entry in reversed([entry for entry in entries if entry.content["event"] == "sent"]):
            file = self._content / str(entry.content["digest"])
            size = file.stat().st_size if file.exists() else 0
            if kept and total + size > self._keep_bytes:
                break
            total += size
            kept.add(file.name)
        for file in self._content.iterdir():
            if file.name not in kept:
                file.unlink()


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """One byte string for named arrays: length and JSON of names, dtypes and shapes, then the values; no pickle.

    Wide values come first behind a header of whole cache lines, so that each array lies where :func:`unpack` can use it.
    """
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header = json.dumps([[name, arrays[name].dtype.str, list(arrays[name].shape)] for name in names]).encode()
    header += b" " * (-(_LENGTH.size + len(header)) % _ALIGNMENT)
    return b"".join([_LENGTH.pack(len(header)), header, *(octets(arrays[name]) for name in names)])


def unpack(content: bytes) -> Arrays:
    """The arrays of :func:`pack`, as read-only views of ``content``."""
    (length,) = _LENGTH.unpack_from(content)
    offset = _LENGTH.size + length
    arrays: Arrays = {}
    for name, dtype, shape in json.loads(content[_LENGTH.size : offset]):
        count = int(np.prod(shape, dtype=np.int64))
        view = np.frombuffer(content, dtype, count, offset).reshape(shape)
        arrays[name] = view if view.flags.aligned else view.copy()
        offset += arrays[name].nbytes
    return arrays


def _open_log(directory: Path, witnesses: Sequence[HeadWitness]) -> SealedLog:
    kept = [FileWitness(directory / JOURNAL_HEAD_FILE), *witnesses]
    return SealedLog(directory / JOURNAL_FILE, key=load_key(directory / KEY_FILE), label="egress", witnesses=kept)


def _find(entries: Sequence[Entry], receipt: Receipt) -> Entry | None:
    charge = {"sequence": receipt.sequence, "mac": receipt.mac}
    return next((entry for entry in entries if entry.content.get("receipt") == charge), None)


def _no_totals(entries: Sequence[Entry]) -> dict[str, float]:
    return {}
