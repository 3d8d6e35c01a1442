"""What cleaning dropped and why. Row numbers may appear here; ids never do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

EXAMPLES = 3
"""How many row numbers a report gives for each reason."""


@dataclass(frozen=True)
class Dropped:
    """Rows that went for one reason.

    Attributes:
        reason: why, as a phrase that fits after "rows dropped:".
        rows: how many.
        examples: up to :data:`EXAMPLES` row numbers, from 1 below the header; none for filters over counts.
    """

    reason: str
    rows: int
    examples: tuple[int, ...] = ()


@dataclass(frozen=True)
class CleaningReport:
    """Attributes:
    source: the interactions file.
    rows_read: rows in it.
    rows_kept: entries of the matrix; ``rows_read`` less all that was dropped.
    dropped: by reason, in the order in which the rules ran.
    users: rows of the matrix.
    items: columns of the matrix, the catalogue's size.
    notes: what else there is to know, a sentence each.
    """

    source: str
    rows_read: int
    rows_kept: int
    dropped: tuple[Dropped, ...]
    users: int
    items: int
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {
            "source": self.source,
            "rows_read": self.rows_read,
            "rows_kept": self.rows_kept,
            "users": self.users,
            "items": self.items,
            "dropped": [
                {"reason": one.reason, "rows": one.rows, "example_rows": list(one.examples)} for one in self.dropped
            ],
            "notes": list(self.notes),
        }

    def render(self) -> str:
        """The report as aligned text, a line per reason."""
        lines = [
            f"{self.source}: kept {self.rows_kept:,} of {self.rows_read:,} rows; "
            f"{self.users:,} users, {self.items:,} items"
        ]
        width = max((len(f"{one.rows:,}") for one in self.dropped), default=0)
        lines += [f"  dropped {one.rows:>{width},}: {one.reason}{_at(one)}" for one in self.dropped]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def after_filter(self, dropped: tuple[Dropped, ...], *, rows: int, users: int, items: int) -> CleaningReport:
        """The report after more was dropped, with the new sizes."""
        return replace(self, dropped=self.dropped + dropped, rows_kept=rows, users=users, items=items)


def nothing_left(source: str, rows_read: int, dropped: tuple[Dropped, ...]) -> str:
    """The message for a file of which cleaning leaves nothing: which rule dropped how much."""
    reasons = "; ".join(f"{one.rows:,} {one.reason}{_at(one)}" for one in dropped)
    return (
        f"{source}: cleaning dropped all of its {rows_read:,} rows: {reasons}; check the columns and the cleaning rules"
    )


def _at(one: Dropped) -> str:
    if not one.examples:
        return ""
    shown = ", ".join(map(str, one.examples))
    more = ", …" if one.rows > len(one.examples) else ""
    return f" (row{'s' if one.rows > 1 else ''} {shown}{more})"
