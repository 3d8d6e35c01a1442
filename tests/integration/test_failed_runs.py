"""Runs that fail before anything was released cost nothing, and requests out of order are charged to nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.agent import PlatformAgent
from client.privacy.report import close_run
from common.contributions.protocol import plan_sizes, request_contract
from common.errors import FederationError
from common.wire.exchange import AgentReply, Arrays
from tests.private_support import (
    HandMade,
    by_hand,
    charges_of,
    outbox_of,
    private_plan,
    private_platforms,
    whole_plan,
)
from tests.support import Tampered, Watch, agents_of, failing, federate

PRIVACY = pytest.mark.parametrize("privacy", [{}, {"noise": "per_platform"}], ids=["secure_sum", "per_platform"])


def runs_of(agent: PlatformAgent) -> dict[str, str]:
    return {
        run.run_id: "given back" if run.returned else "closed" if run.closed else "open"
        for run in outbox_of(agent).ledger.spend().runs
    }


@PRIVACY
@pytest.mark.parametrize("kind", ["join", "vocabulary"])
def test_after_one_failed_join_the_next_run_goes_through_on_all(
    tmp_path: Path, privacy: dict[str, Any], kind: str
) -> None:
    plan = private_plan(**privacy).model_copy(update={"min_platforms": 3})
    agents = agents_of(private_platforms(), plan, tmp_path)
    for attempt in range(3):
        with pytest.raises(FederationError, match="2 platforms"):
            federate(
                [*agents[:2], Tampered(agents[2], kind, failing())], plan, tmp_path / f"{attempt}", run_id=f"{attempt}"
            )
    assert all(not charges_of(agent) for agent in agents)
    agents, watch = agents_of(private_platforms(), plan, tmp_path), Watch()
    state = federate(agents, plan, tmp_path / "last", run_id="last", observer=watch).state
    assert (watch.failures, state.server_round) == ([], 2)
    for agent in agents:
        runs = runs_of(agent)
        assert runs.pop("last") == "closed"
        assert set(runs.values()) <= {"given back"}
        assert outbox_of(agent).ledger.spend().epsilon == pytest.approx(3.0)


@PRIVACY
def test_a_failed_join_can_be_resumed_after_another_run_was_joined(tmp_path: Path, privacy: dict[str, Any]) -> None:
    plan = private_plan(**privacy).model_copy(update={"min_platforms": 3})
    agents = agents_of(private_platforms(), plan, tmp_path)
    lame = [*agents[:2], Tampered(agents[2], "join", failing())]
    for name in ("one", "two"):
        with pytest.raises(FederationError):
            federate(lame, plan, tmp_path / name, run_id=name)
    state = federate(agents, plan, tmp_path / "one", run_id="ignored").state
    assert (state.run_id, state.server_round) == ("one", 2)


def test_a_run_that_released_something_is_named_to_the_operator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = private_plan(noise="per_platform", budget=3.5)
    asked = by_hand(private_platforms(), plan, tmp_path)
    assert asked.ask("platform-0", "counts").code == "ok"
    asked.run_id = "next"
    join = {"config": {"plan": plan.model_dump(mode="json")}}
    assert asked.ask("platform-0", "join", **join).code == "budget-exceeded"
    assert "`crossfed-client privacy close run`" in caplog.text
    assert asked.ask("platform-1", "join", **join).code == "ok", "it has released nothing in the run before"
    close_run(tmp_path / "platforms" / "platform-0", "run")
    assert asked.ask("platform-0", "join", **join).code == "ok"
    asked.run_id = "run"
    assert asked.ask("platform-0", "statistics", 1, arrays=asked.parameters()).code == "out-of-order"


# Every kind of contribution, asked at a wrong time.

PLACES = {"counts": (0, 0), "cooccurrence": (0, 0), "statistics": (1, 2), "update": (3, 4)}


@pytest.fixture(scope="module", params=["secure_sum", "per_platform"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HandMade:
    """A federation of which only the handshake has taken place."""
    return by_hand(private_platforms(), whole_plan(request.param), tmp_path_factory.mktemp(request.param))


def well_formed(asked: HandMade, kind: str) -> Arrays:
    """Arrays that the contract declares for a request of ``kind``."""
    sizes = plan_sizes(asked.plan, catalogue=0, vocabulary=len(asked.vocabulary))
    return {
        spec.name: np.ones(spec.resolved_shape(sizes), dtype=spec.dtype)
        for spec in request_contract(asked.plan)[kind].arrays
    }


def ask(asked: HandMade, kind: str, server_round: int, run_id: str = "run") -> AgentReply:
    asked.run_id = run_id
    try:
        return asked.ask("platform-0", kind, server_round, arrays=well_formed(asked, kind))
    finally:
        asked.run_id = "run"


@given(
    phase=st.sampled_from(sorted(PLACES)),
    server_round=st.integers(-1, 6) | st.sampled_from([100, 2**31, 2**62]),
    run_id=st.sampled_from(["run", "another"]),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_contribution_at_a_wrong_place_is_charged_to_nobody(
    whole: HandMade, phase: str, server_round: int, run_id: str
) -> None:
    first, last = PLACES[phase]
    masked = whole.plan.secure_sum
    if run_id == "run" and not masked and first <= server_round <= last:
        return
    kind = f"masked_{phase}" if masked else phase
    reply = ask(whole, kind, server_round, run_id)
    # Under secure sum nobody has enrolled: no place is one at which a contribution could be masked.
    assert reply.code in ("out-of-order", "secure-sum")
    assert reply.arrays == {}
    assert charges_of(whole.agents["platform-0"]) == []
    spend = outbox_of(whole.agents["platform-0"]).ledger.spend()
    assert (spend.mu, spend.left.runs) == (0.0, 1)


@pytest.mark.parametrize("phase", sorted(PLACES))
def test_a_kind_that_the_plan_masks_or_does_not_is_no_other(whole: HandMade, phase: str) -> None:
    other = phase if whole.plan.secure_sum else f"masked_{phase}"
    reply = whole.ask("platform-0", other, PLACES[phase][0], arrays={})
    assert (reply.code, reply.arrays) == ("contract", {})
    assert charges_of(whole.agents["platform-0"]) == []


def test_a_phase_that_is_over_is_charged_no_more(tmp_path: Path) -> None:
    asked = by_hand(private_platforms(), whole_plan("per_platform"), tmp_path)
    agent = asked.agents["platform-0"]
    charged = 0
    for phase in ("counts", "cooccurrence", "statistics"):
        for server_round in range(PLACES[phase][0], PLACES[phase][1] + 1):
            assert ask(asked, phase, server_round).code == "ok"
            charged += 1
            assert ask(asked, phase, server_round).code == "ok", "the same again is what was paid for"
            assert len(charges_of(agent)) == charged
    for phase in ("counts", "cooccurrence", "statistics"):
        for server_round in range(5):
            reply = asked.ask("platform-0", phase, server_round, config={"x": 1}, arrays=well_formed(asked, phase))
            assert (reply.code, reply.arrays) == ("out-of-order", {})
    assert len(charges_of(agent)) == charged
