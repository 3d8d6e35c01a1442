"""Public attributes of an item, as names of which the aggregator gets keyed digests and denoises released vectors with.

They are of the catalogue alone: no interaction is looked at, so they cost no privacy. What they give away is which
pseudonymous items have one in common (``privacy.item_features`` turns them off).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_YEAR = re.compile(r"\(((?:1[5-9]|20)\d\d)\)\s*$")
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
