"""Heads of an append-only log, and the places outside it that remember them."""

from __future__ import annotations

import json
import os
import secrets
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from common.errors import LedgerError
from common.files import sync_folder, write_atomically


@dataclass(frozen=True)
class Head:
    """Where a log stood: enough to tell later that entries were taken away, and how much had been spent by then.

    Attributes:
        log_id: random id made with the log.
        sequence: number of its last entry.
        mac: that entry's MAC, hex.
        totals: what the entries add up to, by name (the ledger's spend; empty for the egress journal).
        seal: MAC over the fields above, hex, under the log's key. Others can keep a head but not make one.
    """

    log_id: str
    sequence: int
    mac: str
    totals: dict[str, float]
    seal: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Head:
        """Raises LedgerError: not what :meth:`to_json` writes."""
        try:
            head = cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise LedgerError("a kept head of the log cannot be read: it is damaged") from error
        kinds = (type(head.log_id), type(head.sequence), type(head.mac), type(head.totals), type(head.seal))
        if kinds != (str, int, str, dict, str):
            raise LedgerError("a kept head of the log cannot be read: it is damaged")
        return head


class HeadWitness(Protocol):
    """A place that remembers a log's head independently of the log: the model store, a peer's receipts."""

    def remember(self, head: Head) -> None:
        """Keep ``head``; return only once it is durable.

        Raises:
            StoreError: it cannot be kept.
        """

    def recall(self) -> Head | None:
        """The head last remembered; None if there never was one.

        Raises:
            LedgerError: what is kept is damaged.
        """


class FileWitness:
    """Keeps the head in one small file (mode 0600), replaced atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def remember(self, head: Head) -> None:
        write_atomically(self._path, head.to_json().encode())

    def recall(self) -> Head | None:
        try:
            return Head.from_json(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, LedgerError) as error:
            raise LedgerError(
                f"{self._path.name} is damaged or not readable; move it away and run `crossfed-client privacy restore`"
            ) from error


def create_durably(path: Path, content: bytes) -> bool:
    """Make ``path`` with ``content`` (mode 0600), whole or not at all; False if it exists already."""
    return link_durably(_write_part(path, content), path)


def link_durably(part: Path, path: Path) -> bool:
    """Give the finished file ``part`` its name ``path`` unless something has it; ``part`` is gone in either case.

    link(2), unlike rename(2), never replaces: of two processes that create at once exactly one succeeds.
    """
    try:
        path.hardlink_to(part)
    except FileExistsError:
        return False
    finally:
        part.unlink()
        sync_folder(path.parent)
    return True


def part_name(path: Path) -> Path:
    """A name beside ``path`` that no other process uses, for a file that is still being written."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def _write_part(path: Path, content: bytes) -> Path:
    part = part_name(path)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return part


def require_private(path: Path) -> None:
    """Raises LedgerError: others than the owner may read or write ``path``."""
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise LedgerError(f"{path.name} may be read or written by others; run: chmod 600 {path.name}")
