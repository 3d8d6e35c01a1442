"""Names that come over the wire lead nowhere: no file is made outside of what is the receiver's own."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import CrossfedError
from common.wire.exchange import AgentConnection, AgentReply, AgentRequest, Json
from tests.private_support import private_plan
from tests.support import Recorder, agents_of, federate, random_platforms, small_plan

EVIL = ("../../evil", "/tmp/evil", "..", "a/b", "x" * 300, "nul\0")


def files_outside(folder: Path, own: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if own not in (path, *path.parents) and path not in own.parents}


class Renamed:
    """Answers under another name."""

    def __init__(self, agent: AgentConnection, name: str) -> None:
        self._agent = agent
        self._name = name

    def exchange(self, request: AgentRequest) -> AgentReply:
        return replace(self._agent.exchange(request), platform=self._name)


@pytest.mark.parametrize("noise", [None, "per_platform"])
@pytest.mark.parametrize("name", EVIL)
def test_a_runs_or_platforms_name_makes_no_file_elsewhere(tmp_path: Path, noise: str | None, name: str) -> None:
    plan = small_plan() if noise is None else private_plan(1, noise=noise)
    deep = tmp_path / "a" / "b"
    (agent,) = agents_of(random_platforms(2, (30,)), plan, deep)
    recorder = Recorder(agent)
    federate([recorder], plan, deep / "server")
    before = files_outside(tmp_path, deep)
    for request, _ in recorder.seen:
        names: dict[str, Json] = {"platforms": [name]} if "platforms" in request.config else {}
        agent.exchange(replace(request, run_id=name, config={**request.config, **names}))
    assert files_outside(tmp_path, deep) == before


@pytest.mark.parametrize("name", EVIL)
def test_a_platforms_name_makes_no_file_of_the_aggregators(tmp_path: Path, name: str) -> None:
    deep = tmp_path / "a" / "b"
    (agent,) = agents_of(random_platforms(2, (30,)), small_plan(), deep)
    before = files_outside(tmp_path, deep)
    with suppress(CrossfedError):
        federate([Renamed(agent, name)], small_plan(), deep / "server")
    assert files_outside(tmp_path, deep) == before
