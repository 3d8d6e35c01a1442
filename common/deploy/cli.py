"""Serves the three commands: help texts, and errors as one clear line instead of a traceback."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from common.deploy.guard import guard


def teach(text: str) -> str:
    """A help text as written in the source, without its indentation."""
    return inspect.cleandoc(text)


def run_app(app: Callable[[], None]) -> None:
    """Run a command line; whatever goes wrong becomes one sentence and exit status 1, an interrupt 130."""
    with guard():
        app()
