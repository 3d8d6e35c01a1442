"""Which requests are in order, by public facts alone."""

from __future__ import annotations

from typing import Any

import pytest

from client.privacy.account import Charge, RunAccount
from client.privacy.budget import Plan
from client.privacy.protocol_state import ProtocolState
from common.config.federation import FederationPlan
from common.contributions.run_plan import RunPlan, read_plan
from common.errors import CrossfedError, OrderError, SecureSumError
from common.privacy.contribution import Release
from common.wire.exchange import AgentRequest, digest_of
from tests.private_support import private_plan
from tests.support import small_plan

RELEASED = {"counts": "counts", "cooccurrence": "cooccurrence", "statistics": "item_vectors", "update": "update"}
FULL = private_plan(3, noise="per_platform")
STRICT = read_plan(FULL.model_dump() | {"min_platforms": 3})
PLAIN, EARLY = small_plan(platforms=3, min_platforms=3), small_plan(tolerance=0.1, platforms=3, min_platforms=3)


def request(kind: str, server_round: int = 0, **config: Any) -> AgentRequest:
    return AgentRequest(kind=kind, run_id="run", server_round=server_round, config=config)


def account(plan: FederationPlan, *paid: AgentRequest, closed: bool = False, finish: str | None = None) -> RunAccount:
    releases = (
        RunPlan(plan).release_plan().releases()
        if plan.private
        else (Release(kind="counts", mechanism="none", noise_multiplier=0.0),)
    )
    run = RunAccount("run", Plan(releases, None, 0.1, None), closed=closed, finish=finish)
    for number, asked in enumerate(paid):
        kind = RELEASED[asked.kind.removeprefix("masked_")]
        release = Release(kind=kind, mechanism="none", noise_multiplier=0.0)
        run.charges.append(Charge(number, asked.server_round, (release,), digest_of(asked), "", ""))
    return run


def code(plan: FederationPlan, asked: AgentRequest, run: RunAccount | None, *, told: bool = True) -> str:
    def no_mask(masked: AgentRequest) -> None:
        raise SecureSumError("not enrolled")

    try:
        ProtocolState(plan).check(asked, run, told=told, check_mask=no_mask)
    except CrossfedError as error:
        return error.code
    return "ok"


@pytest.mark.parametrize("kind", ["vocabulary", "secure_sum", "counts", "statistics", "finish"])
def test_a_run_that_was_not_joined_gets_nothing(kind: str) -> None:
    assert code(FULL, request(kind, 1), None) == "out-of-order"
    assert code(FULL, request("join"), None) == "ok"


@pytest.mark.parametrize("kind", ["secure_sum", "counts", "statistics", "finish"])
def test_without_the_vocabulary_nothing_is_in_order(kind: str) -> None:
    assert code(FULL, request(kind, 0), account(FULL), told=False) == "out-of-order"
    assert code(FULL, request("vocabulary"), account(FULL), told=False) == "ok"


@pytest.mark.parametrize(
    ("kind", "server_round"),
    [("counts", 1), ("counts", -1), ("statistics", 0), ("statistics", 3)],
)
def test_rounds_that_the_run_has_not_are_out_of_order(kind: str, server_round: int) -> None:
    for plan in (FULL, read_plan(FULL.model_dump() | {"privacy": {"mode": "none"}})):
        assert code(plan, request(kind, server_round), account(plan)) == "out-of-order"


def test_under_privacy_each_place_is_paid_once_and_in_order() -> None:
    first, second = request("statistics", 1), request("statistics", 2)
    run = account(FULL, request("counts"), second)
    assert code(FULL, second, run) == "ok", "the same again is answered again"
    assert code(FULL, request("counts"), run) == "ok"
    for asked in (first, request("statistics", 2, value_mean=0.5), request("counts", 0, more=1)):
        assert code(FULL, asked, run) == "out-of-order"
    assert code(FULL, second, account(FULL, request("counts"))) == "ok", "a platform may have missed the first"


def test_without_privacy_counts_and_rounds_may_be_asked_again() -> None:
    run = account(PLAIN, request("counts"), request("statistics", 2))
    for asked in (request("counts", 0, more=1), request("statistics", 1), request("statistics", 2, value_mean=0.5)):
        assert code(PLAIN, asked, run) == "ok"


def test_masks_are_asked_after_before_a_charge_and_not_for_a_repeat() -> None:
    plan = private_plan(3)
    assert code(plan, request("masked_counts"), account(plan)) == "secure-sum"
    assert code(plan, request("masked_counts"), account(plan, request("masked_counts"))) == "ok"
    assert code(plan, request("masked_counts", 4), account(plan)) == "out-of-order", "the round comes first"


FINISHES: list[tuple[str, FederationPlan, list[AgentRequest], int, str]] = [
    ("nothing paid", STRICT, [], 2, "out-of-order"),
    ("counts alone", STRICT, [request("counts")], 2, "out-of-order"),
    ("one round of two", STRICT, [request("counts"), request("statistics", 1)], 2, "out-of-order"),
    ("the last round", STRICT, [request("counts"), request("statistics", 2)], 2, "ok"),
    ("an earlier round named", STRICT, [request("statistics", 2)], 1, "out-of-order"),
    ("a later round named", STRICT, [request("statistics", 2)], 3, "out-of-order"),
    ("rounds may be missed", FULL, [request("statistics", 1)], 2, "ok"),
    ("and not all of them", FULL, [request("counts")], 2, "out-of-order"),
    ("plain, all rounds", PLAIN, [request("statistics", 3)], 3, "ok"),
    ("plain, not all", PLAIN, [request("statistics", 2)], 3, "out-of-order"),
    ("plain, nothing", EARLY, [request("counts")], 1, "out-of-order"),
    ("plain, stopped early", EARLY, [request("statistics", 1), request("statistics", 2)], 2, "ok"),
    ("plain, before what was asked", EARLY, [request("statistics", 2)], 1, "out-of-order"),
    ("plain, beyond the plan", EARLY, [request("statistics", 2)], 4, "out-of-order"),
]


@pytest.mark.parametrize(("name", "plan", "paid", "server_round", "expected"), FINISHES, ids=[c[0] for c in FINISHES])
def test_a_finish_comes_after_the_rounds(
    name: str, plan: FederationPlan, paid: list[AgentRequest], server_round: int, expected: str
) -> None:
    assert code(plan, request("finish", server_round), account(plan, *paid)) == expected


def test_a_closed_run_answers_its_finish_again_and_nothing_else() -> None:
    done = request("finish", 2)
    run = account(STRICT, request("statistics", 2), closed=True, finish=digest_of(done))
    assert code(STRICT, done, run) == "ok"
    assert code(STRICT, done, run, told=False) == "ok", "another run may have begun"
    assert code(STRICT, request("vocabulary"), run) == "ok", "the run may be resumed for others"
    for asked in (request("finish", 2, more=1), request("statistics", 2), request("counts"), request("secure_sum")):
        assert code(STRICT, asked, run) == "out-of-order"
    given_up = account(STRICT, request("statistics", 2), closed=True)
    for asked in (done, request("vocabulary"), request("statistics", 2)):
        assert code(STRICT, asked, given_up) == "out-of-order"


def test_an_order_error_is_of_the_contract() -> None:
    assert OrderError.code == "out-of-order"
