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
from tests.support.histories import CASES, Row, original, scenario_of, write


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


def results(
    folder: Path, case: str, rows: Mapping[str, list[Row]], weights: dict[str, float]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """``result.json`` and every byte of the final checkpoint and of the stores."""
    for name, part in rows.items():
        write(folder / "data", name, part)
    scenario = scenario_of(case, folder / "data")
    own = scenario.personalization.model_copy(update=weights)
    content = simulate(scenario.model_copy(update={"personalization": own}), folder / "out").content
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


def assert_scores_elsewhere_are_the_same(folder: Path) -> float:
    """Scorers of the others' items, their weights, and what they make of them. Returns how far users
    differ in it."""
    learned = 0.0
    for name in ("big", "small"):
        plain, future = (
            PlatformStore(folder / run / "out/platforms" / name / "store").load() for run in ("plain", "future")
        )
        kept = [{part.name: part.arrays() for part in model.cross.parts} for model in (plain, future)]
        assert kept[0].keys() == kept[1].keys()
        for part, arrays in kept[0].items():
            assert arrays.keys() == kept[1][part].keys()
            for array, values in arrays.items():
                assert values.tobytes() == kept[1][part][array].tobytes()
        assert (plain.cross.weights, plain.cross.beta) == (future.cross.weights, future.cross.beta)
        users = np.arange(plain.histories.n_users)
        scores = [model.cross_scorer().scores(model.on_vocabulary(model.histories), users) for model in (plain, future)]
        assert scores[0].tobytes() == scores[1].tobytes()
        learned += sum(plain.cross.weights.values()) * float(np.ptp(scores[0], axis=0).sum())
    return learned


@pytest.mark.parametrize("weights", [{}, {"attribute_weight": 2.0, "beta": 0.1}], ids=["chosen", "configured"])
@pytest.mark.parametrize("case", CASES)
def test_relabelling_held_out_items_changes_no_bit_of_what_is_learned(
    tmp_path: Path, case: str, weights: dict[str, float]
) -> None:
    rows = original(case)
    for name, part in rows.items():
        write(tmp_path / "plain" / "data", name, part)
    platforms = make_platforms(scenario_of(case, tmp_path / "plain" / "data"))
    other = relabelled(rows, platforms)
    changed = sum(a != b for name in rows for a, b in zip(rows[name], other[name], strict=True))
    assert changed > 40, "the future is another one"

    plain, plain_files = results(tmp_path / "plain", case, rows, weights)
    future, future_files = results(tmp_path / "future", case, other, weights)
    assert plain_files.keys() == future_files.keys()
    assert [name for name in plain_files if plain_files[name] != future_files[name]] == []
    assert len([name for name in plain_files if name.endswith("arrays.npz")]) == 2
    learned = assert_scores_elsewhere_are_the_same(tmp_path)
    assert learned > 0.01 or not weights, "popularity alone, where it is chosen, is the same for all"
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
