"""Trying a user: the lists that somebody sees, with why, on the operator's own machine.

The id comes in a form and is in no address, no log and no page; the answer is made from the model that serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from client.data.reading.identifiers import required_identifier
from client.personalization.store import PlatformStore
from client.recommend.answers import Explanation, Recommendation, Scope
from client.recommend.recommender import Recommender
from common.errors import ContractError

SCOPES: Final[tuple[Scope, ...]] = ("all", "own", "cross")
MOST: Final = 20
_SHOWN: Final = 5


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One item of the list.

    Attributes:
        item: as recommended.
        why: its score taken apart; None for an item that cannot be named.
    """

    item: Recommendation
    why: Explanation | None


class Trial:
    """Answers from the version that serves, loaded once.

    Args:
        store: the platform's.
    """

    def __init__(self, store: PlatformStore) -> None:
        self._store = store
        self._signature: tuple[object, ...] | None = None
        self._recommender: Recommender | None = None

    def ask(self, user_id: str, k: str, scope: str) -> list[Tried]:
        """The list and its reasons.

        Raises:
            ContractError: a field is wrong; none of the messages says what was given.
            DataError: the model does not know the user.
            StoreError: there is no model.
        """
        if not k.isdecimal() or not 1 <= int(k) <= MOST:
            raise ContractError(f"how many: a whole number from 1 to {MOST}")
        chosen = next((one for one in SCOPES if one == scope), None)
        if chosen is None:
            raise ContractError(f"items: one of {', '.join(SCOPES)}")
        user = required_identifier("user", user_id)
        recommender = self._current()
        history = recommender.history_of(user)
        return [
            Tried(item=item, why=recommender.explain(history, item.key, limit=_SHOWN) if item.key else None)
            for item in recommender.recommend(user, int(k), chosen)
        ]

    def _current(self) -> Recommender:
        signature = self._store.signature()
        if self._recommender is None or signature != self._signature:
            self._recommender, self._signature = Recommender(self._store.load()), signature
        return self._recommender
