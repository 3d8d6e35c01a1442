"""Breaks in the middle of an answer, with a user's id in the error's text."""

from __future__ import annotations

from typing import Any, NoReturn

from client.data.recorded import EventRules


class BreakingRules(EventRules):
    """A defect where a user's history is put together; its text has an id that must stay at home."""

    def counted(self, *_: Any, **__: Any) -> NoReturn:
        """Break down."""
        raise KeyError("".join(["an", "na"]))
