"""A race goes on to its end whoever answers a step: whose neighbours have joined stays so."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.contributions.run_plan import read_plan
from server.aggregation.halving import FIRST, Sizes
from server.aggregation.race import Race

PLAN = read_plan({"rounds": 12, "model": "auto", "privacy": {"mode": "none"}})


@pytest.mark.parametrize("missing_after", [1, 80, 120])
def test_a_platform_that_misses_steps_unsettles_no_race(missing_after: int) -> None:
    """With fewer validation users less is surely better; settings that have joined by then stay in the race."""
    race = Race(PLAN, Sizes(20.0, 500.0, 0.0), np.full((len(FIRST), 13), np.nan), {})
    steps, most = 0, 0
    while race.turn is not None:
        worth = 0.2 + 0.01 * math.log2(race.model.dimension)
        validated = 100_000.0 if steps < missing_after else 100.0
        race = race.after_step(worth, np.zeros((3, 2), dtype=np.float32), validated=validated)
        most, steps = max(most, len(race.standing.settings)), steps + 1
        assert len(race.standing.settings) == len(race.scores) == most
    assert most > len(FIRST)
