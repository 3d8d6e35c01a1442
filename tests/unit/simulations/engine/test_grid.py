from __future__ import annotations

import gc
import threading
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message

from client.app import make_courier
from common.config.federation import FederationPlan
from common.config.platform import PersonalizationConfig
from common.wire.exchange import AgentReply, AgentRequest
from common.wire.messages import request_content
from server.federation.checkpoint import CheckpointStore
from server.strategy import FederatedFactorization
from simulations.engine.federate import inline_grid, platforms_ahead
from simulations.engine.grid import InlineGrid, SharedClock
from simulations.scenarios.scenario import Scenario
from tests.support import SECRET, Watch, agents_of, flower_message, random_platforms, run_platforms, small_plan

PLATFORMS = 1000
PLAN = small_plan(rounds=1, model={"dimension": 2})


class Stub:
    """A platform of one user and two items, one of them everybody's; says what the contract asks and no more."""

    def __init__(self, number: int) -> None:
        self.name = f"platform-{number:04d}"
        self._digests = SECRET.digests(["common:1", f"own:{number}"])

    def exchange(self, request: AgentRequest) -> AgentReply:
        arrays: dict[str, Any] = {}
        config: dict[str, Any] = {}
        if request.kind == "join":
            config = {"secret_fingerprint": SECRET.fingerprint}
            arrays = {
                "digests": self._digests,
                "cards": np.zeros(0, np.uint8),
                "card_offsets": np.zeros(3, np.int64),
                "feature_tokens": np.zeros(0, np.uint64),
                "feature_offsets": np.zeros(3, np.int64),
                "identity": np.zeros(32, np.uint8),
            }
        elif request.kind == "counts":
            arrays = {"item_counts": np.ones(2), "totals": np.array([1.0, 2.0, 2.0])}
        elif request.kind == "statistics":
            arrays = {
                "gram": np.ones((2, 3), np.float32),
                "rhs": np.ones((2, 2), np.float32),
                "user_gram": np.eye(2),
                "objective": np.ones(1),
                "evaluation": np.zeros(2),
            }
        return AgentReply(
            platform=self.name, kind=request.kind, server_round=request.server_round, config=config, arrays=arrays
        )


def alive() -> int:
    """Answers that are alive in this process."""
    return sum(type(one) is AgentReply for one in gc.get_objects())


