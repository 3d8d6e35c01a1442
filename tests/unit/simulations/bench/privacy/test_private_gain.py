from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from client.agent import PlatformAgent
from client.personalization.model_builder import BuildOutcome
from server.federation.state import FederationState
from simulations.bench.privacy.private_gain import build_model_of


def state() -> FederationState:
    found = {"run_id": "bench", "server_round": 2, "item_parameters": np.zeros((3, 2)), "item_counts": np.ones(3)}
    return cast("FederationState", SimpleNamespace(**found))


def agent_that_builds(outcome: BuildOutcome, asked: list[str]) -> PlatformAgent:
    def exchange(request: Any) -> Any:
        asked.append(request.kind)
        return SimpleNamespace(code="ok")

    def wait_built() -> BuildOutcome:
        asked.append("wait")
        return outcome

    return cast("PlatformAgent", SimpleNamespace(exchange=exchange, wait_built=wait_built))


def test_a_model_is_waited_for_after_the_finish() -> None:
    asked: list[str] = []
    build_model_of(agent_that_builds(BuildOutcome(state="built"), asked), state())
    assert asked == ["finish", "wait"]


def test_a_model_that_is_not_built_is_no_figure() -> None:
    with pytest.raises(AssertionError, match="out of memory"):
        build_model_of(agent_that_builds(BuildOutcome(state="failed", error="out of memory"), []), state())
