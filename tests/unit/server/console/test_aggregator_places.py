"""Who is late, who missed a round, and what the aggregator's console starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ContractError, InUseError
from common.web.console.app import Redirect, Visit
from server.console.places import AggregatorPages, platform_lines
from server.deploy.admission import Admission
from server.deploy.runs import FINISHED, RUNNING, RunStatus
from tests.support.consoles import aggregator_files
from tests.support.registrations import registration


def answer(server_round: int) -> dict[str, object]:
    return {"kind": "statistics", "round": server_round, "code": "ok", "time": 1.0}


def states(run: RunStatus | None) -> dict[str, str]:
    admitted = {name: Admission(registration(name)) for name in ("cinema", "club", "forum")}
    admitted["left"] = Admission(registration("left"), revoked=True)
    return {line.name: line.state for line in platform_lines(admitted, {"torn": "cut short"}, run)}


def test_who_has_not_answered_what_others_have_is_late() -> None:
    run = RunStatus(name="r", state=RUNNING, answers={"cinema": answer(3), "club": answer(2)})
    expected = {"cinema": "answered", "club": "late", "forum": "late", "left": "revoked", "torn": "damaged"}
    assert states(run) == expected


def test_after_a_run_nobody_is_late_but_some_missed_its_end() -> None:
    rounds = [{"failed": {"club": "deadline"}}]
    run = RunStatus(name="r", state=FINISHED, rounds=rounds, answers={"cinema": answer(3), "club": answer(2)})
    assert states(run) == {
        "cinema": "answered", "club": "missed", "forum": "quiet", "left": "revoked", "torn": "damaged",
    }  # fmt: skip
    assert set(states(None).values()) == {"quiet", "revoked", "damaged"}


def test_a_run_is_begun_once_and_a_second_one_is_refused_by_name(tmp_path: Path) -> None:
    begun = []

    def begin(config: object) -> str:
        if begun:
            raise InUseError("run run-3 is going on")
        begun.append(config)
        return "run-3"

    pages = AggregatorPages(aggregator_files(tmp_path), begin)
    assert pages.start(Visit()) == Redirect(path="/")
    with pytest.raises(InUseError, match="run-3 is going on"):
        pages.start(Visit())


def test_a_run_that_is_not_there_is_named_wrong(tmp_path: Path) -> None:
    pages = AggregatorPages(aggregator_files(tmp_path))
    assert pages.runs(Visit(query={"run": "run-1"})).content["chosen"].name == "run-1"
    with pytest.raises(ContractError, match="none of that name"):
        pages.runs(Visit(query={"run": "../run-1"}))
