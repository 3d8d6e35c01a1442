"""Runs on the aggregator's disk: one folder a run, with its checkpoints and a status that anyone may read at any time."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from logging import getLogger
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from common.deploy.locks import held, is_held
from common.errors import ConfigError, CrossfedError, FederationError, InUseError, NewerStoreError, StoreError
from common.files import make_folder, write_atomically
from server.federation.checkpoint import CheckpointStore
from server.federation.state import RoundRecord

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PENDING, RUNNING, FINISHED, FAILED, INTERRUPTED = "pending", "running", "finished", "failed", "interrupted"
_STATES: Final = (PENDING, RUNNING, FINISHED, FAILED, INTERRUPTED)
_FORMAT: Final = 1
_STATUS: Final = "status.json"
_LOCK: Final = "lock"
_ONE_RUN: Final = "run.lock"
_BEGINS_WITHIN_SECONDS: Final = 300.0

_log = getLogger(__name__)


@dataclass(kw_only=True)
class RunStatus:
    """Holds what is known of a run.

    Attributes:
        name: of the run.
        state: pending (Flower has it, its process has not begun), running, finished, failed, or interrupted (its
            process is gone; it resumes from its last checkpoint).
        process: id of the ServerApp's process, 0 before the first.
        started, ended: ISO 8601, UTC; ended is None while it runs.
        error: why it failed.
        rounds: one record a completed round.
        answers: the last answer of each platform: kind, code and when.
        connected: the platforms that were connected when the run last waited for them.
        wanted: how many it waited for; 0 before.
    """

    name: str
    state: str = PENDING
    process: int = 0
    started: str = ""
    ended: str | None = None
    error: str | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    connected: list[str] = field(default_factory=list)
    wanted: int = 0

    @property
    def server_round(self) -> int:
        """Rounds completed."""
        return len(self.rounds)


def new_run_name(now: datetime | None = None) -> str:
    """A name that sorts by time: ``run-20261009T140305``."""
    return (now or datetime.now(UTC)).strftime("run-%Y%m%dT%H%M%S")


class RunFolder:
    """One run's folder under the aggregator's state.

    Raises:
        ConfigError: the name is not fit for a folder.
    """

    def __init__(self, state: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"run name {name!r}: letters, digits, dots, dashes and underscores only, 64 at most")
        self.name = name
        self._state = state
        self.folder = state / "runs" / name

    def checkpoints(self, *, keep: int) -> CheckpointStore:
        """Where the run's rounds are kept."""
        return CheckpointStore(self.folder / "checkpoints", keep=keep)

    def status(self) -> RunStatus:
        """The status as last written; ``interrupted`` where it says running and nobody holds the run.

        Raises:
            StoreError: the file is damaged.
            NewerStoreError: a newer crossfed wrote it.
        """
        status = self._read()
        if status.state == RUNNING and not self.is_held():
            status.state = INTERRUPTED
        return status

    def announce(self) -> None:
        """Write down that a run is about to begin or to go on, so that it is listed at once.

        Raises:
            NewerStoreError: a newer crossfed began the run.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        status = self.mended()
        status.state, status.ended, status.error = PENDING, None, None
        self._write(status)

    def give_up(self, error: str) -> None:
        """Write down that an announced run could not begin."""
        self._end(FAILED, error)

    def interrupt(self) -> None:
        """Write down that a run whose process was lost could not be taken up yet: it still waits for that."""
        status = self.mended()
        status.state = RUNNING
        self._write(status)

    def observer(self) -> RunRecorder:
        """An observer that keeps the status up to date."""
        return RunRecorder(self)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Hold the run while the body runs it, and write down how it ended.

        Raises:
            FederationError: another process holds it.
        """
        make_folder(self.folder)
        with self._held():
            try:
                # Two runs would enrol the same platforms, and each would be answered in the other's name.
                with held(
                    self._state / _ONE_RUN, f"run {self.name}", mend="one run at a time: begin this one again later"
                ):
                    status = self.mended()
                    status.state, status.process, status.ended, status.error = RUNNING, os.getpid(), None, None
                    self._write(status)
                    yield
            except BaseException as error:
                text = (
                    str(error)
                    if isinstance(error, CrossfedError)
                    else f"{type(error).__name__}; state/logs/superexec.log says more"
                )
                self._end(FAILED, text)
                raise
            self._end(FINISHED, None)

    @contextmanager
    def _held(self) -> Iterator[None]:
        lock = held(self.folder / _LOCK, f"run {self.name}", mend="")
        try:
            lock.__enter__()
        except InUseError:
            raise FederationError(f"run {self.name} is already running in another process") from None
        with ExitStack() as stack:
            stack.push(lock)
            yield

    def update(self, change: RunStatus) -> None:
        """Write a status."""
        self._write(change)

    def mended(self) -> RunStatus:
        """The status as last written; a damaged one is set aside, and the run goes on with a new one from its checkpoints.

        Raises:
            NewerStoreError: a newer crossfed wrote it.
        """
        try:
            status = self._read()
            status.started = status.started or _now()
            return status
        except NewerStoreError:
            raise
        except StoreError as error:
            aside = self._path.with_name(f"{_STATUS}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
            self._path.rename(aside)
            _log.warning("%s; it is kept as %s, and the run goes on with a new one", error, aside.name)
            return RunStatus(name=self.name, started=_now())

    @property
    def _path(self) -> Path:
        return self.folder / _STATUS

    def _end(self, state: str, error: str | None) -> None:
        status = self.mended()
        status.state, status.ended, status.error = state, _now(), error
        self._write(status)

    def _read(self) -> RunStatus:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return RunStatus(name=self.name)
        except (OSError, ValueError) as error:
            raise StoreError(f"{self._path}: {_DAMAGED}") from error
        return _status_of(content, self._path)

    def _write(self, status: RunStatus) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, **status.__dict__}
        write_atomically(self._path, json.dumps(content, indent=1).encode(), mode=0o640)

    def is_held(self) -> bool:
        """Whether a process is running it now."""
        return is_held(self.folder / _LOCK)

    def is_going_on(self) -> bool:
        """Whether a process is running it, or is about to: Flower has taken it on, and has not had the time to begin.

        A run that was announced and whose process never began, because the SuperLink lost it, bars no other for ever.
        """
        if self.is_held():
            return True
        try:
            announced = self._path.stat().st_mtime
            return self._read().state == PENDING and time.time() - announced < _BEGINS_WITHIN_SECONDS
        except (OSError, StoreError):
            return False


