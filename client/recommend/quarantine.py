"""Sets damaged events of a feedback log aside in a file, so that nothing is lost and nobody edits the log by hand.

A line each, the newest last: the reason, a tab, and the line as it was (or a line of the one event). Read-only for people and
tools; crossfed itself only adds to it, and takes out of it what a user asks to erase and what is older than the platform keeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from client.recommend.feedback_file import FeedbackEvent, SetAside, parsed_line
from common.files import sync_folder, write_atomically


def quarantine_of(log: Path) -> Path:
    """The file of a feedback log."""
    return log.with_name(f"{log.name}.set-aside")


def set_aside(log: Path, entries: Sequence[SetAside]) -> Path:
    """Add entries durably; returns the file.

    Raises:
        OSError: it cannot be written.
    """
    path = quarantine_of(log)
    content = b"".join(b"%b\t%b" % (entry.reason.encode(), entry.content) for entry in entries)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            content = b"\n" + content  # what a crash cut off stays on a line of its own
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)
    return path


def forget_set_aside(log: Path, gone: Callable[[FeedbackEvent], bool]) -> None:
    """Erase the events that are ``gone``, and every line that is too damaged to tell whose or how old it is.

    Raises:
        StoreError: the file cannot be rewritten.
        OSError: it cannot be read.
    """
    path = quarantine_of(log)
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not _may_be_of(line.rstrip(b"\n").partition(b"\t")[2], gone)]
    if len(kept) == len(lines):
        return
    if kept:
        write_atomically(path, b"".join(kept))
    else:
        path.unlink()


def _may_be_of(line: bytes, gone: Callable[[FeedbackEvent], bool]) -> bool:
    events = parsed_line(line)
    return events is None or any(gone(event) for event in events)
