from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.agent import PlatformAgent
from client.contributions.contributor import Contributor
from common.catalogue import Vocabulary
from common.contributions.broadcast import card_arrays, vocabulary_arrays
from common.contributions.factors import PlainMechanism
from common.deploy.logs import JsonFormatter, TextFormatter
from common.wire.exchange import AgentReply, AgentRequest
from tests.support import SECRET, agents_of, matrix, small_plan, stand_in, training_data

PLAN = small_plan()
KEYS = ["imdb:1", "imdb:2", "shop:3"]
ROWS = [{0: 1.0, 1: 1.0}, {1: 1.0, 2: 1.0}, {2: 1.0}]


@pytest.fixture
def agent(tmp_path: Path) -> PlatformAgent:
    data = training_data(KEYS, matrix(ROWS, 3), user_prefix="private-user")
    return agents_of({"shop": data}, PLAN, tmp_path)[0]


def request(kind: str, server_round: int = 0, **parts: Any) -> AgentRequest:
    return AgentRequest(kind=kind, run_id="run", server_round=server_round, **parts)


def vocabulary_request() -> AgentRequest:
    vocabulary = Vocabulary.empty().extended(
        {"shop": SECRET.digests(KEYS), "site": SECRET.digests(["imdb:1", "site:9"])}
    )
    return request(
        "vocabulary",
        config={"platforms": ["shop", "site"]},
        arrays=vocabulary_arrays(vocabulary) | card_arrays([b""] * len(vocabulary)),
    )


def join_request() -> AgentRequest:
    return request("join", config={"plan": PLAN.model_dump(mode="json")})


def parameters(m: int = 4, row: int = PLAN.row) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "item_parameters": rng.standard_normal((m, row)).astype(np.float32),
        "item_counts": np.ones(m),
    }


def joined(agent: PlatformAgent) -> PlatformAgent:
    assert agent.exchange(join_request()).code == "ok"
    assert agent.exchange(vocabulary_request()).code == "ok"
    return agent


def test_a_whole_run_is_answered_with_what_the_contract_declares(agent: PlatformAgent) -> None:
    join = agent.exchange(join_request())
    assert (join.code, join.platform, dict(join.config)) == (
        "ok",
        "shop",
        {"secret_fingerprint": SECRET.fingerprint},
    )
    assert np.array_equal(join.arrays["digests"], SECRET.digests(KEYS))
    assert agent.exchange(vocabulary_request()).code == "ok"
    counts = agent.exchange(request("counts"))
    assert counts.arrays["item_counts"].tolist() == [1, 2, 2]
    assert counts.arrays["totals"].tolist() == [3, 5, 5]
    statistics = agent.exchange(request("statistics", 1, arrays=parameters()))
    assert {name: array.shape for name, array in statistics.arrays.items()} == {
        "gram": (3, 10),
        "rhs": (3, 4),
        "user_gram": (4, 4),
        "objective": (1,),
        "evaluation": (2,),
    }
    finish = agent.exchange(request("finish", 3, arrays=parameters()))
    assert (finish.code, dict(finish.arrays), dict(finish.config)) == ("ok", {}, {})
    assert agent.store.versions() == [], "the model is built after the answer"
    assert agent.wait_built().state == "built"
    assert agent.store.load().server_round == 3


def test_no_answer_holds_anything_that_depends_on_a_single_users_id(agent: PlatformAgent) -> None:
    replies = [agent.exchange(each) for each in (join_request(), vocabulary_request(), request("counts"))]
    replies += [agent.exchange(request(kind, 3, arrays=parameters())) for kind in ("statistics", "finish")]
    assert {reply.code for reply in replies} == {"ok"}
    for reply in replies:
        text = repr(reply.config) + "".join(array.tobytes().decode("latin1") for array in reply.arrays.values())
        assert "private-user" not in text


@pytest.mark.parametrize("kind", ["counts", "statistics", "finish"])
def test_an_aggregator_that_skips_the_handshake_gets_nothing(agent: PlatformAgent, kind: str) -> None:
    arrays = {} if kind == "counts" else parameters()
    assert agent.exchange(request(kind, 1, arrays=arrays)).code == "out-of-order"
    agent.exchange(join_request())
    reply = agent.exchange(request(kind, 1, arrays=arrays))
    assert (reply.code, reply.arrays) == ("out-of-order", {})


@pytest.mark.parametrize(
    "kind", ["", "users", "Counts", "counts ", "__init__", "join\n", "secure_sum", "masked_counts"]
)
def test_an_unknown_kind_or_one_that_the_plan_has_not_is_refused(agent: PlatformAgent, kind: str) -> None:
    reply = joined(agent).exchange(request(kind))
    assert (reply.code, reply.arrays, dict(reply.config)) == ("contract", {}, {})