class RunRecorder:
    """Writes each answer and each round into the run's status."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
        """A platform answered, or failed with ``code``."""
        status = self._folder.mended()
        status.answers[platform] = {
            "kind": kind, "round": server_round, "code": code, "bytes": reply_bytes, "time": time.time(),
        }  # fmt: skip
        self._folder.update(status)

    def on_waiting(self, connected: list[str], wanted: int) -> None:
        """The run waits for platforms; ``connected`` are there."""
        status = self._folder.mended()
        status.connected, status.wanted = connected, wanted
        self._folder.update(status)

    def on_round(self, record: RoundRecord) -> None:
        """A round is complete."""
        status = self._folder.mended()
        # A resumed run may repeat a round whose checkpoint was not yet written.
        earlier = [r for r in status.rounds if r["round"] < record.round or r.get("phase") != record.phase]
        status.rounds = [*earlier, record.as_dict()]
        self._folder.update(status)


def run_going_on(state: Path) -> RunStatus | None:
    """The run that a process is running or is about to, if there is one."""
    going = (run for run in reversed(read_runs(state)[0]) if RunFolder(state, run.name).is_going_on())
    return next(going, None)


def list_runs(state: Path) -> list[RunStatus]:
    """All runs that can be read, the oldest first; the others are named in the log, each once."""
    runs, unreadable = read_runs(state)
    for name, why in unreadable.items():
        if (str(state), name, why) not in _told:
            _told.add((str(state), name, why))
            _log.warning("run %s is skipped: %s", name, why)
    return runs


def read_runs(state: Path) -> tuple[list[RunStatus], dict[str, str]]:
    """All runs that can be read, the oldest first; and why the others cannot, by name."""
    folder = state / "runs"
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    runs: list[RunStatus] = []
    unreadable: dict[str, str] = {}
    for name in names:
        try:
            status = RunFolder(state, name).status()
        except (StoreError, ConfigError) as error:
            unreadable[name] = str(error)
            continue
        # A process that was killed before its first status has begun no run.
        runs += [status] if status.started else []
    return sorted(runs, key=lambda status: status.started), unreadable


_told: set[tuple[str, str, str]] = set()
_DAMAGED: Final = (
    "damaged; the run is skipped. Restore the file from a backup, or begin anew from the run's checkpoints: "
    "crossfed-server run --resume with its name"
)
_ROUND: Final = TypeAdapter(RoundRecord)
_RUN: Final = TypeAdapter(RunStatus)


def _status_of(content: object, path: Path) -> RunStatus:
    """Raises: StoreError, NewerStoreError."""
    if not isinstance(content, dict):
        raise StoreError(f"{path}: {_DAMAGED}")
    written = content.pop("format", _FORMAT)
    unknown = sorted(map(str, content.keys() - {entry.name for entry in fields(RunStatus)}))
    if (isinstance(written, int) and written > _FORMAT) or unknown:
        said = f"format {written}" if not unknown else f"fields {', '.join(unknown)}"
        raise NewerStoreError(
            f"{path}: has {said}, which a newer crossfed writes; upgrade crossfed to go on with this run"
        )
    try:
        status = _RUN.validate_python(content)
        for record in status.rounds:
            _ROUND.validate_python(record)
        known = all({"kind", "round", "code", "time"} <= answer.keys() for answer in status.answers.values())
        if not known or status.state not in _STATES or datetime.fromisoformat(status.started).tzinfo is None:
            raise ValueError("a value that no crossfed writes")
    except (ValidationError, ValueError) as error:
        raise StoreError(f"{path}: {_DAMAGED}") from error
    return status


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
