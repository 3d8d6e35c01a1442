"""Passports beside the model that serves: who brought what, and the bridges of the version that serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from logging import getLogger
from weakref import WeakKeyDictionary

import numpy as np

from client.passport.books import Receipt, Redeemed
from client.passport.desk import PassportDesk
from client.passport.envelope import Passport
from client.passport.use import PassportUse
from client.recommend.recommender import History, PreparedHistory, Recommender
from client.recommend.snapshot import ServingModel, Snapshot
from common.errors import CrossfedError, DataError

_log = getLogger(__name__)
_LOOK_SECONDS = 1.0
"""How soon a revocation by another process (``crossfed-client passport revoke``) is known here, and an expiry acted on."""


class PassportServing:
    """Answers for people who brought a passport. Safe for threads; bridges are learned in the background.

    Args:
        desk: issues and redeems.
        model: what serves.
        clock: monotonic seconds.
    """

    def __init__(self, desk: PassportDesk, model: ServingModel, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.desk = desk
        self._model, self._clock = model, clock
        self._lock = threading.Lock()
        self._by_user: dict[str, list[Redeemed]] = {}
        self._looked_at = -float("inf")
        self._version, self._expires = -1, float("inf")
        self._redemptions = 0
        # Of what serves, and of a challenger beside it; gone with the version.
        self._uses: WeakKeyDictionary[Recommender, PassportUse] = WeakKeyDictionary()
        self._learners: list[threading.Thread] = []

    def issue(self, user: str, receiver: str, account: str | None) -> tuple[Passport, Receipt]:
        """As :meth:`PassportDesk.issue`, from what serves and the feedback since."""
        snapshot = self._model.snapshot()
        history = self._model.prepared(snapshot, user).history
        return self.desk.issue(snapshot.recommender.model, history, user, receiver, account)

    def redeem(self, data: bytes, user: str) -> tuple[Receipt, bool]:
        """As :meth:`PassportDesk.redeem`; part of the next recommendation."""
        redeemed, before = self.desk.redeem(data, user)
        new = redeemed.receipt
        with self._lock:
            if before:
                # A newer one may have taken its place.
                self._by_user[user] = self.desk.books.redeemed(user)
            else:
                others = [one for one in self._by_user.get(user, []) if one.receipt.platform != new.platform]
                self._by_user[user] = [*others, redeemed]
            self._expires = min(self._expires, new.until)
            self._redemptions += 1
        return new, before

    def prepared(self, snapshot: Snapshot, user: str) -> PreparedHistory:
        """Return what is known of a user, passports included: whoever redeemed one need have no history here.

        Raises:
            DataError: nothing is known.
        """
        self._look()
        redeemed = self._by_user.get(user, [])
        brought = self.use(snapshot).brought(redeemed) if redeemed else None
        if brought is None and not redeemed:
            return self._model.prepared(snapshot, user)
        try:
            known = self._model.prepared(snapshot, user)
        except DataError:
            return snapshot.recommender.prepare(_NO_HISTORY, brought)
        return snapshot.recommender.prepare(known.history, brought)

    def visitor(self, snapshot: Snapshot, data: bytes) -> PreparedHistory:
        """For a person without an account; nothing is kept.

        Raises:
            PassportError: not a passport for this platform.
        """
        brought = self.use(snapshot).brought([self.desk.open_for_visitor(data)])
        return snapshot.recommender.prepare(_NO_HISTORY, brought)

    def use(self, snapshot: Snapshot) -> PassportUse:
        """Of a version that serves; its bridges are there once they have been learned."""
        self._look()
        with self._lock:
            found = self._uses.get(snapshot.recommender)
            if found is None:
                found = self._uses[snapshot.recommender] = PassportUse(snapshot.recommender, self.desk.texts)
                self._learn(found)
            return found

    def wait(self) -> None:
        """Return when bridges under way have been learned."""
        for learner in list(self._learners):
            learner.join()

    def close(self) -> None:
        self.wait()
        self.desk.books.close()

    def _look(self, *, now: bool = False) -> None:
        """Once a second: read what is in use anew where another process has written, or something has expired.

        A bridge that a passport no longer in use had a part in is forgotten at once.
        """
        if not now and self._clock() - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = self._clock()
        version = self.desk.books.version()
        if not now and version == self._version and time.time() < self._expires:
            return
        before = self._redemptions
        found: dict[str, list[Redeemed]] = {}
        for item in self.desk.books.redeemed():
            found.setdefault(item.receipt.user, []).append(item)
        with self._lock:
            if self._redemptions != before:
                # What was read may lack one that was redeemed here meanwhile: look again at the next request.
                self._looked_at, self._version = -float("inf"), -1
                return
            self._version, self._by_user = version, found
            used = [item.receipt for items in found.values() for item in items]
            self._expires = min((receipt.until for receipt in used), default=float("inf"))
            serials = {receipt.serial for receipt in used}
            for use in list(self._uses.values()):
                if not use.learned.serials <= serials:
                    use.forget()
                    self._learn(use)

    def _learn(self, use: PassportUse) -> None:
        """Under the lock: in the background, since thousands of holders take a while."""
        redeemed = [item for items in self._by_user.values() for item in items]

        def learn() -> None:
            try:
                for fitted in use.learn(redeemed).bridges.values():
                    _log.info(
                        "passports: a bridge from %d holders is %s (gain over popularity %.4f, at least %.4f)",
                        fitted.holders,
                        "not used" if fitted.bridge is None else "used",
                        fitted.gain.mean,
                        fitted.gain.lower,
                    )
            except CrossfedError as error:
                _log.error("passports: no bridge was learned, popularity ranks: %s", error)
            # A passport may have been revoked meanwhile.
            self._look(now=True)

        learner = threading.Thread(target=learn, name="passport-bridges", daemon=True)
        self._learners = [*(one for one in self._learners if one.is_alive()), learner]
        learner.start()


_NO_HISTORY = History(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int32))
