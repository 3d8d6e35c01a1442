from __future__ import annotations

from itertools import pairwise

import pytest

from common.privacy.attributes import public_attributes


def years(title: str) -> set[str]:
    return set(public_attributes(title, []))


def test_genres_and_years_are_told_apart() -> None:
    assert public_attributes("Alien (1979)", ["Horror", "Sci-Fi"])[:2] == ("genre:Horror", "genre:Sci-Fi")
    assert not years("Alien (1979)") & {f"genre:{name}" for name in ("1970", "1975", "1980")}


@pytest.mark.parametrize("title", ["Alien", "1984", "Apollo (13)", "Alien (1979) again", "Room (0237)", ""])
def test_a_title_without_a_year_at_its_end_has_none(title: str) -> None:
    assert years(title) == set()


def test_nearer_years_have_more_windows_in_common() -> None:
    shared = [len(years("A (1960)") & years(f"B ({1960 + gap})")) for gap in range(25)]
    assert shared[0] == 3
    assert shared[24] == 0
    assert all(near >= far for near, far in pairwise(shared))
    assert set(shared) == {3, 2, 1, 0}
