"""Building the platform's own model, after the finish of a run was acknowledged. How that went is the operator's alone.

    STORE/finish.npz     the newest finish: what the aggregator sent, all of it public to the aggregator
    STORE/build.json     what became of it

A finish is on disk before it is acknowledged, so that a process that ends in between builds its model when it is started
again. What a run's training has left (rows of users) is deleted once its model is built. Nothing of a build crosses the wire:
not that it failed, and not how long it took, as it begins after the answer.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from logging import getLogger
from pathlib import Path
from typing import Any, Final, Literal

from client.contributions.run_file import TOWERS_FILE, RunFile
from client.personalization.platform_model import PlatformModel
from client.personalization.store import PlatformStore
from common.config.federation import FederationPlan
from common.errors import CrossfedError, InternalError, StoreError, told_of
from common.files import write_atomically
from common.wire.exchange import AgentRequest, Arrays, digest_of

_log = getLogger(__name__)

FINISH_FILE, BUILD_FILE = "finish.npz", "build.json"
State = Literal["none", "waiting", "building", "built", "failed"]
_VOCABULARY: Final = "vocabulary/"
_MOST_ATTEMPTS: Final = 3
"""A build that ends its process (for lack of memory, say) is not begun for ever."""
_DELAY: Final = 2.0
"""Seconds for which a build in the background waits, so that the answer is gone before the machine is busy. A constant."""


@dataclass(frozen=True, kw_only=True)
class BuildOutcome:
    """Holds what became of the newest finish; for the operator.

    Attributes:
        run_id: of the run that was finished; empty where there was none.
        state: ``none``, ``waiting``, ``building`` (or ended with its process), ``built``, ``failed``.
        attempts: how often it was begun.
        version: of the store, once built.
        error: what was wrong, where it failed.
        time: of the last change, UTC.
    """

    run_id: str = ""
    state: State = "none"
    attempts: int = 0
    version: int | None = None
    error: str | None = None
    time: str = ""


@dataclass(frozen=True, eq=False)
class Finish:
    """A finish as it is kept: the request, and the vocabulary that it is read with.

    Attributes:
        request: as it was acknowledged.
        platforms: of the vocabulary.
        vocabulary: the arrays of the vocabulary's message.
    """

    request: AgentRequest
    platforms: tuple[str, ...]
    vocabulary: Arrays

    @property
    def digest(self) -> str:
        """Of the request, as the ledger has it."""
        return digest_of(self.request)


class ModelBuilder:
    """Builds one model at a time and puts it into the store; of finishes that wait, the newest.

    Args:
        store: where models go.
        background: build in a thread of its own, some seconds after :meth:`begin`; else when :meth:`wait` is called.
        on_built: called when a model is in the store.
        delay: seconds for which a build in the background waits.
    """

    def __init__(
        self,
        store: PlatformStore,
        *,
        background: bool = False,
        on_built: Callable[[], None] = lambda: None,
        delay: float = _DELAY,
    ) -> None:
        self._store = store
        self._on_built = on_built
        self._delay = delay
        self._file = RunFile(store.root / FINISH_FILE)
        self._progress = RunFile(store.root / TOWERS_FILE)
        self._path = store.root / BUILD_FILE
        self._background = background
        self._waiting: tuple[str, Callable[[], PlatformModel]] | None = None
        self._changed = threading.Condition()
        self._busy = False
        self._stopped = threading.Event()
        self._error: CrossfedError | None = None

    @property
    def outcome(self) -> BuildOutcome:
        """Return what became of the newest finish."""
        return read_outcome(self._store.root)

    @property
    def error(self) -> CrossfedError | None:
        """Return what the last build of this process failed with."""
        return self._error

    def keep(self, finish: Finish, plan: FederationPlan) -> None:
        """Put a finish on disk; to be called before it is acknowledged.

        Raises:
            StoreError: it cannot be written; it must not be acknowledged.
        """
        request = finish.request
        facts = {
            "server_round": request.server_round,
            "config": dict(request.config),
            "platforms": list(finish.platforms),
        }
        vocabulary = {f"{_VOCABULARY}{name}": array for name, array in finish.vocabulary.items()}
        self._file.save(request.run_id, plan, facts, {**request.arrays, **vocabulary})
        self._note(BuildOutcome(run_id=request.run_id, state="waiting"))

    def unbuilt(self, plan: FederationPlan) -> Finish | None:
        """The finish on disk, unless its model was built or its building has ended the process again and again."""
        kept = self._file.newest(plan)
        if kept is None:
            return None
        run_id, facts, arrays = kept
        outcome = self.outcome
        if outcome.run_id == run_id:
            if outcome.state == "built":
                self._forget_progress(run_id)  # an earlier version left it
                return None
            if outcome.attempts >= _MOST_ATTEMPTS:
                _log.error(
                    "the model of run %s is not built again after %d attempts (%s); the next run makes a new one",
                    run_id,
                    outcome.attempts,
                    outcome.error or "the process ended",
                )
                self._forget_progress(run_id)
                return None
        vocabulary = {
            name.removeprefix(_VOCABULARY): array for name, array in arrays.items() if name.startswith(_VOCABULARY)
        }
        request = AgentRequest(
            kind="finish",
            run_id=run_id,
            server_round=facts["server_round"],
            config=facts["config"],
            arrays={name: array for name, array in arrays.items() if not name.startswith(_VOCABULARY)},
        )
        return Finish(request, tuple(facts["platforms"]), vocabulary)

    def begin(self, run_id: str, make: Callable[[], PlatformModel]) -> None:
        """Build what ``make`` makes, soon; after the finish was acknowledged."""
        with self._changed:
            self._waiting = run_id, make
            if self._background and not self._busy:
                self._busy = True
                threading.Thread(target=self._work, name="model-builder", daemon=True).start()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being built."""
        with self._changed:
            return self._waiting is None and not self._busy

    def wait(self, timeout: float | None = None) -> BuildOutcome:
        """Come back once nothing is left to build; what does not build in the background is built here and now."""
        if self._background:
            with self._changed:
                self._changed.wait_for(lambda: not self._busy, timeout)
        else:
            while (job := self._take()) is not None:
                self._build(*job)
        return self.outcome

    def stop(self) -> None:
        """Begin nothing more; what waits is built when the process is started again."""
        self._stopped.set()

    def _work(self) -> None:
        self._stopped.wait(self._delay)
        while (job := self._take()) is not None:
            self._build(*job)

    def _take(self) -> tuple[str, Callable[[], PlatformModel]] | None:
        with self._changed:
            job, self._waiting = self._waiting, None
            if job is None or self._stopped.is_set():
                # Under the lock: whoever begins something from here on starts a thread of its own.
                self._busy = False
                self._changed.notify_all()
                return None
            return job

    def _build(self, run_id: str, make: Callable[[], PlatformModel]) -> None:
        before = self.outcome
        attempts = (before.attempts if before.run_id == run_id else 0) + 1
        outcome = BuildOutcome(run_id=run_id, state="building", attempts=attempts)
        self._error = None
        _log.info("the model of run %s is being built; the one before serves until then", run_id)
        try:
            self._note(outcome)
            version = self._store.commit(make())
        except Exception as error:
            # Nobody waits for this: whatever went wrong is for the operator, and the model before goes on serving.
            _log.exception("the model of run %s could not be built; the one before goes on serving", run_id)
            self._error = error if isinstance(error, CrossfedError) else InternalError(told_of(error))
            said = (
                str(error) if isinstance(error, CrossfedError) else f"{type(error).__name__}; the agent's log says more"
            )
            self._note_quietly(replace(outcome, state="failed", error=said))
            return
        self._note_quietly(replace(outcome, state="built", version=version))
        self._forget_progress(run_id)
        _log.info("the model of run %s is built: version %d", run_id, version)
        try:
            self._on_built()
        except CrossfedError as error:
            _log.error("version %d is in the store and could not be taken up: %s", version, error)

    def _forget_progress(self, run_id: str) -> None:
        """A model that is built, or never will be, needs no training any more; rows of its users would stay on disk."""
        try:
            self._progress.forget(run_id)
        except StoreError as error:
            _log.error("%s", error)

    def _note_quietly(self, outcome: BuildOutcome) -> None:
        try:
            self._note(outcome)
        except StoreError as error:
            _log.error("%s cannot be written: %s", self._path, error)

    def _note(self, outcome: BuildOutcome) -> None:
        content = asdict(replace(outcome, time=datetime.now(UTC).isoformat(timespec="seconds")))
        write_atomically(self._path, json.dumps(content).encode())


def read_outcome(store: Path) -> BuildOutcome:
    """Return what became of the newest finish, as a store's folder has it; none where that cannot be read."""
    try:
        content: dict[str, Any] = json.loads((store / BUILD_FILE).read_text(encoding="utf-8"))
        return BuildOutcome(**content)
    except (OSError, ValueError, TypeError):
        return BuildOutcome()
