"""The bench of what is served against popularity: its figures are means over draws, and differences are paired."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ConfigError
from simulations.bench.privacy.over_popularity import over_popularity
from simulations.scenarios.scenario import shipped_scenarios

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


def test_a_scenario_that_hides_nothing_is_named(tmp_path: Path) -> None:
    shipped = shipped_scenarios()["commerce"]
    path = tmp_path / "open.yaml"
    text = shipped.read_text().replace("hide_shared: 0.2", "hide_shared: 0.0")
    path.write_text(text.replace("../data", str(shipped.parent.parent / "data")))
    with pytest.raises(ConfigError, match="hides none"):
        over_popularity(str(path), [1])
