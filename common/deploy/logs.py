"""Logs of the long-running roles: text for people, or one JSON object a line for collectors. No user ids in either.

An error that nobody foresaw may quote what it met, so its words are never written: its kind and where it happened are. Only
crossfed's own errors, whose messages hold no user's data, are told in words.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final, Literal

from common.deploy.guard import chain_of
from common.errors import CrossfedError
from common.visible import visible, visible_json

_LARGEST_FILE: Final = 10_000_000


class TextFormatter(logging.Formatter):
    """One line a record, whoever has chosen what is in it: nothing begins a line of its own or steers the terminal.

    Args:
        layout: of the line; time, level, logger and message unless given.
    """

    def __init__(self, layout: str = "%(asctime)s %(levelname)s %(name)s %(message)s") -> None:
        super().__init__(layout)

    def format(self, record: logging.LogRecord) -> str:
        """The line; not with a traceback that another formatter has left in the record."""
        own = copy.copy(record)
        own.exc_text = None
        return super().format(own)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- the library's name
        """The line; a traceback, of crossfed's own frames, follows it."""
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 -- the library's name
        """Where it happened, without words of other errors than crossfed's own."""
        return visible(_where(ei[1]), lines=True)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return visible_json(content)

    def formatException(self, ei: Any) -> str:  # noqa: N802 -- the library's name
        """As of text."""
        return _where(ei[1])


def _where(error: BaseException) -> str:
    """An error's traceback, and of those that led to it; only crossfed's own have words: others' may quote what users did."""
    told = []
    for one in reversed(list(chain_of(error))):
        kind, frames = type(one).__qualname__, "".join(traceback.format_tb(one.__traceback__))
        said = f"{kind}: {one}" if isinstance(one, CrossfedError) else kind
        told.append(f"Traceback (most recent call last):\n{frames}{said}")
    return "\n\nwhich led to:\n\n".join(told)


class _LogFile(RotatingFileHandler):
    """A log on disk, for its owner only. A full disk costs lines and never the process."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- the library's name
        """Go on: standard error has the line, too."""


def set_up_logs(form: Literal["text", "json"] = "text", *, level: int = logging.INFO, file: Path | None = None) -> None:
    """Send all logs of this process to standard error, and to ``file``, which is kept small: one old file stays beside it."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    problem = None
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handlers.append(_LogFile(file, maxBytes=_LARGEST_FILE, backupCount=1, encoding="utf-8"))
        except OSError as error:
            problem = error.strerror
    for handler in handlers:
        handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=handlers, force=True)
    # Python itself would write the error's words to standard error, which a service manager keeps.
    threading.excepthook = _thread_ended
    if problem is not None:
        logging.getLogger(__name__).warning(
            "%s: cannot be written (%s); the log goes to standard error alone", file, problem
        )


def set_up_simple_logs(level: int) -> None:
    """Send the logs of a command that a person looks at to standard error, without times."""
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    name = "" if ended.thread is None else ended.thread.name
    if ended.exc_value is not None and not issubclass(ended.exc_type, SystemExit):
        info = ended.exc_type, ended.exc_value, ended.exc_traceback
        logging.getLogger(__name__).error("the thread %s ended", name, exc_info=info)


@contextmanager
def logged_failure() -> Iterator[None]:
    """Say in the log, too, why a role ended: the command says it to whoever is looking, and nobody may be."""
    try:
        yield
    except CrossfedError as error:
        logging.getLogger(__name__).error("this role ends: %s", error)
        raise


def one_line(text: str, longest: int = 300) -> str:
    r"""A text that somebody else has chosen, fit for a log: one line, nothing that a terminal obeys, not too long.

    >>> one_line("a\x1b[2Jb\nc")
    'a\\x1b[2Jb\\nc'
    """
    shown = visible(text)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