WRONG: dict[str, dict[str, Any]] = {
    "none": {},
    "an item too many": parameters(m=5),
    "an item too few": parameters(m=3),
    "a dimension too few": parameters(row=3),
    "float64": parameters() | {"item_parameters": np.zeros((4, 4))},
    "NaN": parameters() | {"item_parameters": np.full((4, 4), np.nan, dtype=np.float32)},
    "an infinite count": parameters() | {"item_counts": np.array([1, 2, np.inf, 0])},
    "flat": parameters() | {"item_parameters": np.zeros(16, dtype=np.float32)},
    "Fortran order": parameters() | {"item_parameters": np.zeros((4, 4), dtype=np.float32, order="F")[:, ::1].T},
    "text": parameters() | {"item_counts": np.array(["1"] * 4)},
    "another array": parameters() | {"extra": np.zeros(1)},
}
WRONG["Fortran order"]["item_parameters"] = np.asfortranarray(np.arange(16, dtype=np.float32).reshape(4, 4))


@pytest.mark.parametrize("kind", ["statistics", "finish"])
@pytest.mark.parametrize("wrong", WRONG)
def test_misshapen_parameters_are_refused_before_anything_is_charged(
    agent: PlatformAgent, kind: str, wrong: str
) -> None:
    joined(agent)
    before = len(agent._outbox.ledger.entries())
    reply = agent.exchange(request(kind, 1, arrays=WRONG[wrong]))
    assert (reply.code, reply.arrays) == ("contract", {})
    assert len(agent._outbox.ledger.entries()) == before
    assert agent.store.versions() == []


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        *((array, shape) for array in ("digests", "owners", "card_offsets") for shape in ((), (0,), (1, 1, 1))),
        *(("cards", shape) for shape in ((), (1,), (0, 1))),
    ],
)
def test_a_misshapen_vocabulary_is_refused(agent: PlatformAgent, array: str, shape: tuple[int, ...]) -> None:
    agent.exchange(join_request())
    good = vocabulary_request()
    bad = dict(good.arrays) | {array: np.zeros(shape, dtype=good.arrays[array].dtype)}
    reply = agent.exchange(replace(good, arrays=bad))
    assert reply.code in ("contract", "catalogue")
    assert agent.exchange(request("counts")).code == "out-of-order"


@pytest.mark.parametrize("platforms", [None, "shop", [], ["site", "other"], 3])
def test_a_vocabulary_for_other_platforms_is_refused(agent: PlatformAgent, platforms: Any) -> None:
    agent.exchange(join_request())
    reply = agent.exchange(replace(vocabulary_request(), config={"platforms": platforms}))
    assert reply.code in ("contract", "catalogue")


@pytest.mark.parametrize(
    "config",
    [{}, {"plan": None}, {"plan": "mine"}, {"plan": {"rounds": -1}}, {"plan": {"no such": 1}}, {"plan": [1]}],
    ids=repr,
)
def test_a_plan_that_is_none_is_refused(agent: PlatformAgent, config: Any) -> None:
    assert agent.exchange(request("join", config=config)).code in ("contract", "plan-differs")


def test_another_plan_is_refused_and_the_difference_said_at_home(
    agent: PlatformAgent, caplog: pytest.LogCaptureFixture
) -> None:
    other = small_plan(rounds=99, model={"dimension": 7})
    with caplog.at_level(logging.WARNING):
        reply = agent.exchange(request("join", config={"plan": other.model_dump(mode="json")}))
    assert (reply.code, reply.arrays, dict(reply.config)) == ("plan-differs", {}, {})
    assert "model.dimension, rounds" in caplog.text


def test_the_same_request_again_gets_the_same_bytes_and_no_charge(agent: PlatformAgent) -> None:
    joined(agent)
    asked = request("statistics", 1, arrays=parameters())
    first = agent.exchange(asked)
    before = len(agent._outbox.ledger.entries())
    again = agent.exchange(replace(asked, arrays={name: array.copy() for name, array in asked.arrays.items()}))
    assert {n: a.tobytes() for n, a in first.arrays.items()} == {n: a.tobytes() for n, a in again.arrays.items()}
    assert len(agent._outbox.ledger.entries()) == before


def test_a_request_that_differs_in_one_bit_is_another_charge(agent: PlatformAgent) -> None:
    joined(agent)
    asked = request("statistics", 1, arrays=parameters())
    agent.exchange(asked)
    before = len(agent._outbox.ledger.entries())
    nudged = parameters()
    nudged["item_parameters"][0, 0] = np.nextafter(nudged["item_parameters"][0, 0], np.float32(9))
    agent.exchange(request("statistics", 1, arrays=nudged))
    assert len(agent._outbox.ledger.entries()) == before + 1


