"""Keeps what a person consented to, as rows of ``passports.db`` and as values."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal

from client.passport.contents import Contents

Direction = Literal["issued", "redeemed"]
COLUMNS = "serial, direction, user, platform, kinds, at, until, revoked"
Row = tuple[str, Direction, str, str, str, int, int, int | None]
"""A row of these columns."""


@dataclass(frozen=True)
class Receipt:
    """Holds what a person consented to, as both ends keep it.

    Attributes:
        serial: of the passport, hex.
        direction: ``issued`` here or ``redeemed`` here.
        user: of this platform.
        platform: the other one.
        kinds: what was in it.
        at, until: seconds since 1970; from then until then.
        revoked: seconds since 1970, or None.
    """

    serial: str
    direction: Direction
    user: str
    platform: str
    kinds: tuple[str, ...]
    at: int
    until: int
    revoked: int | None = None

    def state(self, now: float) -> str:
        """``revoked``, ``expired`` or ``good``."""
        return "revoked" if self.revoked is not None else "expired" if now >= self.until else "good"


@dataclass(frozen=True, eq=False)
class Redeemed:
    """A passport in use.

    Attributes:
        receipt: of it.
        contents: what it brought.
    """

    receipt: Receipt
    contents: Contents


def insert_receipt(connection: sqlite3.Connection, receipt: Receipt, digest: str) -> None:
    """Add a row; ``digest`` is of the whole passport."""
    connection.execute(
        "INSERT INTO receipt (serial, direction, user, platform, kinds, at, until, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            receipt.serial,
            receipt.direction,
            receipt.user,
            receipt.platform,
            ",".join(receipt.kinds),
            receipt.at,
            receipt.until,
            digest,
        ),
    )


def find_receipt(
    connection: sqlite3.Connection, direction: Direction, serial: str
) -> tuple[Receipt, str] | tuple[None, None]:
    """The receipt of a serial and the digest of its passport."""
    row = connection.execute(
        f"SELECT {COLUMNS}, digest FROM receipt WHERE direction = ? AND serial = ?",  # noqa: S608
        (direction, serial),
    ).fetchone()
    return (None, None) if row is None else (receipt_of(row[:-1]), str(row[-1]))


def receipt_of(row: Row) -> Receipt:
    """Of :data:`COLUMNS`."""
    serial, direction, user, platform, kinds, at, until, revoked = row
    return Receipt(serial, direction, user, platform, tuple(kinds.split(",")), at, until, revoked)
