"""People who use several platforms: who is whom, and whose history on one of them is hidden altogether."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import PlatformData, UserItemMatrix
from common.errors import DataError


@dataclass(frozen=True, eq=False)
class People:
    """Who the users of a platform are.

    Attributes:
        users: who each user of the platform is, in order of row.
        cold: people who are no users of it any more, since their history is hidden altogether.
        hidden: their rows, over the platform's items.
    """

    users: tuple[str, ...]
    cold: tuple[str, ...]
    hidden: UserItemMatrix

    def select_items(self, items: NDArray[np.integer]) -> People:
        """Over the items ``items`` alone."""
        return replace(self, hidden=self.hidden.select_items(items))


def hide_people(
    platforms: Sequence[tuple[PlatformData, tuple[str, ...]]], share: float, rng: np.random.Generator
) -> list[tuple[PlatformData, People]]:
    """Of some people common to several platforms, hide the whole history on one: on each of their platforms in turn.

    Args:
        platforms: data, and who each user is.
        share: of the common people.
        rng: chooses them.

    Raises:
        DataError: no person is on two platforms, or a platform is left without users.
    """
    places: dict[str, list[int]] = {}
    for place, (_, persons) in enumerate(platforms):
        for person in dict.fromkeys(persons):
            places.setdefault(person, []).append(place)
    common = sorted(person for person, mine in places.items() if len(mine) > 1)
    if not common:
        raise DataError("passport: no person is on two platforms; name the column that tells by passport.person_column")
    chosen = [common[place] for place in rng.permutation(len(common))[: round(share * len(common))]]
    cold_at = {person: places[person][turn % len(places[person])] for turn, person in enumerate(chosen)}
    return [_without(data, persons, place, cold_at) for place, (data, persons) in enumerate(platforms)]


def _without(
    data: PlatformData, persons: tuple[str, ...], place: int, cold_at: dict[str, int]
) -> tuple[PlatformData, People]:
    cold = np.array([cold_at.get(person) == place for person in persons], dtype=bool)
    kept = np.flatnonzero(~cold & (data.interactions.row_lengths > 0))
    if len(kept) == 0:
        raise DataError("passport.cold: a platform is left without users; hide fewer")
    people = People(
        tuple(persons[row] for row in kept),
        tuple(persons[row] for row in np.flatnonzero(cold)),
        data.interactions.select_users(np.flatnonzero(cold)),
    )
    left = replace(
        data,
        user_ids=tuple(data.user_ids[row] for row in kept),
        interactions=data.interactions.select_users(kept),
        users=None if data.users is None else data.users[kept],
    )
    return left, people
