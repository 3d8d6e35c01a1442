"""Runs that crossfed 96db9a8 had begun go on with this one: ledgers, journals, checkpoints and the secure sum's keys open.

``tests/fixtures/runs-of-96db9a8.tar.gz`` holds a run in each mode of privacy, of the platforms of ``private_platforms()``,
with item-item statistics, stopped after the first of two rounds. ``none/expected.npz`` is what the whole run came to there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from client.privacy.report import verify_logs
from common.config.federation import FederationPlan
from server.federation.checkpoint import CheckpointStore
from simulations.engine.federate import FederationOutcome
from tests.private_support import charges_of, private_platforms
from tests.support import Recorder, agents_of, federate

MODES = ("none", "per-platform", "secure-sum")
FIXTURE = Path(__file__).parents[1] / "fixtures" / "runs-of-96db9a8.tar.gz"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    shutil.unpack_archive(FIXTURE, folder)
    return folder


Resumed = tuple[FederationPlan, list[Recorder], FederationOutcome]


@pytest.fixture(scope="module")
def resumed(unpacked: Path) -> dict[str, Resumed]:
    """Each run taken up where it stood."""
    runs = {}
    for mode in MODES:
        folder = unpacked / mode
        plan = FederationPlan.model_validate_json((folder / "plan.json").read_text())
        recorders = [Recorder(agent) for agent in agents_of(private_platforms(), plan, folder)]
        runs[mode] = plan, recorders, federate(recorders, plan, folder)
    return runs


@pytest.mark.parametrize("mode", MODES)
def test_an_old_run_goes_on_where_it_stood(resumed: dict[str, Resumed], mode: str) -> None:
    plan, recorders, outcome = resumed[mode]
    assert outcome.state.server_round == 2
    assert [record.phase for record in outcome.state.history] == ["linear", "factors", "factors"]
    prefix = "masked_" if plan.secure_sum else ""
    for recorder in recorders:
        asked = [
            request.kind for request, _ in recorder.seen if request.kind not in ("join", "vocabulary", "secure_sum")
        ]
        assert asked == [f"{prefix}statistics", "finish"]
        assert {reply.code for _, reply in recorder.seen} == {"ok"}


@pytest.mark.parametrize("mode", MODES)
def test_old_books_add_up_with_what_came_after(resumed: dict[str, Resumed], unpacked: Path, mode: str) -> None:
    plan, recorders, _ = resumed[mode]
    for recorder in recorders:
        kinds = [charge["releases"][0]["kind"] for charge in charges_of(recorder.agent)]  # type: ignore[arg-type]
        statistics = "item_vectors" if plan.private else "statistics"
        assert kinds == ["counts", "cooccurrence", statistics, statistics]
        verify_logs(unpacked / mode / "platforms" / recorder.agent.name)  # type: ignore[attr-defined]


def test_the_result_of_an_exact_run_is_that_of_the_old_version(resumed: dict[str, Resumed], unpacked: Path) -> None:
    state = resumed["none"][2].state
    with np.load(unpacked / "none" / "expected.npz") as expected:
        # To the last digits: those depend on the processor.
        np.testing.assert_allclose(state.item_parameters, expected["item_parameters"], rtol=1e-4, atol=1e-6)
        assert state.linear is not None
        for name, weights in state.linear.items():
            np.testing.assert_allclose(weights.weights, expected[f"weights_{name}"], rtol=1e-4, atol=1e-6)


def test_old_checkpoints_have_no_results_of_added_kinds(unpacked: Path) -> None:
    plan = FederationPlan.model_validate_json((unpacked / "none" / "plan.json").read_text())
    state = CheckpointStore(unpacked / "none" / "aggregator" / "checkpoints").latest(plan)
    assert state is not None
    assert state.results == {}
