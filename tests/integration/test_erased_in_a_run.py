"""Erasing a person, before a run or in the middle of it, makes nothing leave that tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.reading.exclusions import ExclusionBook
from client.data.training import TrainingData
from client.deploy.agent_process import ReloadableAgent
from common.wire.exchange import AgentConnection, AgentReply, AgentRequest
from simulations.engine.federate import run_federation
from tests.support import Recorder, agents_of, random_platforms, small_plan

NAME = "platform-0"


def platforms() -> dict[str, TrainingData]:
    return random_platforms(3, (12, 9, 6), validated=True)


class Erasing:
    """Leaves a person out when the request of one round and kind arrives, as a running platform does."""

    def __init__(self, agent: ReloadableAgent, data: TrainingData, folder: Path, at: tuple[str, int]) -> None:
        self._reloadable, self._data, self._folder, self._at = agent, data, folder, at

    def exchange(self, request: AgentRequest) -> AgentReply:
        if (request.kind, request.server_round) == self._at:
            book = ExclusionBook(self._folder)
            book.add({book.tag(self._data.user_ids[0]): "erased"})
            rest = self._data.without(book.current())
            self._reloadable.offer(lambda: agents_of({NAME: rest}, small_plan(), self._folder / "next")[0])
        return self._reloadable.exchange(request)


def messages(
    data: dict[str, TrainingData], folder: Path, at: tuple[str, int] | None = None
) -> list[tuple[str, str, dict[str, np.ndarray]]]:
    """All that one platform let out, message by message, but for cards, which are encrypted anew each time."""
    agents: list[AgentConnection] = list(agents_of(data, small_plan(), folder))
    place = list(data).index(NAME)
    reloadable = ReloadableAgent(agents[place])
    recorder = Recorder(reloadable if at is None else Erasing(reloadable, data[NAME], folder / "excluded", at))
    agents[place] = recorder
    run_federation(agents, small_plan(), folder / "aggregator")
    return [
        (request.kind, reply.code, {name: array for name, array in reply.arrays.items() if name != "cards"})
        for request, reply in recorder.seen
    ]


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, dict[str, np.ndarray]]]:
    return messages(platforms(), tmp_path_factory.mktemp("everybody"))


@pytest.mark.parametrize("at", [("vocabulary", 0), ("statistics", 1), ("statistics", 3), ("finish", 3)])
def test_a_run_under_way_ends_with_what_it_began_with(tmp_path: Path, everybody: Any, at: tuple[str, int]) -> None:
    found = messages(platforms(), tmp_path, at)
    assert (tmp_path / "excluded" / "exclusions.json").exists()
    assert [(kind, code) for kind, code, _ in found] == [(kind, code) for kind, code, _ in everybody]
    for (_, _, arrays), (_, _, before) in zip(found, everybody, strict=True):
        assert {name: array.tobytes() for name, array in arrays.items()} == {n: a.tobytes() for n, a in before.items()}


def test_the_next_run_differs_by_the_person_alone(tmp_path: Path, everybody: Any) -> None:
    data, book = platforms(), ExclusionBook(tmp_path)
    book.add({book.tag(data[NAME].user_ids[4]): "erased"})
    left = messages(data | {NAME: data[NAME].without(book.current())}, tmp_path)
    form = [(kind, code, [(n, a.shape, a.dtype) for n, a in arrays.items()]) for kind, code, arrays in left]
    assert form == [
        (kind, code, [(n, a.shape, a.dtype) for n, a in arrays.items()]) for kind, code, arrays in everybody
    ]
    # Sums are exact here, so that the person's share is seen to be gone; under privacy it is what the noise covers.
    differing = {
        name
        for (_, _, arrays), (_, _, before) in zip(left, everybody, strict=True)
        for name, array in arrays.items()
        if array.tobytes() != before[name].tobytes()
    }
    assert differing
    assert differing.isdisjoint({"digests", "identity"})
