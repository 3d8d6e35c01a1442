"""Flower's own simulation engine gives what the inline grid gives: same server, same courier, same agents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
from simulations.run import simulate
from simulations.scenarios.scenario import load_scenario

small = ["plan.rounds=2", "personalization.tuning_candidates=1", "personalization.anchored=false", "price_at=[]",
         "cross.ceiling=false", "cross.tune_beta=false"]
folder = Path(sys.argv[1])
for backend in ("inline", "ray"):
    result = simulate(load_scenario("quickstart", small), folder / backend, backend=backend)
    state = result.outcome.state
    (folder / f"{backend}.json").write_text(json.dumps([state.objectives, state.item_parameters.tolist()]))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A process of its own: Ray and Flower change the process that they run in.
    folder = tmp_path_factory.mktemp("backends")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_raylet_start_wait_time_s": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_both_backends_come_to_the_same_factors(outcomes: Path) -> None:
    (inline_objectives, inline), (ray_objectives, ray) = (
        json.loads((outcomes / f"{backend}.json").read_text()) for backend in ("inline", "ray")
    )
    assert len(inline_objectives) == 2
    np.testing.assert_allclose(ray_objectives, inline_objectives, rtol=1e-6)
    np.testing.assert_allclose(ray, inline, rtol=1e-5, atol=1e-6)


def test_both_backends_write_the_same_figures(outcomes: Path) -> None:
    figures = [json.loads((outcomes / backend / "result.json").read_text()) for backend in ("inline", "ray")]
    assert [content["backend"] for content in figures] == ["inline", "ray"]
    assert figures[0]["platforms"] == figures[1]["platforms"]
