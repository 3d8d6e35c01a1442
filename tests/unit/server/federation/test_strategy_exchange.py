from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from common.wire.exchange import AgentReply, AgentRequest
from common.wire.messages import reply_content, request_of
from server.federation.exchange import PlatformExchange
from tests.support import Watch, flower_message

NAMES = {1: "a", 2: "b", 3: "c"}
STATISTICS = AgentRequest(
    kind="statistics", run_id="run", server_round=4, arrays={"item_parameters": np.zeros(8, np.float32)}
)


def answer_to(question: Message, **changes: Any) -> Message:
    """Return what the platform of that node says: its reply, with an array that tells whose it is."""
    request = request_of(question)
    node = question.metadata.dst_node_id
    parts = {"platform": NAMES[node], "kind": request.kind, "server_round": request.server_round}
    parts["arrays"] = {"x": np.full(3, node, dtype=np.int64)}
    return Message(reply_content(AgentReply(**(parts | changes))), reply_to=question)


class ScriptedGrid(Grid):
    """Nodes 1 … 3 of which each pull brings what ``script`` says next; refuses the nodes in ``deaf``."""

    def __init__(self, script: Iterable[list[int]] = (), deaf: Iterable[int] = (), reply: Any = answer_to) -> None:
        self._script = iter(script)
        self._deaf = set(deaf)
        self._reply = reply
        self.sent: dict[int, Message] = {}
        self.pulls = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            if node in self._deaf:
                continue
            message.metadata.__dict__["_message_id"] = f"m{node}"
            self.sent[node] = message
            ids.append(f"m{node}")
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.pulls += 1
        return [self._reply(self.sent[node]) for node in next(self._script, []) if f"m{node}" in set(message_ids)]

    def get_node_ids(self) -> Iterable[int]:
        return [3, 1, 2]

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: Any, **options: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError


class Passing:
    """A clock on which every wait takes ``step`` seconds."""

    def __init__(self, step: float = 0.0) -> None:
        self.began = self.now = time.time()
        self._step = step

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += self._step


@pytest.fixture(autouse=True)
def messages_can_be_made() -> None:
    from flwr.app import RecordDict

    flower_message(RecordDict())


def exchange_over(grid: Grid, deadline: float = 60.0, step: float = 0.0) -> tuple[PlatformExchange, Watch]:
    watch = Watch()
    exchange = PlatformExchange(grid, watch, deadline=deadline, clock=Passing(step))
    exchange.nodes = dict(NAMES)
    return exchange, watch


def asked(exchange: PlatformExchange) -> list[tuple[int, str, int]]:
    return [(node, reply.platform, int(reply.arrays["x"][0])) for node, reply in exchange.ask(STATISTICS)]


@pytest.mark.parametrize("script", [[[1], [2], [3]], [[3], [2], [1]], [[], [2, 3], [], [1]], [[3, 1, 2]]], ids=repr)
def test_answers_are_handed_on_in_order_of_platform(script: list[list[int]]) -> None:
    exchange, watch = exchange_over(ScriptedGrid(script))
    assert asked(exchange) == [(1, "a", 1), (2, "b", 2), (3, "c", 3)]
    assert (exchange.failed, watch.failures) == ({}, [])


def test_an_answer_is_handed_on_before_the_next_is_fetched() -> None:
    grid = ScriptedGrid([[1], [2], [3]])
    exchange, _ = exchange_over(grid)
    answers: Iterator[Any] = iter(exchange.ask(STATISTICS))
    for pulls in (1, 2, 3):
        next(answers)
        assert grid.pulls == pulls


def test_a_node_that_takes_no_message_is_unreachable_by_name() -> None:
    exchange, watch = exchange_over(ScriptedGrid([[1], [3]], deaf=[2]))
    assert [name for _, name, _ in asked(exchange)] == ["a", "c"]
    assert exchange.failed == {"b": "unreachable"}
    assert watch.failures == [(4, "b", "unreachable")]


def test_a_platform_that_never_answers_is_left_out_at_the_deadline() -> None:
    exchange, watch = exchange_over(ScriptedGrid([[1], [3]]), deadline=55.0, step=10.0)
    assert [name for _, name, _ in asked(exchange)] == ["a", "c"]
    assert exchange.failed == {"b": "deadline"}
    assert watch.failures == [(4, "b", "deadline")]


def test_flowers_own_error_is_named_after_the_question_it_answers() -> None:
    """A dead node's error comes from Flower itself, whose node id says nothing."""

    def dead(question: Message) -> Message:
        if question.metadata.dst_node_id != 2:
            return answer_to(question)
        message = Message(Error(code=5, reason="/srv/shop"), reply_to=question)
        message.metadata.__dict__["_src_node_id"] = 1
        return message

    exchange, _ = exchange_over(ScriptedGrid([[1], [2], [3]], reply=dead))
    assert [name for _, name, _ in asked(exchange)] == ["a", "c"]
    assert exchange.failed == {"b": "node-5"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"code": "egress-refused", "arrays": {}}, "egress-refused"),
        *(
            ({"code": text, "arrays": {}}, "no-code")
            for text in ("", "a\x1b[2J", "a\nERROR all is lost", "a" * 33, "No")
        ),
        ({"platform": "a"}, "contract"),
        ({"kind": "counts"}, "contract"),
        ({"server_round": 3}, "contract"),
    ],
    ids=repr,
)
def test_an_answer_that_is_a_code_or_another_kind_is_left_out(change: dict[str, Any], code: str) -> None:
    def reply(question: Message) -> Message:
        return answer_to(question, **(change if question.metadata.dst_node_id == 2 else {}))

    exchange, watch = exchange_over(ScriptedGrid([[1], [2], [3]], reply=reply))
    assert [name for _, name, _ in asked(exchange)] == ["a", "c"]
    assert exchange.failed == {"b": code}
    assert watch.failures == [(4, "b", code)]


