"""One lock for whatever only one process may work in at a time: a run's folder, a platform's state, an aggregator's.

The operating system holds it (``flock``, through the library ``filelock``), so that a process that was killed holds nothing.
The file stays and says who holds it; its content decides nothing.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import Timeout, UnixFileLock, lock_descriptor

from common.errors import InUseError

_POLL_SECONDS = 0.2
# Whoever only looks holds the lock for a moment: that must not refuse one who takes it.
_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lock.

    Attributes:
        what: the command or the part of it.
        process: its id.
        host: its host's name; the folder may be a network's.
        started: when it took the lock, ISO 8601 in UTC.
    """

    what: str
    process: int
    host: str
    started: str

    def __str__(self) -> str:
        return f"{self.what}, process {self.process} on {self.host}, since {self.started}"


@contextmanager
def held(
    path: Path, what: str, *, mend: str, wait: Callable[[str], None] | None = None, mode: int = 0o640
) -> Iterator[None]:
    """Hold the lock at ``path`` while the body runs.

    Args:
        path: the lock's file, in a folder that is there; it stays afterwards.
        what: who holds it, for the message of others.
        mend: what another one may do, the end of its message.
        wait: told who holds it, and then it is waited for; None refuses at once.
        mode: of a file that is made; whoever may read it may ask whether it is held.

    Raises:
        InUseError: another process, or another part of this one, holds it.
        OSError: the file cannot be made.
    """
    lock = _lock(path, what, mode)
    try:
        lock.acquire(timeout=_PATIENCE_SECONDS, poll_interval=0.05)
    except Timeout:
        said = f"{path.parent}: in use by {holder(path) or 'another process'}"
        if wait is None:
            raise InUseError(f"{said}; {mend}") from None
        wait(f"{said}; waiting for its end")
        lock.acquire(timeout=-1, poll_interval=_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock at ``path`` now; whoever may read the file may ask."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not lock_descriptor(descriptor, blocking=False)
    finally:
        os.close(descriptor)


def holder(path: Path) -> Holder | None:
    """Return what the lock's file says of who took it last; None where it says nothing."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _lock(path: Path, what: str, mode: int) -> UnixFileLock:
    me = Holder(
        what=what,
        process=os.getpid(),
        host=socket.gethostname(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )

    def note(descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(me)).encode(), 0)

    # Never a lock that outlives its process: a file system without flock is an error.
    return UnixFileLock(
        path,
        mode=mode,
        thread_local=False,
        fallback_to_soft=False,
        preserve_lock_file=True,
        on_acquired=note,
    )


def command_name() -> str:
    """The command that this process runs, for people: ``crossfed-simulate run``."""
    program = Path(sys.argv[0])
    name = f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name
    return " ".join([name, *(word for word in sys.argv[1:2] if not word.startswith("-"))])
