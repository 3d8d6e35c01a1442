"""Trying a user: the lists that somebody sees, with why, on the operator's own machine.

The id comes in a form and is in no address, no log and no page. The running recommender is asked where it answers, as an
application would ask it, so that later feedback, hidden items and steering count; else the stored model that serves.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from client.data.reading.identifiers import required_identifier
from client.deploy.agent_process import listeners
from client.personalization.store import PlatformStore
from client.recommend.answers import Explanation, Recommendation, Scope
from client.recommend.recommender import Recommender
from client.service.client import RecommenderClient
from client.tokens import read_token
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError, ContractError, PlatformError

SCOPES: Final[tuple[Scope, ...]] = ("all", "own", "cross")
MOST: Final = 20
_SHOWN: Final = 5
_SECONDS: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One item of the list.

    Attributes:
        item: as recommended.
        why: its score taken apart; None for an item that cannot be named.
    """

    item: Recommendation
    why: Explanation | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Attributes:
    tried: the list.
    running: whether the running recommender gave it, and not the stored model.
    """

    tried: list[Tried]
    running: bool


class Trial:
    """Asks for a user's list, and loads the stored model once where it is needed."""

    def __init__(self) -> None:
        self._signature: tuple[object, ...] | None = None
        self._recommender: Recommender | None = None

    def ask(self, config: PlatformConfig, user_id: str, k: str, scope: str) -> Answer:
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
        # Without an answer from there the stored model has one.
        with suppress(PlatformError, ConfigError):
            if any(each.what == "recommender" and each.answers() for each in listeners(config, "all")):
                return Answer(tried=_of_running(config, user, int(k), chosen), running=True)
        return Answer(tried=self._of_stored(config, user, int(k), chosen), running=False)

    def _of_stored(self, config: PlatformConfig, user: str, k: int, scope: Scope) -> list[Tried]:
        recommender = self._current(PlatformStore(config.state / "store"))
        history = recommender.history_of(user)
        return [
            Tried(item=item, why=recommender.explain(history, item.key, limit=_SHOWN) if item.key else None)
            for item in recommender.recommend(user, k, scope)
        ]

    def _current(self, store: PlatformStore) -> Recommender:
        signature = store.signature()
        if self._recommender is None or signature != self._signature:
            self._recommender, self._signature = Recommender(store.load()), signature
        return self._recommender


def _of_running(config: PlatformConfig, user: str, k: int, scope: Scope) -> list[Tried]:
    settings = config.recommender
    authority = None if settings.certificate is None else settings.certificate.parent / "applications-ca.pem"
    target, token = f"localhost:{settings.port}", read_token(settings.token_file)
    with RecommenderClient(
        target, token=token, root_certificates=authority, timeout=_SECONDS, retry=False
    ) as recommender:
        return [
            Tried(item=item, why=recommender.explain(user, item.key, limit=_SHOWN) if item.key else None)
            for item in recommender.recommend(user, k, scope)
        ]
