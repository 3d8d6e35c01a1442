"""Keeping other programs running: start, watch, restart with exponential back-off, stop in reverse order.

A program runs in its own process group and dies with its supervisor (Linux: ``PR_SET_PDEATHSIG``), so that a killed
supervisor leaves no half of a role behind to hold ports.

Run as ``python -m common.deploy.supervise PARENT COMMAND…`` it is the small program that asks for the latter and then becomes
COMMAND.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path

from common.deploy.logs import one_line
from common.errors import ConfigError

_log = getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.2
_LARGEST_TAIL = 20_000


@dataclass(frozen=True, kw_only=True)
class BackOff:
    """Seconds between a program's end and its next start: doubling, with jitter, forgotten after a calm while.

    >>> [BackOff(jitter=0).delay(failures) for failures in (1, 2, 3, 10)]
    [1.0, 2.0, 4.0, 60.0]
    """

    first: float = 1.0
    most: float = 60.0
    calm: float = 120.0
    """A program that has run this long is healthy again."""
    jitter: float = 0.2

    def delay(self, failures: int) -> float:
        """Before the next start after so many failures in a row."""
        plain = min(self.first * 2.0 ** (failures - 1), self.most)
        return plain * (1 + self.jitter * random.uniform(-1, 1))  # noqa: S311 -- spreads restarts, keeps no secret


@dataclass(frozen=True, kw_only=True)
class Program:
    """Describes a program to run.

    Attributes:
        name: for logs and metrics.
        command: program and arguments; a name without a slash is looked up beside this Python first.
        environment: added to this process's own.
        log: file that its output is appended to; None: this process's own output.
        largest_log: bytes; a larger log is moved away before the program starts.
        explain: what the end of its output means, in a sentence with the mend; None where it does not know. The last line
            is quoted then.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    largest_log: int = 10_000_000
    explain: Callable[[str], str | None] = lambda output: None


class Supervisor:
    """Runs programs until :meth:`stop`.

    Args:
        programs: started in this order, stopped in reverse.
        back_off: between restarts.
        grace: seconds that a program has to end by itself before it is killed.
        on_exit: told of every unexpected end: name and exit status.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        back_off: BackOff | None = None,
        grace: float = 10.0,
        on_exit: Callable[[str, int], None] | None = None,
    ) -> None:
        self._children = [_Child(program, back_off or BackOff(), on_exit) for program in programs]
        self._grace = grace
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def restarts(self) -> dict[str, int]:
        """How often each program was started again."""
        return {child.program.name: max(0, child.starts - 1) for child in self._children}

    @property
    def process_ids(self) -> dict[str, int | None]:
        """Process id by name; None while a program waits to be started again."""
        return {child.program.name: child.process_id for child in self._children}

    def start(self) -> None:
        """Start all and watch them from a thread of this process.

        Raises:
            ConfigError: a program is not installed.
        """
        for child in self._children:
            child.check()
        self._thread = threading.Thread(target=self._watch, name="supervisor")
        self._thread.start()

    def stop(self) -> None:
        """End all programs, the last one first; returns when they have ended."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        # The kernel's parent-death signal is bound to the starting thread, so this thread starts, watches and ends.
        try:
            while not self._stopping.is_set():
                for child in self._children:
                    child.tend()
                self._stopping.wait(_POLL_SECONDS)
        finally:
            for child in reversed(self._children):
                child.end(self._grace)


class _Child:
    """One program and its process."""

    def __init__(self, program: Program, back_off: BackOff, on_exit: Callable[[str, int], None] | None) -> None:
        self.program = program
        self.starts = 0
        self._back_off = back_off
        self._on_exit = on_exit
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._failures = 0
        self._next_start = 0.0
        self._said_from = 0

    @property
    def process_id(self) -> int | None:
        process = self._process
        return None if process is None else process.pid

    def check(self) -> None:
        _locate(self.program.command[0])

    def tend(self) -> None:
        """Note an end, start again when it is time."""
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return
            self._note_end(status)
        if time.monotonic() >= self._next_start:
            try:
                self._start()
            except OSError as error:
                # A full disk, no memory, too many files: for the time being, and no reason to end what else runs.
                delay = self._delay_after_failure(calm=False)
                why = error.strerror or type(error).__name__
                _log.error("%s cannot be started (%s); tried again in %.1f s", self.program.name, why, delay)

    def end(self, grace: float) -> None:
        process = self._process
        if process is None:
            return
        _signal_group(process, signal.SIGTERM)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            _log.warning("%s did not end within %.0f s and is killed", self.program.name, grace)
        # Also whatever it has started and left behind in its group.
        _signal_group(process, signal.SIGKILL)
        process.wait()
        self._process = None

    def _start(self) -> None:
        command = [sys.executable, "-m", "common.deploy.supervise", str(os.getpid()), *self.program.command]
        output = None
        if self.program.log is not None:
            _rotate(self.program.log, self.program.largest_log)
            output = self.program.log.open("ab")
            self._said_from = output.tell()
        try:
            self._process = subprocess.Popen(  # noqa: S603 -- commands come from this package, arguments from its config
                command,
                env={**os.environ, "PATH": _search_path(), **self.program.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            if output is not None:
                output.close()
        self.starts += 1
        self._started = time.monotonic()
        _log.info("%s started (process %d)", self.program.name, self._process.pid)

    def _note_end(self, status: int) -> None:
        assert self._process is not None
        _signal_group(self._process, signal.SIGKILL)
        self._process = None
        calm = time.monotonic() - self._started >= self._back_off.calm
        delay = self._delay_after_failure(calm=calm)
        _log.warning(
            "%s ended with status %d%s; it starts again in %.1f s", self.program.name, status, self._why(), delay
        )
        if self._on_exit is not None:
            self._on_exit(self.program.name, status)

    def _delay_after_failure(self, *, calm: bool) -> float:
        """Seconds until the next start, which is put off by as many."""
        self._failures = 1 if calm else self._failures + 1
        delay = self._back_off.delay(self._failures)
        self._next_start = time.monotonic() + delay
        return delay

    def _why(self) -> str:
        """Return what its output says of its end, as the middle of a sentence."""
        log = self.program.log
        if log is None:
            return ""
        output = _end_of(log, self._said_from)
        lines = [line for line in output.splitlines() if line.strip()]
        said = self.program.explain(output) or (f"it said last: {lines[-1].strip()}" if lines else "it said nothing")
        return f": {one_line(said)} ({log} has more)"


def _end_of(log: Path, start: int) -> str:
    """The last of what was written to ``log`` from ``start`` on."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - _LARGEST_TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _rotate(log: Path, largest: int) -> None:
    """Move a log that has grown large out of the way; one old one is kept."""
    if log.exists() and log.stat().st_size > largest:
        log.replace(log.with_name(f"{log.name}.1"))


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _locate(name: str) -> str:
    """The program's path: beside this Python, then on PATH.

    Raises:
        ConfigError: it is in neither place.
    """
    if "/" in name:
        return name
    for folder in _search_path().split(os.pathsep):
        path = Path(folder) / name
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    raise ConfigError(f"the program {name!r} is not installed: neither beside this Python nor on PATH")


def _search_path() -> str:
    """PATH with this Python's own folder first: programs start others of the same installation by name."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _become(parent: int, command: Sequence[str]) -> None:
    """Ask to be ended with the parent, then turn into ``command``."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(1)
    path = _locate(command[0])
    os.execv(path, [path, *command[1:]])  # noqa: S606 -- no shell


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
