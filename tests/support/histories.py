"""Histories in order of time, and scenarios over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from simulations.scenarios.scenario import Scenario

N_ITEMS = 36


GENRES = ("A", "B", "C", "D", "E")


Row = tuple[str, str, int, int]


PLAN = {
    "rounds": 3,
    "tolerance": 0,
    "model": {"dimension": 4, "regularization": 2.0, "unobserved_weight": 0.3},
    "privacy": {"mode": "none"},
}


PERSONALIZATION = {"tuning_candidates": 2, "blend_weights": [1.0]}


TUNING = {"attribute_weights": [0.5, 1.0], "betas": [0.1, 0.2, 0.5, 1.0], "tuning_draws": 2}


def random_rows(seed: int, users: range, liked: int) -> list[Row]:
    """Users with tastes, so that there is something to learn: user, item, rating, time."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in users:
        weights = np.where(np.arange(N_ITEMS) % 3 == user % 3, 6.0, 1.0)
        items = rng.choice(
            N_ITEMS, size=int(rng.integers(liked // 2, liked * 2)), replace=False, p=weights / weights.sum()
        )
        rows += [(f"u{user}", str(item), int(rng.integers(1, 6)), 1000 + place) for place, item in enumerate(items)]
    return rows


def write(folder: Path, name: str, rows: list[Row]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    lines = ["user_id,item_id,rating,timestamp", *(f"{u},{i},{r},{t}" for u, i, r, t in rows)]
    path.write_text("\n".join(lines) + "\n")
    items = folder / "items.csv"
    # Public attributes that tell tastes, so that there is something to learn of them, too.
    described = (f"{i},Item {i} ({1960 + 20 * (i % 3)}),{GENRES[i % 3]}|{GENRES[i % 5]}\n" for i in range(N_ITEMS))
    items.write_text("item_id,title,genres\n" + "".join(described))
    return path


def data_of(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    items = {"path": str(folder / "items.csv"), "id_column": "item_id", "namespace": "item", "title_column": "title"}
    return {"interactions": {"path": str(folder / f"{name}.csv")}, "items": items} | changes


def partitioned(folder: Path, **changes: Any) -> dict[str, Any]:
    source = {"data": data_of(folder, "all", **changes), "platforms": {"big": 3, "small": 1}, "common_items": 0.6}
    return {"partition": source}


def separate(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "platforms": [
            {"name": "big", "data": data_of(folder, "big", **changes), "hide_shared": 0.3},
            {"name": "small", "data": data_of(folder, "small", **changes)},
        ]
    }


CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "random per user": (partitioned, {"protocol": "random-per-user"}, {}),
    "last out": (partitioned, {"protocol": "leave-last-out", "validation_users": 0.5}, {}),
    "strong generalisation": (partitioned, {"protocol": "strong-generalisation", "test_users": 0.2}, {}),
    "separate platforms": (separate, {"protocol": "random-per-user"}, {}),
    "explicit": (separate, {"protocol": "random-per-user"}, {"feedback": "explicit"}),
    "minimum counts": (separate, {"protocol": "random-per-user"}, {"cleaning": {"min_item_interactions": 3}}),
    "k-core": (separate, {"protocol": "leave-last-out"}, {"cleaning": {"k_core": 3}}),
}


def scenario_of(case: str, folder: Path) -> Scenario:
    source, split, changes = CASES[case]
    plan = PLAN | {"model": PLAN["model"] | {"feedback": changes.get("feedback", "implicit")}}  # type: ignore[operator]
    return Scenario.model_validate(
        source(folder, **changes)
        | {
            "name": "future",
            "seed": 4,
            "split": split,
            "plan": plan,
            "personalization": PERSONALIZATION,
            "cross": {"ceiling": False, **TUNING},
        }
    )


def original(case: str) -> dict[str, list[Row]]:
    if CASES[case][0] is partitioned:
        return {"all": random_rows(1, range(40), 12)}
    return {"big": random_rows(1, range(30), 12), "small": random_rows(2, range(100, 112), 8)}
