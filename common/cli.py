"""What the three commands share: help texts, and errors as one clear line instead of a traceback."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable

from rich.console import Console

from common.errors import CrossfedError

_INTERRUPTED = 130


def teach(text: str) -> str:
    """A help text as written in the source, without its indentation."""
    return inspect.cleandoc(text)


def run_app(app: Callable[[], None]) -> None:
    """Run a command line; a deliberate error becomes its message and exit status 1, an interrupt 130."""
    # TensorFlow's notes on its own start are nobody's news; whoever wants them sets it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        app()
    except CrossfedError as error:
        Console(stderr=True).print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
    except SystemExit as ending:
        # Typer turns an interrupt into this status, and says nothing.
        if ending.code == _INTERRUPTED:
            Console(stderr=True).print("interrupted; what was complete is on disk", style="yellow")
        raise
