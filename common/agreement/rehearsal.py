"""Holds the findings of a rehearsal: the steps towards a first run, which are done, and who must do the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.deploy.console import PlainConsole, PlainTable, say


@dataclass(frozen=True)
class Step:
    """One step of setting a federation up.

    Attributes:
        what: to be there.
        done: whether it is; None: cannot be known here.
        who: must do it.
        how: the command, or what to do.
    """

    what: str
    done: bool | None
    who: str
    how: str


def print_steps(steps: Iterable[Step]) -> int:
    """Print what is done and what is not; returns the exit status: 1 if something is missing."""
    found = list(steps)
    table = PlainTable("step", "state", "who", "what to do")
    for step in found:
        state = "done" if step.done else "unknown here" if step.done is None else "MISSING"
        table.add_row(step.what, state, "" if step.done else step.who, "" if step.done else step.how)
    PlainConsole().print(table)
    missing = [step for step in found if step.done is False]
    say("nothing is missing" if not missing else f"{len(missing)} missing; next: {missing[0].who}: {missing[0].how}")
    return 1 if missing else 0
