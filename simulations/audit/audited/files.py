"""Neighbouring data sets as files: what a platform has on disk with one person more or less.

People are rows of an interactions file and lines of a feedback log, ids and values as strangers write them. The items file
is the same in both: a catalogue does not depend on who is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.recommend.feedback_file import FeedbackEvent, header, line_of

ITEMS, UNTOUCHED = 40, 4
"""Items of the catalogue, and how many of them, the last, nobody ever touches."""
NAMESPACE = "audit"
PERSON = "Tess"
"""Whose presence is audited. Some of this id's interactions are held back to choose models: the split is on the path, too."""
_TOUCHED = ITEMS - UNTOUCHED
_START = 1_700_000_000


@dataclass(frozen=True)
class Entry:
    """One interaction: the id as it is written, the item's number, value and time as text."""

    user: str
    item: int
    value: str = "1"
    time: int = _START


@dataclass(frozen=True)
class Person:
    """Holds what there is of one person, in the file and in the feedback log."""

    rows: tuple[Entry, ...] = ()
    feedback: tuple[Entry, ...] = ()


def population(seed: int, users: int) -> list[Person]:
    """People with a few items each, popular ones more often; one in four has recorded feedback besides."""
    rng = np.random.default_rng([seed, 1])
    popularity = 1 / (1 + np.arange(_TOUCHED))
    people = []
    for user in range(users):
        chosen = rng.choice(
            _TOUCHED, size=int(rng.integers(3, 12)), replace=False, p=popularity / popularity.sum()
        ).tolist()
        name = f"person-{seed}-{user:02d}"
        rows = tuple(Entry(name, item, str(1 + item % 3), _START + place) for place, item in enumerate(chosen))
        recorded = (Entry(name, int(rng.integers(_TOUCHED)), "2", _START + 99),) if user % 4 == 0 else ()
        people.append(Person(rows, recorded))
    return people


def saturating(name: str = PERSON) -> Person:
    """Has every item that anybody has, so that all bounds are met: the worst case of the claim."""
    return Person(tuple(Entry(name, item, "1", _START + item) for item in range(_TOUCHED)))


def written_in_many_ways(name: str = PERSON) -> Person:
    """The same with one id in several spellings, values that are none, and feedback that no reader has cleaned."""
    spellings = (name, f"{name} ", f" {name}", f"{name}\t")
    values = ("1", "3", "-1", "0", "1e30", "nan", "many", "")
    rows = [
        Entry(spellings[item % 3], item, values[(item + copy) % len(values)], _START + item + copy)
        for item in range(_TOUCHED)
        for copy in range(2)
    ]
    feedback = [
        Entry(spellings[place % 4], (5 * place) % _TOUCHED, value, _START + 200 + place)
        for place, value in enumerate(("1", "2", "-0.01", "0", "-5", "1e30", "3", "1", "1", "1", "1", "1"))
    ]
    return Person(tuple(rows), tuple(feedback))


def recorded_only(name: str = PERSON) -> Person:
    """Known from recorded feedback alone, under several spellings of one id, each of them with all items."""
    spellings = (name, f"{name} ", f" {name}")
    return Person(
        feedback=tuple(
            Entry(spelling, item, "-0.01" if item == 7 else "1", _START + item + place)
            for place, spelling in enumerate(spellings)
            for item in range(_TOUCHED)
        )
    )


def of_rare_items(name: str = PERSON) -> Person:
    """Has only the items that pruning drops and a few that few have."""
    return Person(tuple(Entry(name, item, "1", _START + item) for item in range(_TOUCHED // 2, _TOUCHED)))


CANARIES = {
    "every item": saturating(),
    "one id in many spellings": written_in_many_ways(),
    "recorded feedback alone": recorded_only(),
    "rare items": of_rare_items(),
}


def write_files(folder: Path, people: Sequence[Person]) -> None:
    """``items.csv``, ``interactions.csv`` and the feedback log of a platform whose folder this is."""
    store = folder / "state" / "store"
    store.mkdir(parents=True, exist_ok=True, mode=0o700)
    catalogue = [f"item_id,{NAMESPACE}_id,title,genres"]
    catalogue += [f"i{item},{item},Thing {item},{'ABC'[item % 3]}" for item in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(catalogue) + "\n", encoding="utf-8")
    # Entries of different people stand among one another, as in any file that is in order of time.
    entries = sorted((entry for person in people for entry in person.rows), key=lambda entry: (entry.time, entry.item))
    lines = ["user_id,item_id,weight,timestamp"]
    lines += [f"{entry.user},i{entry.item},{entry.value},{entry.time}" for entry in entries]
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recorded = [entry for person in people for entry in person.feedback]
    events = [
        FeedbackEvent(
            number, f"event-{number}", entry.user, f"{NAMESPACE}:{entry.item}", float(entry.value), entry.time
        )
        for number, entry in enumerate(recorded, start=1)
    ]
    (store / "feedback.log").write_bytes(header(len(events) + 1) + (line_of(events) if events else b""))
