"""Sample lists: what a platform would recommend to people who do not exist, and to real users only where asked for by name.

A made-up person has had the most widespread items of one genre of the platform's catalogue; without genres, of one value of the
first category that is described, or of the catalogue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from client.personalization.platform_model import PlatformModel
from client.personalization.store import PlatformStore
from client.recommend.answers import Recommendation
from client.recommend.recommender import PreparedHistory, Recommender
from common.errors import ConfigError

LISTED, PEOPLE, HAD = 5, 3, 3


@dataclass(frozen=True, kw_only=True)
class SampleList:
    """One person's lists.

    Attributes:
        genre: that the made-up person likes; None for one who likes all, and for a real user.
        real: whether it is a user of the platform, whom the reader asked for.
        had: titles of the history, the newest last; of a real user the last few.
        own, cross: the best of the platform's items, and of the others'.
    """

    genre: str | None
    real: bool
    had: tuple[str, ...]
    own: tuple[Recommendation, ...]
    cross: tuple[Recommendation, ...]


def sample_lists(run: Path, users: Sequence[str] = ()) -> dict[str, list[SampleList]]:
    """Lists by platform, from the stores of a run.

    Args:
        run: what ``crossfed-simulate run --output`` wrote.
        users: ``PLATFORM:ID`` of real users to show as well.

    Raises:
        ConfigError: there is no such platform.
        DataError: there is no such user.
    """
    asked = _by_platform(users)
    found: dict[str, list[SampleList]] = {}
    for store in sorted((run / "platforms").glob("*/store")):
        model = PlatformStore(store).load()
        recommender = Recommender(model)
        found[model.platform] = [
            _lists(recommender, genre, items) for genre, items in islice(_tastes(model).items(), PEOPLE)
        ]
        for user in asked.pop(model.platform, ()):
            found[model.platform].append(_of_user(recommender, user))
    if asked:
        raise ConfigError(f"--user {next(iter(asked))}:…: the run has the platforms {', '.join(found)}")
    return found


def _by_platform(users: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in users:
        platform, colon, user = text.partition(":")
        if not colon:
            raise ConfigError("--user: write PLATFORM:ID, such as forum:3")
        found.setdefault(platform, []).append(user)
    return found


def _tastes(model: PlatformModel) -> Mapping[str | None, list[int]]:
    """Own items by genre, the genres with most items first; without genres by another category, or all of them."""
    told = [values for _, values in model.own.described.categories() if any(values)]
    genres_of = told[0] if told else ((),) * len(model.own.keys)
    counts = Counter(genre for genres in genres_of for genre in genres)
    # Most widespread first: had by most platforms' catalogues and by most users.
    popularity = model.histories.item_counts()
    order = [int(item) for item in np.argsort(-popularity, kind="stable") if model.own.keys[item]]
    if not counts:
        return {None: order[:HAD]}
    tastes: dict[str | None, list[int]] = {}
    for genre, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:PEOPLE]:
        tastes[genre] = [item for item in order if genre in genres_of[item]][:HAD]
    return tastes


def _lists(recommender: Recommender, genre: str | None, items: Sequence[int]) -> SampleList:
    own = recommender.model.own
    value = float(np.max(recommender.model.histories.values, initial=1.0))
    history, _ = recommender.history_from([(own.keys[item], value) for item in items])
    return _answered(
        recommender, recommender.prepare(history), genre, tuple(own.titles[item] for item in items), real=False
    )


def _of_user(recommender: Recommender, user: str) -> SampleList:
    history = recommender.history_of(user)
    titles = tuple(recommender.model.own.titles[column] for column in history.columns[-LISTED:])
    return _answered(recommender, recommender.prepare(history), None, titles, real=True)


def _answered(
    recommender: Recommender, prepared: PreparedHistory, genre: str | None, had: tuple[str, ...], *, real: bool
) -> SampleList:
    own = recommender.recommend_for(prepared, LISTED, "own")
    cross = recommender.recommend_for(prepared, LISTED, "cross")
    return SampleList(genre=genre, real=real, had=had, own=tuple(own), cross=tuple(cross))
