"""Public attributes of an item, as names of which the aggregator gets keyed digests and denoises released vectors with.

They are of the catalogue alone: no interaction is looked at, so they cost no privacy. What they give away is which
pseudonymous items have one in common (``privacy.item_features`` turns them off).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from common.attributes import AttributeKind, Value, values_of

_YEAR = re.compile(r"\(((?:1[5-9]|20)\d\d)\)\s*$")
_FIGURES = (2, 3)
"""Significant figures of a number: which scale tells items apart nobody knows beforehand."""
_STEP = 5
"""Years. Windows start this far apart, and each covers three steps."""


def public_attributes(title: str, genres: Sequence[str]) -> tuple[str, ...]:
    """Genres, and the overlapping fifteen-year windows that hold the year at the end of the title, if it ends with one.

    Items a few years apart have two windows in common, of one half-decade all three, thirteen years apart perhaps one: a
    coarse closeness, which an attribute that one has or has not can carry.

    >>> public_attributes("Alien (1979)", ["Horror"])
    ('genre:Horror', 'years:1970', 'years:1975', 'years:1980')
    >>> public_attributes("A lamp", [])
    ()
    """
    found = _YEAR.search(title)
    middle = int(found.group(1)) // _STEP * _STEP if found else 0
    windows = (middle - _STEP, middle, middle + _STEP) if found else ()
    return (*(f"genre:{genre}" for genre in genres), *(f"years:{window}" for window in windows))


def attribute_tokens(kinds: Mapping[str, AttributeKind], told: Mapping[str, Value]) -> Iterator[str]:
    """Names of what else is described of an item: values of categories, and numbers to two and to three figures.

    Texts and vectors have none: that two have one in common says little.

    >>> list(attribute_tokens({"maker": "category", "year": "number"}, {"maker": "Le Guin", "year": 1969.0}))
    ['maker=le guin', 'year~2.0e+03', 'year~1.97e+03']
    """
    for name, kind in kinds.items():
        value = told.get(name)
        if kind in ("category", "categories"):
            yield from dict.fromkeys(f"{name}={one.casefold()}" for one in values_of(value))
        elif kind == "number" and isinstance(value, float):
            yield from (f"{name}~{value:.{figures - 1}e}" for figures in _FIGURES)
