"""A round costs the aggregator what grows with the number of platforms, and not with its square."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from numpy.typing import NDArray

from common.catalogue import FederationSecret, Vocabulary
from common.wire.exchange import AgentConnection, AgentReply, AgentRequest
from server.aggregation.factors import ExactAggregation
from server.aggregation.leave_out import MOST_BYTES, with_counts
from server.federation.checkpoint import CheckpointStore
from server.federation.collect import Contribution
from server.federation.state import fresh_state, with_vocabulary
from server.strategy import FederatedFactorization
from simulations.engine.federate import inline_grid
from simulations.engine.grid import InlineGrid
from tests.support import small_plan

ITEMS, OWN, ROW = 60, 6, 4
SECRET = FederationSecret(bytes(32))
DIGESTS = SECRET.digests([f"item:{number}" for number in range(ITEMS)])


class Ready:
    """A platform of six items whose answers are there already."""

    def __init__(self, number: int) -> None:
        self.name = f"platform-{number:04d}"
        self._digests = DIGESTS[np.sort(np.random.default_rng(number).choice(ITEMS, OWN, replace=False))]

    def exchange(self, request: AgentRequest) -> AgentReply:
        config = {"secret_fingerprint": SECRET.fingerprint} if request.kind == "join" else {}
        arrays = getattr(self, f"_{request.kind}", dict)()
        return AgentReply(
            platform=self.name, kind=request.kind, server_round=request.server_round, config=config, arrays=arrays
        )

    def _join(self) -> dict[str, NDArray[Any]]:
        return {
            "digests": self._digests,
            "cards": np.zeros(0, dtype=np.uint8),
            "card_offsets": np.zeros(OWN + 1, dtype=np.int64),
            "feature_tokens": np.zeros(0, dtype=np.uint64),
            "feature_offsets": np.zeros(OWN + 1, dtype=np.int64),
            "identity": np.zeros(32, dtype=np.uint8),
        }

    def _counts(self) -> dict[str, NDArray[Any]]:
        return {"item_counts": np.ones(OWN), "totals": np.array([5.0, 6.0, 6.0])}

    def _statistics(self) -> dict[str, NDArray[Any]]:
        return {
            "gram": np.full((OWN, ROW * (ROW + 1) // 2), 0.01, dtype=np.float32),
            "rhs": np.ones((OWN, ROW), dtype=np.float32),
            "user_gram": np.eye(ROW),
            "objective": np.zeros(1),
            "evaluation": np.zeros(2),
        }


class Counted:
    """Counts the functions that are called and the messages that are asked for."""

    def __init__(self, grid: InlineGrid) -> None:
        self.calls = self.named = 0
        pull = grid.pull_messages

        def counted(message_ids: Iterable[str]) -> Iterable[Message]:
            ids = list(message_ids)
            self.named += len(ids)
            return pull(ids)

        grid.pull_messages = counted  # type: ignore[method-assign]

    def _count(self, frame: FrameType, event: str, argument: object) -> None:
        self.calls += event in ("call", "c_call")

    def of(self, run: Callable[[], None]) -> tuple[int, int]:
        before = sys.getprofile()
        threading.setprofile(self._count)
        sys.setprofile(self._count)
        try:
            run()
        finally:
            sys.setprofile(before)
            threading.setprofile(None)
        return self.calls, self.named


def cost(platforms: int, folder: Path) -> tuple[int, int]:
    """Functions called, and messages asked for, by a run of two rounds."""
    agents: list[AgentConnection] = [Ready(number) for number in range(platforms)]
    grid = inline_grid(agents)
    plan = small_plan(rounds=2)
    strategy = FederatedFactorization(plan, CheckpointStore(folder / str(platforms)), run_id="growth")
    found = Counted(grid).of(lambda: strategy.train(grid))
    assert len(strategy.state.history[-1].platforms) == platforms
    return found


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of 60 and of 240 platforms; the first run, which imports and fills caches, is not among them."""
    folder = tmp_path_factory.mktemp("growth")
    cost(10, folder)
    return cost(60, folder), cost(240, folder)


def test_functions_called_grow_with_the_platforms(costs: Any) -> None:
    (few, _), (many, _) = costs
    assert many < 4.4 * few


def test_messages_asked_for_grow_with_the_platforms(costs: Any) -> None:
    (_, few), (_, many) = costs
    assert many < 4.8 * few


def test_a_round_of_more_platforms_than_are_kept_is_solved() -> None:
    plan = small_plan(rounds=2)
    agents = [Ready(number) for number in range(3)]
    state = with_vocabulary(
        fresh_state("growth", ROW), Vocabulary.empty().extended({a.name: a._join()["digests"] for a in agents}), plan
    )
    owners = state.vocabulary.owners
    counted = [Contribution((a.name,), owners[a.name], a._counts()) for a in agents]
    state = ExactAggregation(plan).count(state, counted)
    state = with_counts(state, {a.name: np.ones(OWN) for a in agents})
    sent = [Contribution((a.name,), owners[a.name], a._statistics()) for a in agents]
    kept, lost = (ExactAggregation(plan, most_bytes).solve(state, sent) for most_bytes in (MOST_BYTES, 100))
    assert kept.without().keys() == owners.keys()
    assert lost.without() == {}
    assert np.array_equal(kept.item_parameters, lost.item_parameters)