def test_a_contribution_of_a_run_that_was_not_joined_is_refused(agent: PlatformAgent) -> None:
    joined(agent)
    reply = agent.exchange(replace(request("counts"), run_id="another"))
    assert (reply.code, reply.arrays) == ("out-of-order", {})


@pytest.mark.parametrize("form", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_an_error_leaves_as_its_code_alone(
    agent: PlatformAgent, caplog: pytest.LogCaptureFixture, form: logging.Formatter
) -> None:
    """The log has its kind and its place, and not its words, which may quote what a user did."""
    joined(agent)

    def explode(*_: Any) -> Any:
        raise KeyError(f"private-{'user'}-1 /srv/shop/ratings.csv")

    stand_in(agent, "counts", explode)
    reply = agent.exchange(request("counts"))
    assert reply == AgentReplyLike("shop", "counts", 0, "internal")
    written = "".join(form.format(record) for record in caplog.records)
    assert "explode" in written
    assert "KeyError" in written
    assert "private-user-1" not in written


class AgentReplyLike:
    """Equal to a reply with these fields and nothing else in it."""

    def __init__(self, *fields: Any) -> None:
        self.fields = fields

    def __eq__(self, reply: object) -> bool:
        assert isinstance(reply, AgentReply)
        return (reply.platform, reply.kind, reply.server_round, reply.code) == self.fields and not (
            reply.arrays or reply.config
        )

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: arrays | {"rhs": np.full_like(arrays["rhs"], np.nan)},
        lambda arrays: arrays | {"rhs": arrays["rhs"][:, :2].copy()},
        lambda arrays: arrays | {"user_factors": np.zeros((3, 4), dtype=np.float32)},
        lambda arrays: {name: array for name, array in arrays.items() if name != "rhs"},
    ],
    ids=["NaN", "misshapen", "undeclared", "missing"],
)
def test_the_egress_guard_lets_out_nothing_else_than_declared(agent: PlatformAgent, spoil: Any) -> None:
    joined(agent)

    def spoilt(honest: Contributor, asked: AgentRequest, membership: Any) -> Any:
        return PlainMechanism().release("statistics", 1, spoil(dict(honest.make(asked, membership).arrays)))

    stand_in(agent, "statistics", spoilt)
    reply = agent.exchange(request("statistics", 1, arrays=parameters()))
    assert reply == AgentReplyLike("shop", "statistics", 1, "internal")


def test_reported_validation_recall_counts_validation_users_only(tmp_path: Path) -> None:
    from tests.support import held_out_last

    held_out = held_out_last(matrix([[0, 1], [1, 2], [2]], 3))
    data = training_data(KEYS, held_out.history, validation=held_out)
    agent = joined(agents_of({"shop": data}, PLAN, tmp_path)[0])
    total, users = agent.exchange(request("statistics", 1, arrays=parameters())).arrays["evaluation"]
    assert (total, users) == (2.0, 2.0)


def test_without_evaluation_rounds_no_recall_is_reported(tmp_path: Path) -> None:
    from tests.support import held_out_last

    plan = small_plan(evaluate_rounds=False)
    held_out = held_out_last(matrix([[0, 1], [1, 2], [2]], 3))
    data = training_data(KEYS, held_out.history, validation=held_out)
    agent = agents_of({"shop": data}, plan, tmp_path)[0]
    agent.exchange(request("join", config={"plan": plan.model_dump(mode="json")}))
    agent.exchange(vocabulary_request())
    assert agent.exchange(request("statistics", 1, arrays=parameters())).arrays["evaluation"].tolist() == [0, 0]


@pytest.mark.parametrize("form", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_log_lines_stay_lines_whatever_the_aggregator_writes(
    agent: PlatformAgent, caplog: pytest.LogCaptureFixture, form: logging.Formatter
) -> None:
    hostile = "\x1b[2J\x1b]0;pwned\x07\r\nERROR the ledger is empty\u202e" * 100
    joined(agent)
    with caplog.at_level(logging.INFO):
        agent.exchange(request(hostile))
        agent.exchange(replace(request("counts"), run_id=hostile))
        agent.exchange(replace(join_request(), run_id=hostile))
        agent.exchange(request("secure_sum", config={"step": hostile}, arrays={"message": np.zeros(1, np.uint8)}))
        agent.exchange(request("statistics", 1, arrays={hostile: np.zeros(1), **parameters()}))
        agent.exchange(replace(vocabulary_request(), config={"platforms": [hostile, "shop"]}))
    assert len(caplog.records) >= 5
    for record in caplog.records:
        line = form.format(record)
        assert line.isprintable(), line
        assert len(line) < 5000
