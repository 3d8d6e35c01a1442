"""A plan and the files of platforms that run as real processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.contributions.run_plan import read_plan
from simulations.engine.deployment import PlatformFiles

PLAN = read_plan(
    {
        "federation": "faults",
        "platforms": 2,
        "min_platforms": 2,
        "rounds": 4,
        "tolerance": 0,
        "model": {"dimension": 4},
        "privacy": {"mode": "none"},
    }
)


SETTINGS = {"personalization": {"tuning_candidates": 1, "anchored": False, "blend_weights": [1.0]}}


def make_files(folder: Path, name: str, offset: int) -> PlatformFiles:
    rng = np.random.default_rng(offset)
    files = PlatformFiles(folder / f"{name}.csv", folder / f"{name}-items.csv", "imdb")
    rows = [f"{name}-{user},{offset + item}" for user in range(60) for item in rng.permutation(30)[:8]]
    files.interactions.write_text("\n".join(["user_id,item_id", *rows]) + "\n")
    lines = [f"{offset + item},Film {offset + item}" for item in range(30)]
    files.items.write_text("\n".join(["item_id,title", *lines]) + "\n")
    return files
