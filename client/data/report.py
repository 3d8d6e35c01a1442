"""Reports what cleaning dropped and why. Numbers of rows, lines and recorded events may appear here, ids and values never."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Place = Literal["line", "row"]

EXAMPLES = 3
"""How many row numbers a report gives for each reason."""
TOLERATED = 0.01
"""Share of the rows that may be dropped for reasons that no setting asks for without a warning."""


@dataclass(frozen=True)
class Dropped:
    """Rows that went for one reason.

    Attributes:
        reason: why, as a phrase that fits after "rows dropped:".
        rows: how many.
        examples: up to :data:`EXAMPLES` lines or row numbers, or numbers of recorded events; none for filters
            over counts.
        asked: whether a setting asks for it, as for a threshold: no fault of the data.
        recorded: whether they are recorded events and not rows of the file.
    """

    reason: str
    rows: int
    examples: tuple[int, ...] = ()
    asked: bool = False
    recorded: bool = False


@dataclass(frozen=True)
class CleaningReport:
    """Attributes:
    source: the interactions file.
    rows_read: rows in it, and recorded events.
    rows_kept: entries of the matrix; ``rows_read`` less all that was dropped.
    dropped: by reason, in the order in which the rules ran.
    users: rows of the matrix.
    items: columns of the matrix, the catalogue's size.
    notes: what else there is to know, a sentence each.
    recorded: how many of the rows read are recorded events.
    place: what the numbers of the examples count: a text file's lines, the header being one, or the rows of a Parquet file.
    timed: whether the file says when; else the order of its rows stands for the order in time.
    """

    source: str
    rows_read: int
    rows_kept: int
    dropped: tuple[Dropped, ...]
    users: int
    items: int
    notes: tuple[str, ...] = ()
    recorded: int = 0
    place: Place = "row"
    timed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {
            "source": self.source,
            "rows_read": self.rows_read,
            "recorded": self.recorded,
            "rows_kept": self.rows_kept,
            "users": self.users,
            "items": self.items,
            "place": self.place,
            "timed": self.timed,
            "dropped": [
                {
                    "reason": one.reason,
                    "rows": one.rows,
                    "example_rows": list(one.examples),
                    "asked": one.asked,
                    "recorded": one.recorded,
                }
                for one in self.dropped
            ],
            "notes": list(self.notes),
            "warning": self.warning,
        }

    @classmethod
    def of_dict(cls, content: Mapping[str, Any]) -> CleaningReport:
        """The report that :meth:`as_dict` was made of; shards of earlier versions do not say whether they are timed."""
        dropped = (
            Dropped(
                one["reason"], one["rows"], tuple(one["example_rows"]), asked=one["asked"], recorded=one["recorded"]
            )
            for one in content["dropped"]
        )
        names = ("source", "rows_read", "rows_kept", "users", "items", "recorded", "place")
        told = {name: content[name] for name in names}
        return cls(dropped=tuple(dropped), notes=tuple(content["notes"]), timed=content.get("timed", False), **told)

    @property
    def warning(self) -> str | None:
        """Return what must not be overlooked: more than :data:`TOLERATED` of the rows went, and no setting asked for it."""
        lost = sum(one.rows for one in self.dropped if not one.asked)
        if lost <= TOLERATED * self.rows_read:
            return None
        return (
            f"{lost / self.rows_read:.1%} of the rows were dropped, and no setting asks for that: mend the data or the "
            "settings that the reasons name, or what is trained is not what you have"
        )

    def lines(self) -> list[str]:
        """The report as lines of text, without the warning: the sum, a line per reason, a line per note."""
        recorded = f" ({self.recorded:,} of them recorded feedback)" if self.recorded else ""
        lines = [
            f"{self.source}: kept {self.rows_kept:,} of {self.rows_read:,} rows{recorded}; "
            f"{self.users:,} users, {self.items:,} items"
        ]
        width = max((len(f"{one.rows:,}") for one in self.dropped), default=0)
        lines += [f"  dropped {one.rows:>{width},}: {one.reason}{_at(one, self.place)}" for one in self.dropped]
        return lines + [f"  note: {note}" for note in self.notes]

    def render(self) -> str:
        """The report as aligned text, the warning last."""
        return "\n".join(self.lines() + ([] if self.warning is None else [f"  WARNING: {self.warning}"]))

    def with_notes(self, notes: Iterable[str]) -> CleaningReport:
        """The report with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def after_filter(self, dropped: tuple[Dropped, ...], *, rows: int, users: int, items: int) -> CleaningReport:
        """The report after more was dropped, with the new sizes."""
        return replace(self, dropped=self.dropped + dropped, rows_kept=rows, users=users, items=items)


def nothing_left(
    source: str,
    rows_read: int,
    dropped: tuple[Dropped, ...],
    *,
    notes: Sequence[str] = (),
    place: Place = "row",
) -> str:
    """The message for a file of which cleaning leaves nothing: which rule dropped how much, and what would mend it."""
    reasons = "; ".join(f"{one.rows:,} {one.reason}{_at(one, place)}" for one in dropped)
    mend = "; ".join([*notes, "check the columns and the cleaning rules"])
    return f"{source}: cleaning dropped all of its {rows_read:,} rows: {reasons}; {mend}"


def _at(one: Dropped, place: Place) -> str:
    if not one.examples:
        return " (of recorded feedback)" if one.recorded else ""
    unit = "number" if one.recorded else place
    shown = ", ".join(map(str, one.examples))
    more = ", …" if one.rows > len(one.examples) else ""
    return f" ({'recorded feedback, ' if one.recorded else ''}{unit}{'s' if one.rows > 1 else ''} {shown}{more})"