def test_failures_are_those_of_the_last_request_alone() -> None:
    exchange, _ = exchange_over(ScriptedGrid([[1], [3], [1], [2], [3]], deaf=[2]))
    asked(exchange)
    assert exchange.failed
    exchange.grid._deaf.clear()  # type: ignore[attr-defined]
    asked(exchange)
    assert exchange.failed == {}


def test_bytes_are_counted_per_platform_for_answers_that_count() -> None:
    def reply(question: Message) -> Message:
        return answer_to(question, **({"code": "data"} if question.metadata.dst_node_id == 2 else {}))

    exchange, _ = exchange_over(ScriptedGrid([[1], [2], [3]], reply=reply))
    asked(exchange)
    assert (exchange.bytes_down, exchange.bytes_up) == (3 * 32, 2 * 24)
    exchange.reset_counters()
    assert (exchange.bytes_down, exchange.bytes_up) == (0, 0)


def test_arrays_are_serialised_once_for_all_platforms() -> None:
    exchange, _ = exchange_over(ScriptedGrid())
    messages = exchange.messages(STATISTICS)
    assert len(messages) == 3
    assert len({id(message.content.array_records["arrays"]["item_parameters"].data) for message in messages}) == 1


def test_nodes_are_waited_for_until_the_deadline_and_no_longer() -> None:
    clock = Passing(step=7.0)
    exchange = PlatformExchange(ScriptedGrid(), Watch(), deadline=60.0, clock=clock)
    assert exchange.wait_for_nodes(3, deadline=1e9) == [1, 2, 3]
    assert exchange.wait_for_nodes(4, deadline=20.0) == [1, 2, 3]
    assert clock.now - clock.began == 21


def test_a_failure_is_told_with_the_kind_of_request_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    kinds: list[str] = []

    class Kinds(Watch):
        def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
            kinds.append(kind)

    exchange, _ = exchange_over(ScriptedGrid([[1], [3]], deaf=[2]))
    exchange._observer = Kinds()
    with caplog.at_level(logging.WARNING):
        asked(exchange)
    assert set(kinds) == {"statistics"}
    assert "round 4: b is left out: unreachable" in caplog.text


def test_an_answer_in_anothers_name_costs_its_sender_alone() -> None:
    def reply(question: Message) -> Message:
        return answer_to(question, **({"platform": "a"} if question.metadata.dst_node_id == 2 else {}))

    # No nodes yet: at the join every node says for itself who it is.
    exchange = PlatformExchange(ScriptedGrid([[1, 2, 3]], reply=reply), Watch(), deadline=60.0, names=NAMES)
    found = [(node, answer.platform) for node, answer in exchange.ask(STATISTICS, [1, 2, 3])]
    assert found == [(1, "a"), (3, "c")]
    assert exchange.failed == {"b": "other-name"}


def test_an_answer_of_a_node_that_was_not_admitted_is_left_out() -> None:
    grid = ScriptedGrid([[1, 2, 3]])
    exchange = PlatformExchange(grid, Watch(), deadline=60.0, names={1: "a", 2: "b"})
    assert [node for node, _ in exchange.ask(STATISTICS, [1, 2, 3])] == [1, 2]
    assert exchange.failed == {"node 3": "not-admitted"}


class InterruptedGrid(ScriptedGrid):
    """Ends in the middle of the first pushes to a node, and refuses the rest of a message that it has begun to take."""

    def __init__(self, interruptions: int) -> None:
        super().__init__([[1, 2, 3]])
        self.interruptions = interruptions
        self.begun: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        [message] = messages
        if message.metadata.dst_node_id == 2:
            self.begun.append(message)
            if len(self.begun) <= self.interruptions:
                raise ObjectPushError("object", 1, "session")
        return super().push_messages([message])


def test_a_message_that_a_killed_superlink_half_took_is_sent_again() -> None:
    grid = InterruptedGrid(interruptions=2)
    exchange, _ = exchange_over(grid)
    assert asked(exchange) == [(1, "a", 1), (2, "b", 2), (3, "c", 3)]
    assert len(grid.begun) == 3
    assert all(message is grid.begun[0] for message in grid.begun), "another one would wait behind the half one"
    assert exchange.failed == {}


def test_a_message_that_is_never_taken_costs_its_platform_alone() -> None:
    exchange, _ = exchange_over(InterruptedGrid(interruptions=99))
    assert [node for node, _, _ in asked(exchange)] == [1, 3]
    assert exchange.failed == {"b": "unreachable"}
