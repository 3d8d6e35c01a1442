"""The bench of what is served against popularity: its figures are means over draws, and differences are paired."""

from __future__ import annotations

import pytest

from simulations.bench.privacy.over_popularity import over_popularity

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("epsilon", [None, 3.0])
def test_the_difference_is_that_of_the_means(epsilon: float | None) -> None:
    figures = over_popularity("commerce", [1, 2], epsilon, overrides=["plan.rounds=2"])
    assert len(figures["served_by_draw"]) == 2
    assert figures["mean"]["served"] == pytest.approx(sum(figures["served_by_draw"]) / 2)
    lower = []
    for own in figures["platforms"].values():
        difference = own["difference"]
        assert difference["mean"] == pytest.approx(own["served"] - own["popularity"])
        assert difference["lower"] <= difference["mean"] <= difference["upper"]
        lower.append(difference["lower"])
    assert figures["lowest_lower_end"] == min(lower)
