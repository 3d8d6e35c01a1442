"""``crossfed-server run`` and ``status`` tell of a run, from its beginning to its end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.roles import AggregatorConfig
from common.errors import FederationError
from server.cli import app
from server.deploy.admission import AdmissionBook
from server.deploy.aggregator import AggregatorProcess
from server.deploy.follow import RunFollower
from server.deploy.provisioning import initialise
from server.deploy.runs import FAILED, FINISHED, INTERRUPTED, PENDING, RUNNING, RunFolder, RunStatus
from server.deploy.schedule import Resumer
from server.federation.exchange import PlatformExchange, SilentObserver
from tests.support.registrations import registration

PLAN = read_plan({"federation": "films", "platforms": 2, "privacy": {"mode": "none"}})


class Told:
    """A run that goes through given statuses, and what its follower says."""

    name = "r"

    def __init__(self, statuses: Sequence[RunStatus], seconds: float = 0.5) -> None:
        self._statuses: Iterator[RunStatus] = iter(statuses)
        self._seconds, self._now = seconds, 0.0
        self.lines: list[str] = []

    def status(self) -> RunStatus:
        self._now += self._seconds
        return next(self._statuses)

    def follow(self) -> list[str]:
        follower = RunFollower(self, self.lines.append, clock=lambda: self._now)
        while not follower.look():
            pass
        return self.lines


def status(state: str, rounds: int = 0, **more: Any) -> RunStatus:
    records = [{"round": n + 1, "platforms": ["a", "b"], "seconds": 1.0, "failed": {}} for n in range(rounds)]
    return RunStatus(name="r", state=state, rounds=records, **more)


def answer(kind: str, code: str = "ok") -> dict[str, Any]:
    return {"kind": kind, "round": 0, "code": code, "bytes": 1, "time": 0.0}


def test_a_killed_process_is_waited_for() -> None:
    states = [
        status(RUNNING, 1),
        status(INTERRUPTED, 1),
        status(INTERRUPTED, 1),
        status(PENDING, 1),
        status(RUNNING, 1),
    ]
    lines = Told([*states, status(RUNNING, 2), status(FINISHED, 3)]).follow()
    assert [line for line in lines if line.startswith("round")] == [f"round {n}: 2 platforms, 1.0 s" for n in (1, 2, 3)]
    assert sum("the run's process is gone" in line for line in lines) == 1
    assert lines[-1] == "run r is finished; each platform builds its own model now"


def test_a_run_that_nobody_takes_up_ends_the_following() -> None:
    told = Told([status(RUNNING)] + [status(INTERRUPTED)] * 60, seconds=10.0)
    with pytest.raises(FederationError, match=r"is crossfed-server start running\?"):
        told.follow()
    assert any(line.startswith("still interrupted after") for line in told.lines)


def test_a_run_that_failed_ends_the_following() -> None:
    with pytest.raises(FederationError, match="r failed: the quorum is 3"):
        Told([status(RUNNING), status(FAILED, error="the quorum is 3")]).follow()


def test_the_minute_before_the_first_round_is_told() -> None:
    waiting = [status(RUNNING, wanted=2), status(RUNNING, connected=["a"], wanted=2)]
    both = {"connected": ["a", "b"], "wanted": 2}
    joined = [
        status(RUNNING, answers={"a": answer("join")}, **both),
        status(RUNNING, answers={"a": answer("vocabulary"), "b": answer("join", "plan-differs")}, **both),
    ]
    done = status(FINISHED, 1, answers={"a": answer("finish"), "b": answer("statistics")}, **both)
    lines = Told([status(PENDING), status(PENDING), *waiting, *joined, done]).follow()
    assert lines == [
        "the run is handed to Flower; its process starts in some seconds",
        "the run's process works",
        "0 of 2 platforms connected: none",
        "1 of 2 platforms connected: a",
        "2 of 2 platforms connected: a, b",
        "a: join ok",
        "a: vocabulary ok",
        "b: join plan-differs",
        "a: finish ok",
        "round 1: 2 platforms, 1.0 s",
        "run r is finished; each platform builds its own model now",
    ]


def test_a_process_that_does_not_start_is_told() -> None:
    told = Told([status(PENDING)] * 10 + [status(FINISHED)], seconds=10.0).follow()
    assert sum(line.startswith("still pending after") for line in told) == 2


class ComingGrid:
    """Nodes that connect one after the other."""

    def __init__(self) -> None:
        self.nodes: list[int] = []

    def get_node_ids(self) -> list[int]:
        self.nodes.append(len(self.nodes) + 1)
        return list(self.nodes)


def test_who_is_connected_is_told_while_a_run_waits() -> None:
    told: list[tuple[list[str], int]] = []
    exchange = PlatformExchange(ComingGrid(), SilentObserver(), deadline=1.0, names={1: "b", 2: "a"})  # type: ignore[arg-type]
    nodes = exchange.wait_for_nodes(3, deadline=60.0, tell=lambda connected, wanted: told.append((connected, wanted)))
    assert nodes == [1, 2, 3]
    assert told == [(["b"], 3), (["a", "b"], 3), (["a", "b", "node 3"], 3)]


@pytest.fixture
def config(tmp_path: Path) -> AggregatorConfig:
    return load_yaml_model(initialise(tmp_path / "agg", PLAN, "127.0.0.1:9443").config, AggregatorConfig)


def test_a_revoked_platform_leaves_the_status(config: AggregatorConfig, tmp_path: Path) -> None:
    book = AdmissionBook(config.platforms)
    for name in ("cinema", "club"):
        book.admit(registration(name), "films")
    run = RunFolder(config.state, "r1")
    with run.recorded():
        run.observer().on_waiting(["cinema", "club"], 2)
        for name in ("cinema", "club"):
            run.observer().on_reply(1, "statistics", name, "ok", 1)
    book.revoke("club")
    path = str(tmp_path / "agg" / "federation.yaml")
    shown = CliRunner().invoke(app, ["status", "--config", path])
    assert "cinema" in shown.output
    assert "club" not in shown.output
    asked = json.loads(CliRunner().invoke(app, ["status", "--config", path, "--json"]).output)
    assert list(asked["answers"]) == ["cinema"]


def lost_run(config: AggregatorConfig) -> RunFolder:
    run = RunFolder(config.state, "r1")
    run.announce()
    run.interrupt()
    assert run.status().state == INTERRUPTED
    return run


def test_a_lost_run_is_tried_again_while_the_superlink_restarts(config: AggregatorConfig, tmp_path: Path) -> None:
    """Both were killed: until the SuperLink is back the run waits, and it is not given up for that."""
    calls: list[str] = []

    def start(_: AggregatorConfig, name: str) -> None:
        calls.append(name)
        if len(calls) < 9:
            raise FederationError("no answer")

    run, process = lost_run(config), AggregatorProcess(tmp_path / "agg" / "federation.yaml", start=start)
    for _ in range(8):
        with pytest.raises(FederationError):
            process._run_what_is_due(config)
        assert run.status().state == INTERRUPTED
    process._run_what_is_due(config)
    assert run.status().state == PENDING


def test_a_run_that_is_lost_again_and_again_fails_with_its_reason(config: AggregatorConfig, tmp_path: Path) -> None:
    path = tmp_path / "agg" / "federation.yaml"
    run, process = lost_run(config), AggregatorProcess(path, start=lambda config, name: None)
    for _ in range(6):
        process._run_what_is_due(config)
        if run.status().state == PENDING:
            run.interrupt()
    assert run.status().state == FAILED
    assert "lost 5 times without a round in between" in (run.status().error or "")


def test_attempts_that_did_not_begin_do_not_count() -> None:
    resumer, lost = Resumer(), RunStatus(name="r", state=INTERRUPTED, started=datetime.now(UTC).isoformat())
    for _ in range(20):
        assert resumer.to_resume([lost]) == "r"
        resumer.not_begun("r")
    assert [resumer.to_resume([lost]) for _ in range(6)] == ["r"] * 5 + [None]
