"""A run that was killed goes on from its last round and ends where it would have ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import FederationError
from server.federation.checkpoint import CheckpointStore
from server.federation.state import FederationState, RoundRecord
from simulations.engine.federate import FederationOutcome
from tests.support import (
    SECRET,
    Recorder,
    SilentObserver,
    agents_of,
    federate,
    run_platforms,
    small_plan,
)
from tests.support.resumed import CASES, plan_of, platforms_of


class Killed(BaseException):
    """Ends a run from inside as a kill does: nothing catches it."""


class Killer(SilentObserver):
    """Dies when the aggregator has heard of ``platform`` in ``server_round``; of no platform: when it has solved."""

    def __init__(self, server_round: int, platform: str | None = None) -> None:
        self._round, self._platform = server_round, platform

    def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
        if (server_round, platform) == (self._round, self._platform) and kind == "statistics":
            raise Killed

    def on_round(self, record: RoundRecord) -> None:
        if record.round == self._round and self._platform is None:
            raise Killed


def assert_same_end(resumed: FederationOutcome, straight: FederationOutcome) -> None:
    left, right = resumed.state, straight.state
    assert np.array_equal(left.item_parameters, right.item_parameters), "to the bit"
    assert np.array_equal(left.item_counts, right.item_counts)
    assert np.array_equal(left.vocabulary.digests, right.vocabulary.digests)
    assert (left.run_id, left.server_round, left.user_counts, left.value_mean) == (
        right.run_id,
        right.server_round,
        right.user_counts,
        right.value_mean,
    )
    assert [(r.round, r.objective, r.recall, r.platforms) for r in left.history] == [
        (r.round, r.objective, r.recall, r.platforms) for r in right.history
    ]
    for one, other in zip(resumed.agents, straight.agents, strict=True):
        mine, theirs = one.store.load(), other.store.load()
        assert asdict(mine.verdict) == asdict(theirs.verdict)
        assert np.array_equal(mine.local.item_parameters, theirs.local.item_parameters)
        assert np.array_equal(mine.shared.item_parameters, theirs.shared.item_parameters)


@pytest.mark.parametrize("platform", ["platform-0", "platform-2", None])
@pytest.mark.parametrize("server_round", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_ends_where_it_would_have_ended(
    tmp_path: Path, case: str, server_round: int, platform: str | None
) -> None:
    plan, platforms = plan_of(case), platforms_of(case)
    straight = run_platforms(platforms, plan, tmp_path / "straight")
    killed = tmp_path / "killed"
    with pytest.raises(Killed):
        run_platforms(platforms, plan, killed, observer=Killer(server_round, platform))
    # New agents, as after a restart of every process; a fresh run_id must not matter.
    assert_same_end(run_platforms(platforms, plan, killed, run_id="another"), straight)


def test_a_resumed_run_starts_at_its_last_complete_round(tmp_path: Path) -> None:
    plan, platforms = plan_of("implicit"), platforms_of("implicit")
    with pytest.raises(Killed):
        run_platforms(platforms, plan, tmp_path, observer=Killer(3))
    recorders = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    federate(recorders, plan, tmp_path)
    assert [request.server_round for request in recorders[0].requests("statistics")] == [3, 4]


def test_a_contribution_sent_before_is_repeated_and_charged_once(tmp_path: Path) -> None:
    plan, platforms = plan_of("implicit"), platforms_of("implicit")
    before = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    with pytest.raises(Killed):
        federate(before, plan, tmp_path, observer=Killer(3))
    after = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    federate(after, plan, tmp_path)
    first, again = before[0].replies("statistics")[2], after[0].replies("statistics")[0]
    assert first.server_round == again.server_round == 3
    assert {name: array.tobytes() for name, array in first.arrays.items()} == {
        name: array.tobytes() for name, array in again.arrays.items()
    }
    charges = [
        entry.content for entry in after[0].agent._outbox.ledger.entries() if entry.content["event"] == "charged"
    ]
    assert [charge["round"] for charge in charges] == [0, 1, 2, 3, 4]


def test_a_finished_run_that_is_started_again_trains_no_further(tmp_path: Path) -> None:
    plan, platforms = plan_of("implicit"), platforms_of("implicit")
    first = run_platforms(platforms, plan, tmp_path)
    recorders = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    again = federate(recorders, plan, tmp_path)
    assert recorders[0].requests("statistics") == []
    assert np.array_equal(again.state.item_parameters, first.state.item_parameters)
    assert recorders[0].replies("finish")[0].code == "ok"
    assert recorders[0].agent.store.current() == 1, "a finish is taken once, and asked again it is acknowledged again"


@pytest.mark.parametrize("change", [{"rounds": 9}, {"seed": 1}, {"model": {"dimension": 5}}, {"federation": "other"}])
def test_a_checkpoint_of_another_plan_is_refused_with_the_difference(tmp_path: Path, change: Any) -> None:
    platforms = platforms_of("implicit")
    run_platforms(platforms, plan_of("implicit"), tmp_path)
    (name,) = change
    with pytest.raises(FederationError, match=rf"another plan \(differs in ({name}|model\.dimension)\)"):
        run_platforms(platforms, small_plan(**{"rounds": 4} | change), tmp_path)


def test_the_round_before_a_damaged_checkpoint_serves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan, platforms = plan_of("implicit"), platforms_of("implicit")
    straight = run_platforms(platforms, plan, tmp_path / "straight")
    folder = tmp_path / "damaged"
    with pytest.raises(Killed):
        run_platforms(platforms, plan, folder, observer=Killer(4))
    newest = folder / "aggregator" / "checkpoints" / "round-000003.npz"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert_same_end(run_platforms(platforms, plan, folder), straight)
    assert "round-000003.npz" in caplog.text


def test_a_late_platform_brings_its_items_and_moves_nobody_elses(tmp_path: Path) -> None:
    plan, platforms = plan_of("implicit"), platforms_of("implicit")
    early = {name: data for name, data in platforms.items() if name != "platform-1"}
    with pytest.raises(Killed):
        run_platforms(early, plan, tmp_path, observer=Killer(3))
    before = CheckpointStore(tmp_path / "aggregator" / "checkpoints").latest(plan)
    assert isinstance(before, FederationState)
    recorders = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    after = federate(recorders, plan, tmp_path).state
    known = len(before.vocabulary)
    assert len(after.vocabulary) > known
    assert np.array_equal(after.vocabulary.digests[:known], before.vocabulary.digests)
    assert np.array_equal(after.vocabulary.owners["platform-0"], before.vocabulary.owners["platform-0"])
    # Round 3 goes out with the rows that round 2 left, and with new rows behind them.
    sent = recorders[0].requests("statistics")[0].arrays["item_parameters"]
    assert np.array_equal(sent[:known], before.item_parameters)
    assert np.abs(sent[known:]).sum(axis=1).min() > 0
    assert [record.platforms for record in after.history[2:]] == [tuple(platforms)] * 2
    counts = dict.fromkeys(map(bytes, SECRET.digests(platforms["platform-1"].items.keys)), 0)
    for data in platforms.values():
        for digest, count in zip(SECRET.digests(data.items.keys), data.train.item_counts().tolist(), strict=True):
            if digest.tobytes() in counts:
                counts[digest.tobytes()] += count
    brought = after.vocabulary.owners["platform-1"]
    assert after.item_counts[brought].tolist() == [counts[bytes(row)] for row in after.vocabulary.digests[brought]]


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.support.resumed import SIZES, plan_of, platforms_of
from tests.support import SilentObserver, run_platforms

class Kill(SilentObserver):
    def on_reply(self, server_round, kind, platform, code, reply_bytes):
        if (server_round, kind, platform) == (3, "statistics", "platform-1"):
            os.kill(os.getpid(), signal.SIGKILL)

run_platforms(platforms_of("implicit"), plan_of("implicit"), Path(sys.argv[1]), observer=Kill())
"""


def test_a_process_killed_by_the_system_resumes_to_the_same_result(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    killed = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(root=root), str(killed)],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    plan, platforms = plan_of("implicit"), platforms_of("implicit")
    straight = run_platforms(platforms, plan, tmp_path / "straight")
    assert_same_end(run_platforms(platforms, plan, killed), straight)