class Alive(Watch):
    """The most answers that are alive when one has been read, looked at a few times."""

    def __init__(self) -> None:
        super().__init__()
        self.most: Counter[str] = Counter()
        self._read: Counter[str] = Counter()
        # Other tests of this process may hold some.
        self._before = alive()

    def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
        super().on_reply(server_round, kind, platform, code, reply_bytes)
        self._read[kind] += 1
        if self._read[kind] % (PLATFORMS // 5) == 0:
            self.most[kind] = max(self.most[kind], alive() - self._before)


def test_a_thousand_platforms_are_folded_into_the_sum_one_at_a_time(tmp_path: Path) -> None:
    gc.collect()
    watch = Alive()
    agents = {node: Stub(node) for node in range(1, PLATFORMS + 1)}
    grid = InlineGrid(make_courier(lambda context: nullcontext(agents[context.node_id])), {node: {} for node in agents})
    strategy = FederatedFactorization(PLAN, CheckpointStore(tmp_path), run_id="run", observer=watch)
    gc.collect()
    gc.disable()
    try:
        strategy.start(grid)
    finally:
        gc.enable()
    (record,) = watch.rounds
    assert watch.failures == []
    assert len(record.platforms) == PLATFORMS
    assert len(strategy.state.vocabulary) == PLATFORMS + 1
    assert strategy.state.item_counts.max() == PLATFORMS
    # An answer, the one before it that is just being dropped, and what the loop variables still name.
    assert 1 <= watch.most["statistics"] <= 3
    assert 1 <= watch.most["counts"] <= 3


def grid_of(app: Any, nodes: int = 3) -> InlineGrid:
    return InlineGrid(app, {node: {"partition-id": node} for node in range(1, nodes + 1)}, {"run": "config"})


def question(node: int) -> Message:
    message = flower_message(request_content(AgentRequest(kind="counts", run_id="r", server_round=0)))
    message.metadata.__dict__["_dst_node_id"] = node
    return message


def test_each_pull_runs_one_node_in_the_order_of_sending() -> None:
    ran: list[int] = []

    def app(message: Message, context: Context) -> Message:
        ran.append(context.node_id)
        assert context.node_config["partition-id"] == context.node_id
        assert context.run_config["run"] == "config"
        return Message(message.content, reply_to=message)

    grid = grid_of(app)
    ids = list(grid.push_messages([question(2), question(3), question(1)]))
    assert ran == []
    for number, node in enumerate((2, 3, 1), start=1):
        (answer,) = grid.pull_messages(ids)
        assert ran[-1] == node
        assert len(ran) == number
        assert answer.metadata.reply_to_message_id == ids[number - 1]
    assert list(grid.pull_messages(ids)) == []


def test_only_what_is_asked_for_is_run() -> None:
    grid = grid_of(lambda message, context: Message(message.content, reply_to=message))
    first, second = grid.push_messages([question(1), question(2)])
    (answer,) = grid.pull_messages([second])
    assert answer.metadata.reply_to_message_id == second
    assert list(grid.pull_messages(["unknown"])) == []
    (answer,) = grid.pull_messages([first])
    assert answer.metadata.reply_to_message_id == first


def test_a_client_app_that_raises_answers_an_error_without_text() -> None:
    def app(message: Message, context: Context) -> Message:
        raise ValueError("private-user")

    grid = grid_of(app)
    ids = list(grid.push_messages([question(1)]))
    (answer,) = grid.pull_messages(ids)
    assert answer.has_error()
    assert answer.error.code == 8
    assert "private" not in str(answer.error.reason)


def test_sending_and_receiving_brings_all_answers() -> None:
    grid = grid_of(lambda message, context: Message(message.content, reply_to=message))
    answers = list(grid.send_and_receive([question(3), question(1)], timeout=0))
    assert len(answers) == 2
    assert sorted(grid.get_node_ids()) == [1, 2, 3]
    assert grid.run.run_id == 1


def test_platform_time_is_what_the_apps_took() -> None:
    grid = grid_of(lambda message, context: Message(message.content, reply_to=message))
    assert grid.platform_seconds == 0
    list(grid.send_and_receive([question(1)]))
    assert grid.platform_seconds > 0


def test_platforms_work_side_by_side_and_answer_in_order() -> None:
    second_ran = threading.Event()
    ran: list[int] = []

    def app(message: Message, context: Context) -> Message:
        ran.append(context.node_id)
        if context.node_id == 2:
            second_ran.set()
        # The first answer cannot be made before the second platform has begun.
        assert second_ran.wait(timeout=60)
        return Message(message.content, reply_to=message)

    with InlineGrid(app, {node: {} for node in (1, 2, 3)}, ahead=1) as grid:
        ids = list(grid.push_messages([question(1), question(2), question(3)]))
        answers = [grid.pull_messages(ids)]
        assert 3 not in ran, "one ahead, and no more"
        answers += [grid.pull_messages(ids), grid.pull_messages(ids)]
    assert [answer.metadata.reply_to_message_id for (answer,) in answers] == ids
    assert list(grid.pull_messages(ids)) == []


def test_what_was_begun_ahead_is_over_when_the_grid_is_left() -> None:
    begun, ended = threading.Event(), threading.Event()
    left = threading.Event()

    def app(message: Message, context: Context) -> Message:
        if context.node_id == 2:
            begun.set()
            left.wait(timeout=60)
            ended.set()
        return Message(message.content, reply_to=message)

    def interrupted() -> None:
        with InlineGrid(app, {1: {}, 2: {}}, ahead=1) as grid:
            grid.pull_messages(list(grid.push_messages([question(1), question(2)])))
            assert begun.wait(timeout=60)
            left.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ended.is_set()


def test_platform_time_counts_an_instant_once() -> None:
    now = iter([10.0, 17.0, 20.0, 21.0])
    clock = SharedClock(lambda: next(now))
    with clock, clock:
        pass
    assert clock.seconds == 7.0
    with clock:
        pass
    assert clock.seconds == 8.0


def test_in_parallel_or_in_sequence_the_federation_is_the_same(tmp_path: Path) -> None:
    plan = small_plan(rounds=3)
    platforms = random_platforms(3, (30, 20, 25, 9))
    beside = run_platforms(platforms, plan, tmp_path / "beside", ahead=platforms_ahead(scenario_of(plan))).state
    with inline_grid(agents_of(platforms, plan, tmp_path / "apart")) as grid:
        strategy = FederatedFactorization(plan, CheckpointStore(tmp_path / "apart" / "aggregator"), run_id="simulation")
        strategy.start(grid)
    assert platforms_ahead(scenario_of(plan)) > 0
    assert np.array_equal(beside.item_parameters, strategy.state.item_parameters)
    assert [record.objective for record in beside.history] == [record.objective for record in strategy.state.history]


def scenario_of(plan: FederationPlan, **personalization: Any) -> Scenario:
    return Scenario.model_construct(plan=plan, personalization=PersonalizationConfig.model_validate(personalization))


def test_keras_models_are_trained_one_platform_after_the_other() -> None:
    assert platforms_ahead(scenario_of(small_plan(towers={"dimension": 4}))) == 0
    assert platforms_ahead(scenario_of(small_plan(), ranker={"enabled": True})) == 0


def test_messages_can_be_made_the_old_way_too() -> None:
    grid = grid_of(lambda message, context: Message(message.content, reply_to=message))
    content = request_content(AgentRequest(kind="counts", run_id="r", server_round=0))
    message = grid.create_message(content, "query", 2, "7", ttl=3.0)
    assert (message.metadata.dst_node_id, message.metadata.group_id) == (2, "7")
