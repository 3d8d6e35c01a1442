"""Makes the synthetic data of the scenarios that show how a domain is set up: ``python -m tools.synthetic_data``.

No real person, product, brand or channel is in it. Users have tastes for what the items' descriptions say (a category, a
maker), for a hidden side that nobody describes, and for what is popular; so descriptions say something and not everything.
Only numbers drawn uniformly are used, since their streams are the same in every release of NumPy.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent.parent / "simulations" / "data" / "synthetic"

_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbor", "iris", "juniper", "kelp", "lumen", "maple",
          "nova", "opal", "pine", "quartz", "reed", "sierra", "tundra", "umber", "vale", "willow", "zephyr")  # fmt: skip


@dataclass(frozen=True)
class Domain:
    """A synthetic domain.

    Attributes:
        name: of its folder.
        platforms: users by platform.
        catalogue: file name of the items, ``PLATFORM-`` before it; likewise ``events`` of the interactions.
        categories, nouns: what an item is called goes by its category.
        makers: how many brands, channels or places there are.
        item_header, item_row: of the items file, from the item's number and what is drawn for it.
        event_header, event_row: of the interactions file, from user, item, time and a number in [0, 1).
    """

    name: str
    platforms: dict[str, int]
    catalogue: str
    events: str
    categories: tuple[str, ...]
    nouns: tuple[str, ...]
    makers: int
    item_header: str
    item_row: Callable[[_Item], str]
    event_header: str
    event_row: Callable[[str, str, int, float], str]


@dataclass(frozen=True)
class _Item:
    key: str
    title: str
    category: str
    other: str
    maker: str
    number: float

    @property
    def tags(self) -> str:
        """The category, and another one where it is another."""
        return "|".join(dict.fromkeys((self.category, self.other)))


_N_ITEMS, _COMMON, _SIDES = 320, 0.6, 3
_DAY = 86_400
_START = 1_704_067_200  # 2024-01-01


def make(domain: Domain, seed: int) -> dict[str, str]:
    """Content by file name."""
    rng = np.random.default_rng([seed, len(domain.name)])
    category = _whole(rng, len(domain.categories), _N_ITEMS)
    maker = _whole(rng, domain.makers, _N_ITEMS)
    # A maker stays mostly with one category.
    category = np.where(rng.random(_N_ITEMS) < 0.7, maker % len(domain.categories), category)
    hidden = rng.random((_N_ITEMS, _SIDES)) - 0.5
    popularity = -0.8 * np.log(1 + np.argsort(np.argsort(rng.random(_N_ITEMS))))
    items = [_item(domain, i, category[i], maker[i], rng) for i in range(_N_ITEMS)]
    n_common, names = round(_COMMON * _N_ITEMS), list(domain.platforms)
    files = {}
    for place, (name, users) in enumerate(domain.platforms.items()):
        has = np.array([i < n_common or i % len(names) == place for i in range(_N_ITEMS)])
        rows = [domain.item_row(items[i]) for i in np.flatnonzero(has)]
        files[f"{name}-{domain.catalogue}.csv"] = "\n".join([domain.item_header, *rows]) + "\n"
        events = []
        for user in range(users):
            score = popularity + _taste(rng, category, 3.0) + _taste(rng, maker, 2.5)
            score += 4 * hidden @ (rng.random(_SIDES) - 0.5) - np.log(-np.log(rng.random(_N_ITEMS)))
            score[~has] = -np.inf
            n = 5 + int(12 * rng.random() ** 2)
            times = np.sort(_whole(rng, 365 * _DAY, n)) + _START
            chosen = np.argsort(-score, kind="stable")[:n]
            events += [
                domain.event_row(f"{name[0]}{user:04d}", items[i].key, int(time), rng.random())
                for i, time in zip(chosen, times, strict=True)
            ]
        files[f"{name}-{domain.events}.csv"] = "\n".join([domain.event_header, *events]) + "\n"
    return files


def _taste(rng: np.random.Generator, of: NDArray[np.int64], strength: float) -> NDArray[np.float64]:
    """A user likes few of the groups much."""
    liking: NDArray[np.float64] = strength * rng.random(int(of.max()) + 1) ** 4
    return liking[of]


def _whole(rng: np.random.Generator, below: int, n: int) -> NDArray[np.int64]:
    return np.floor(rng.random(n) * below).astype(np.int64)


def _item(domain: Domain, index: int, category: int, maker: int, rng: np.random.Generator) -> _Item:
    first, second, third = (_WORDS[int(rng.random() * len(_WORDS))] for _ in range(3))
    other = domain.categories[int(rng.random() * len(domain.categories))]
    return _Item(
        key=f"{index:05d}",
        title=f"{first} {second} {domain.nouns[category]} {third}".capitalize(),
        category=domain.categories[category],
        other=other,
        maker=f"{_WORDS[maker % len(_WORDS)]}-{maker // len(_WORDS) + 1}",
        number=float(rng.random()),
    )


def _day(time: int) -> str:
    return str(np.datetime64(time, "s").astype("datetime64[D]"))


COMMERCE = Domain(
    name="commerce",
    platforms={"north": 420, "south": 300, "market": 180},
    catalogue="articles",
    events="orders",
    categories=("kitchen", "garden", "toys", "office", "sports", "lighting", "storage", "textiles"),
    nouns=("pan", "rake", "puzzle", "folder", "racket", "lamp", "shelf", "blanket"),
    makers=40,
    item_header="gtin,name,brand,category,price",
    item_row=lambda item: f"{item.key},{item.title},{item.maker},{item.category},{4 * 40**item.number:.2f}",
    event_header="customer,gtin,ordered_at,quantity",
    event_row=lambda user, item, time, chance: f"{user},{item},{_day(time)},{1 + int(3 * chance**3)}",
)
SOCIAL = Domain(
    name="social",
    platforms={"plaza": 420, "commons": 300},
    catalogue="accounts",
    events="follows",
    categories=("music", "science", "cooking", "football", "travel", "comics", "nature", "software"),
    nouns=("band", "laboratory", "kitchen", "club", "guide", "studio", "reserve", "collective"),
    makers=24,
    item_header="handle,name,topics,place,active_years",
    item_row=lambda item: f"{item.key},{item.title},{item.tags},{item.maker},{1 + int(12 * item.number)}",
    event_header="follower,handle,since",
    event_row=lambda user, item, time, chance: f"{user},{item},{_day(time)}",
)
VIDEO = Domain(
    name="video",
    platforms={"stream": 420, "clips": 300, "school": 180},
    catalogue="videos",
    events="views",
    categories=("cooking", "physics", "history", "chess", "drawing", "cycling", "coding", "gardening"),
    nouns=("recipe", "experiment", "story", "opening", "sketch", "tour", "lesson", "harvest"),
    makers=40,
    item_header="video,title,channel,tags,minutes",
    item_row=lambda item: f"{item.key},{item.title},{item.maker},{item.tags},{2 + int(58 * item.number)}",
    event_header="viewer,video,watched_at,share_watched",
    event_row=lambda user, item, time, chance: f"{user},{item},{_day(time)},{1 - 0.8 * chance**2:.2f}",
)
DOMAINS: Sequence[Domain] = (COMMERCE, SOCIAL, VIDEO)


def main() -> None:
    """Write every file anew."""
    for domain in DOMAINS:
        folder = FOLDER / domain.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in make(domain, seed=7).items():
            (folder / f"{name}.gz").write_bytes(gzip.compress(content.encode(), mtime=0))


if __name__ == "__main__":
    main()
