"""No model knows the future: what is held out can be anything, and training, tuning, verdict and store are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.personalization.store import PlatformStore
from simulations.engine.datasets import SimulatedPlatform, make_platforms
from simulations.run import simulate
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


def relabelled(rows: Mapping[str, list[Row]], platforms: list[SimulatedPlatform]) -> dict[str, list[Row]]:
    """The same rows, but what is held out of each user (test truth, hidden items) says other items and ratings."""
    rng = np.random.default_rng(9)
    new: dict[tuple[str, str], str] = {}
    for platform in platforms:
        keys = [key.removeprefix("item:") for key in platform.training.items.keys]
        full = platform.training.known
        for row, user in enumerate(platform.training.user_ids):
            taken = {keys[i] for i in full.row(row)} | {keys[i] for i in platform.test.history.row(row)}
            truth = [keys[i] for i in platform.test.truth.row(row)]
            free = rng.permutation([key for key in keys if key not in taken])
            new |= {(user, item): str(other) for item, other in zip(truth, free, strict=False)}
            if platform.hidden is not None:
                away = [key.removeprefix("item:") for key in platform.hidden.keys]
                seen = [away[i] for i in platform.hidden.interactions.row(row)]
                new |= {(user, item): str(other) for item, other in zip(seen, rng.permutation(away), strict=False)}
    return {
        name: [(u, new[u, i], int(rng.integers(1, 6)), t) if (u, i) in new else (u, i, r, t) for u, i, r, t in part]
        for name, part in rows.items()
    }


def results(folder: Path, case: str, rows: Mapping[str, list[Row]]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """``result.json`` and every byte of the final checkpoint and of the stores."""
    for name, part in rows.items():
        write(folder / "data", name, part)
    content = simulate(scenario_of(case, folder / "data"), folder / "out").content
    files = [
        *(folder / "out" / "platforms").glob("*/store/versions/**/*"),
        folder / "out/aggregator/checkpoints/round-000003.npz",
    ]
    read = {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}
    checkpoint = str(Path("out/aggregator/checkpoints/round-000003.npz"))
    with np.load(folder / checkpoint) as arrays:
        read |= {f"checkpoint {name}": arrays[name].tobytes() for name in arrays.files if name != "header"}
    del read[checkpoint]  # its header has times of day
    return content, read


def assert_scores_elsewhere_are_the_same(folder: Path) -> None:
    """Attributes, their weight, and what they make of the items of others; of something that was learned."""
    learned = 0.0
    for name in ("big", "small"):
        plain, future = (
            PlatformStore(folder / run / "out/platforms" / name / "store").load() for run in ("plain", "future")
        )
        kept = [{part.name: part.arrays() for part in model.cross.parts} for model in (plain, future)]
        assert kept[0]["attributes"].keys() == kept[1]["attributes"].keys()
        for array, values in kept[0]["attributes"].items():
            assert values.tobytes() == kept[1]["attributes"][array].tobytes()
        assert (plain.cross.weights, plain.cross.beta) == (future.cross.weights, future.cross.beta)
        users = np.arange(plain.histories.n_users)
        scores = [model.cross_scorer().scores(model.on_vocabulary(model.histories), users) for model in (plain, future)]
        assert scores[0].tobytes() == scores[1].tobytes()
        learned += plain.cross.weights["attributes"] * float(np.ptp(kept[0]["attributes"]["items"], axis=0).sum())
    assert learned > 0.01


@pytest.mark.parametrize("case", CASES)
def test_with_the_held_out_items_relabelled_nothing_that_was_learned_changes_by_a_bit(
    tmp_path: Path, case: str
) -> None:
    rows = original(case)
    for name, part in rows.items():
        write(tmp_path / "plain" / "data", name, part)
    platforms = make_platforms(scenario_of(case, tmp_path / "plain" / "data"))
    other = relabelled(rows, platforms)
    changed = sum(a != b for name in rows for a, b in zip(rows[name], other[name], strict=True))
    assert changed > 40, "the future is another one"

    plain, plain_files = results(tmp_path / "plain", case, rows)
    future, future_files = results(tmp_path / "future", case, other)
    assert plain_files.keys() == future_files.keys()
    assert [name for name in plain_files if plain_files[name] != future_files[name]] == []
    assert len([name for name in plain_files if name.endswith("arrays.npz")]) == 2
    assert_scores_elsewhere_are_the_same(tmp_path)
    for name, platform in plain["platforms"].items():
        assert platform["verdict"] == future["platforms"][name]["verdict"]
    assert [r["objective"] for r in plain["rounds"]] == [r["objective"] for r in future["rounds"]]
    assert [r["recall"] for r in plain["rounds"]] == [r["recall"] for r in future["rounds"]]
    # What is measured does change: the figures are of the future.
    assert json.dumps(plain["platforms"]) != json.dumps(future["platforms"])


@pytest.mark.parametrize("case", CASES)
def test_no_held_out_interaction_is_in_what_an_agent_gets(tmp_path: Path, case: str) -> None:
    for name, part in original(case).items():
        write(tmp_path, name, part)
    for platform in make_platforms(scenario_of(case, tmp_path)):
        truth = platform.test.truth
        held_out = set(zip(truth.entry_users().tolist(), truth.indices.tolist(), strict=True))
        assert held_out
        training = platform.training
        for part in (training.train, training.validation.history, training.validation.truth, training.known):
            assert not held_out & set(zip(part.entry_users().tolist(), part.indices.tolist(), strict=True))
        if platform.hidden is not None:
            assert not set(platform.hidden.keys) & set(training.items.keys)
