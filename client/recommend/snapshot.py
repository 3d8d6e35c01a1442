"""The model that serves: an immutable snapshot of one store version, swapped for the next without a failed request.

A request takes the snapshot once and finishes on it, whatever is swapped in meanwhile. What users did since training is
kept by item key in the feedback log, outside the snapshots, so a swap loses none of it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from logging import getLogger

import numpy as np

from client.data.reading.identifiers import required_identifier
from client.data.recorded import Event, EventRules
from client.personalization.store import PlatformStore
from client.recommend.feedback import FeedbackLog
from client.recommend.feedback_file import FeedbackReader
from client.recommend.index import ApproximateIndex, recall_against_exact
from client.recommend.process import collector_paused
from client.recommend.recommender import PreparedHistory, Recommender
from client.versions.experiment import Experiment
from client.versions.outcomes import ShownUsers
from common.config.serving import ServingConfig
from common.errors import CrossfedError, StoreError, told_of

_log = getLogger(__name__)
_RETENTION_SECONDS = 3600.0


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One loaded version.

    Attributes:
        version: its number in the store.
        loaded_at: seconds since 1970.
        recommender: answers for it.
        index_recall: as :func:`approximate_recall` says.
    """

    version: int
    loaded_at: float
    recommender: Recommender
    cached_users: int
    index_recall: Mapping[str, float] = field(default_factory=dict)
    _cache: OrderedDict[str, tuple[tuple[Event, ...], PreparedHistory]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def prepared(self, user_id: str, events: tuple[Event, ...], rules: EventRules) -> PreparedHistory:
        """A user's history with ``events``, the user's later ones, as ``rules`` have them; kept until there are others.

        Raises:
            DataError: neither the model nor the events know the user.
        """
        with self._lock:
            kept = self._cache.get(user_id)
            # The log hands out the same tuple until there is another event.
            if kept is not None and kept[0] is events:
                self._cache.move_to_end(user_id)
                return kept[1]
        prepared = self.recommender.prepare(self.recommender.history_of(user_id, events, rules))
        with self._lock:
            self._cache[user_id] = (events, prepared)
            while len(self._cache) > self.cached_users:
                self._cache.popitem(last=False)
        return prepared


def approximate_recall(recommender: Recommender, *, users: int = 50, k: int = 20, seed: int = 0) -> dict[str, float]:
    """Recall@k of approximate search against exact search, over random users, for each scope that is searched so.

    Args:
        recommender: of a loaded model; a scope below ``approximate_above`` is searched exactly and left out.
        users: how many users' own queries to try, at least 1.
        k: depth.
        seed: of the choice of users.
    """
    scopes = {
        name: scope
        for name, scope in (("own", recommender.own), ("cross", recommender.cross))
        if isinstance(scope.index, ApproximateIndex)
    }
    known = recommender.model.user_ids
    if not scopes or not known:
        return {}
    chosen = np.random.default_rng(seed).choice(len(known), size=min(users, len(known)), replace=False)
    prepared = [recommender.prepare(recommender.history_of(known[row])) for row in chosen]
    return {
        name: recall_against_exact(
            scope.index, scope.linear.items, np.stack([user.query(name).vector for user in prepared]), k
        )
        for name, scope in scopes.items()
    }


@lru_cache(maxsize=8)
def _as_needed(rules: EventRules, *, implicit: bool) -> EventRules:
    return replace(rules, meaning="weight" if implicit else "rating")


class ServingModel:
    """Holds the snapshot that serves, and the feedback since.

    Args:
        store: versions of the platform's model; may hold none yet.
        feedback: what users did since training.
        config: sizes and intervals.
        on_change: called after each swap, and after each failure with None.
        on_problems: told what is wrong with the store whenever that changes; empty where nothing is.
    """

    def __init__(
        self,
        store: PlatformStore,
        feedback: FeedbackLog | FeedbackReader,
        config: ServingConfig,
        *,
        on_change: Callable[[Snapshot | None], None] = lambda _: None,
        on_problems: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        self.feedback = feedback
        self.problems: tuple[str, ...] = ()
        """What is wrong with the store: the versions that cannot serve, with their files."""
        self._store = store
        self._config = config
        self._on_change = on_change
        self._on_problems = on_problems
        self._seen: tuple[object, ...] | None = None
        self._excluded_seen: tuple[object, ...] = ()
        self._aged_next = 0.0
        self._snapshot: Snapshot | None = None
        self._compared: tuple[Experiment, Snapshot] | None = None
        self._noted: ShownUsers | None = None
        self._loading = threading.Lock()
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="store-watch", daemon=True)

    @property
    def ready(self) -> bool:
        return self._snapshot is not None

    @property
    def rules(self) -> EventRules:
        """Return what events must be, and count for: as configured, or at least as the model that serves needs them."""
        rules, snapshot = self.feedback.rules, self._snapshot
        if rules.meaning is not None or snapshot is None:
            return rules
        return _as_needed(rules, implicit=snapshot.recommender.implicit)

    def snapshot(self) -> Snapshot:
        """The version that serves.

        Raises:
            StoreError: there is none yet.
        """
        found = self._snapshot
        if found is None:
            raise StoreError(
                "no model yet: it is there some minutes after the platform's first run, once the platform has built it; "
                "crossfed-client doctor says how far it is"
            )
        return found

    def snapshot_for(self, user_id: str) -> tuple[Snapshot, str]:
        """The version that a user is shown, and its variant; that is empty where no experiment splits users.

        Raises:
            StoreError: there is no model yet.
        """
        current, compared = self.snapshot(), self._compared
        if compared is None or compared[0].kind != "split":
            return current, ""
        experiment, challenger = compared
        variant = experiment.variant(user_id)
        return (challenger if variant == "challenger" else current), variant

    @property
    def shadow(self) -> Snapshot | None:
        """The version that makes lists which nobody is shown."""
        compared = self._compared
        return compared[1] if compared is not None and compared[0].kind == "shadow" else None

    def shown(self, user_id: str) -> None:
        """Note that a user was shown a list, where an experiment splits users."""
        noted, compared = self._noted, self._compared
        if noted is not None and compared is not None and noted.experiment is compared[0]:
            noted.note(user_id, int(time.time()))

    def prepared(self, snapshot: Snapshot, user_id: str) -> PreparedHistory:
        """Return what is known of a user, recorded feedback included.

        Raises:
            ContractError: the text is no user id.
            DataError: the user is not known.
        """
        same = required_identifier("user_id", user_id)
        return snapshot.prepared(same, self.feedback.events_of(same), self.rules)

    def reload(self) -> bool:
        """Serve the store's newest sound version, if it is not what serves; whether it was swapped.

        Raises:
            StoreError: none can be loaded; what served goes on serving.
        """
        with self._loading:
            aged = self._keep_within_retention()
            seen = self._store.signature()
            if seen == self._seen:
                return False
            excluded = self._store.exclusions_stamp()
            if left_out := excluded != self._excluded_seen:
                self.feedback.forget_excluded()
            # A reader does not know why a file has changed: somebody may have been taken out of the version that serves.
            anew = aged or left_out or not self.feedback.writes
            misnamed = self._store.misnamed()
            problems = [] if misnamed is None else [misnamed]
            loaded = self._newest_sound(problems, anew=anew)
            self._seen, self._excluded_seen = seen, excluded
            if loaded is not None:
                self._snapshot = loaded
            self._compare(problems, anew=anew)
            self._report(problems)
        if loaded is not None:
            self._on_change(loaded)
        return loaded is not None

    def _keep_within_retention(self) -> bool:
        """Let go of what is older than the platform keeps it, once an hour; whether a version had such interactions."""
        now = time.time()
        oldest = self.feedback.rules.oldest(now)
        if oldest is None or now < self._aged_next or not self.feedback.writes:
            return False
        self._aged_next = now + _RETENTION_SECONDS
        try:
            self.feedback.forget_older(oldest)
            return self._store.forget_older(oldest) > 0
        except StoreError as error:
            _log.error("what is older than retention_days could not be taken out: %s", error)
            return True

    def _compare(self, problems: list[str], *, anew: bool) -> None:
        """Take up, or let go of, the challenger of an experiment. Adds to ``problems``."""
        experiment, before, serving = self._store.experiments.current(), self._compared, self._snapshot
        if experiment is None or serving is None or experiment.version == serving.version:
            self._compared = self._noted = None
            return
        if before is not None and before[0] == experiment and not anew:
            return
        try:
            challenger = self._snapshot_of(experiment.version)
        except StoreError as error:
            problems.append(f"the challenger of an experiment: {error}")
            self._compared = self._noted = None
            return
        if experiment.kind == "split" and self.feedback.writes:
            self._noted = ShownUsers(self._store.experiments.shown_path, experiment)
        self._compared = experiment, challenger

    def _newest_sound(self, problems: list[str], *, anew: bool) -> Snapshot | None:
        """The first of the store's candidates that can be loaded; None where that is what serves. Adds to ``problems``.

        Args:
            problems: what is wrong with those before it.
            anew: whether even what serves is loaded again, since somebody is left out now who is in it.

        Raises:
            StoreError: none can.
        """
        for version in self._store.candidates():
            if not anew and self._snapshot is not None and self._snapshot.version == version:
                return None
            try:
                return self._snapshot_of(version)
            except StoreError as error:
                problems.append(str(error))
        self._report(problems)
        raise StoreError(problems[0])

    def _snapshot_of(self, version: int) -> Snapshot:
        with collector_paused():
            recommender = self._loaded(version)
            recall = approximate_recall(recommender)
        for scope, share in recall.items():
            _log.info(
                "version %d: approximate search finds %.1f %% of the exact best of %s", version, 100 * share, scope
            )
        return Snapshot(version, time.time(), recommender, self._config.cached_users, recall)

    def _report(self, problems: list[str]) -> None:
        """Say what is wrong with the store, once, and when it is mended."""
        if tuple(problems) == self.problems:
            return
        for problem in problems:
            if problem not in self.problems:
                _log.error("the model store is damaged: %s", problem)
                self._on_change(None)
        if not problems:
            _log.info("the model store is sound again")
        self.problems = tuple(problems)
        self._on_problems(self.problems)

    def _loaded(self, version: int) -> Recommender:
        model = self._store.load(version)
        try:
            recommender = Recommender(model, approximate_above=self._config.approximate_above)
            recommender.warm_up()
        except (ValueError, IndexError, KeyError) as error:
            raise StoreError(f"version {version} of the store does not hold together ({error}); train again") from error
        return recommender

    def start(self) -> None:
        """Load what is there, then watch the store in the background."""
        self._try_reload()
        self._watcher.start()

    def look(self) -> None:
        """Look for a new version now, in the background."""
        self._wake.set()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def _watch(self) -> None:
        told = ""
        while True:
            self._wake.wait(self._config.poll_seconds)
            if self._stopping.is_set():
                return
            # Cleared before looking, so that a version committed meanwhile is not missed.
            self._wake.clear()
            try:
                self._try_reload()
            except Exception as error:
                # The next look must take place: a person may be left out, or a new version be there.
                if told != (told := told_of(error)):
                    _log.error("the store could not be looked at, and is again: %s", told)

    def _try_reload(self) -> None:
        try:
            self.reload()
        except CrossfedError:
            # Reported already; before the first federation an empty store is no failure.
            return
