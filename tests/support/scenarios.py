"""Scenario files over tiny data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from simulations.scenarios.scenario import Scenario

N_ITEMS = 30


def scenario_of(folder: Path, **changes: Any) -> Scenario:
    rng = np.random.default_rng(0)
    lines = ["user_id,item_id,timestamp"]
    for user in range(40):
        weights = np.where(np.arange(N_ITEMS) % 2 == user % 2, 6.0, 1.0)
        items = rng.choice(N_ITEMS, 12, replace=False, p=weights / weights.sum())
        lines += [f"u{user},{item},{place}" for place, item in enumerate(items)]
    (folder / "all.csv").write_text("\n".join(lines) + "\n")
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"{i},T{i}\n" for i in range(N_ITEMS)))
    data = {
        "interactions": {"path": str(folder / "all.csv")},
        "items": {"path": str(folder / "items.csv"), "namespace": "item", "id_column": "item_id"},
    }
    return Scenario.model_validate(
        {
            "name": "tiny",
            "partition": {"data": data, "platforms": {"big": 3, "small": 1}, "common_items": 0.6},
            "plan": {"rounds": 3, "model": {"dimension": 4, "regularization": 2.0}, "privacy": {"mode": "none"}},
            "personalization": {"tuning_candidates": 1, "anchored": False, "blend_weights": [1.0]},
        }
        | changes
    )


def ratings_scenario(folder: Path) -> Scenario:
    """Ratings that a model can learn: users are generous or strict, items good or bad."""
    rng = np.random.default_rng(0)
    lines = ["user_id,item_id,rating"]
    for user in range(40):
        lines += [f"u{user},{item},{1 + (user % 2) + (item % 3)}" for item in rng.choice(30, 12, replace=False)]
    content: dict[str, Any] = scenario_of(folder).model_dump(mode="json", exclude_unset=True)
    (folder / "all.csv").write_text("\n".join(lines) + "\n")
    content["partition"]["data"]["feedback"] = "explicit"
    content["plan"]["model"] |= {"feedback": "explicit", "regularization": 0.5}
    content["cross"] = {"ceiling": False, "tune_beta": False}
    return Scenario.model_validate(content)
