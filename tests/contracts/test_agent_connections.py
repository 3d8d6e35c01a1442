"""Every way to reach an agent keeps one contract, whatever the aggregator asks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from client.agent import PlatformAgent
from client.app import make_courier
from client.remote import RemoteAgent
from client.service.agent_service import serve_agent
from common import errors
from common.catalogue import Vocabulary
from common.contributions.broadcast import card_arrays, vocabulary_arrays
from common.wire.exchange import AgentConnection, AgentReply, AgentRequest
from common.wire.messages import reply_of, request_content
from tests.support import SECRET, agents_of, flower_message, matrix, small_plan, training_data

PLAN = small_plan()
KEYS = ["imdb:1", "imdb:2", "shop:3"]
CODES = {error.code for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)}
KINDS = ["join", "vocabulary", "counts", "statistics", "finish", "secure_sum", "masked_counts", "masked_statistics"]


class Courier:
    """The agent as Flower sees it."""

    def __init__(self, agent: AgentConnection) -> None:
        self._app = make_courier(lambda context: nullcontext(agent))

    def exchange(self, request: AgentRequest) -> AgentReply:
        state = RecordDict({"state": ConfigRecord()})
        context = Context(run_id=1, node_id=1, node_config={}, state=state, run_config={})
        return reply_of(self._app(flower_message(request_content(request), request.server_round), context))


@pytest.fixture(scope="module", params=["in process", "over the socket", "through the courier"])
def connection(request: pytest.FixtureRequest) -> Iterator[AgentConnection]:
    with tempfile.TemporaryDirectory(prefix="crossfed-") as name:
        data = training_data(KEYS, matrix([[0, 1], [1, 2], [2]], 3), user_prefix="private-user")
        agent: PlatformAgent = agents_of({"shop": data}, PLAN, Path(name))[0]
        if request.param == "in process":
            yield agent
        elif request.param == "through the courier":
            yield Courier(agent)
        else:
            server = serve_agent(agent, "shop", Path(name) / "agent.sock")
            with RemoteAgent(Path(name) / "agent.sock", timeout=60) as remote:
                yield remote
            server.stop(grace=None).wait()


def handshake(connection: AgentConnection) -> None:
    vocabulary = Vocabulary.empty().extended({"shop": SECRET.digests(KEYS)})
    arrays = vocabulary_arrays(vocabulary) | card_arrays([b""] * 3)
    plan = PLAN.model_dump(mode="json")
    join = AgentRequest(kind="join", run_id="run", server_round=0, config={"plan": plan})
    vocabulary_is = AgentRequest(
        kind="vocabulary", run_id="run", server_round=0, config={"platforms": ["shop"]}, arrays=arrays
    )
    assert [connection.exchange(each).code for each in (join, vocabulary_is)] == ["ok", "ok"]


def parameters() -> dict[str, Any]:
    return {"item_parameters": np.ones((3, 4), np.float32), "item_counts": np.ones(3)}


def test_an_honest_run_is_answered(connection: AgentConnection) -> None:
    handshake(connection)
    counts = connection.exchange(AgentRequest(kind="counts", run_id="run", server_round=0))
    assert counts.arrays["item_counts"].tolist() == [1, 2, 2]
    statistics = AgentRequest(kind="statistics", run_id="run", server_round=1, arrays=parameters())
    first, again = connection.exchange(statistics), connection.exchange(statistics)
    assert first.code == again.code == "ok"
    assert {n: a.tobytes() for n, a in first.arrays.items()} == {n: a.tobytes() for n, a in again.arrays.items()}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
config_names = st.sampled_from(["plan", "platforms", "value_mean", "step"]) | st.text(max_size=5)
array_names = st.sampled_from(
    ["digests", "owners", "cards", "card_offsets", "item_parameters", "item_counts", "message", "x"]
)
any_arrays = st.sampled_from(["uint8", "int64", "float32", "float64", "bool", "float16"]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
shaped = st.fixed_dictionaries(
    {
        "item_parameters": hnp.arrays("float32", (3, 4), elements=st.floats(width=32)),
        "item_counts": hnp.arrays("float64", (3,), elements=st.floats(-1e300, 1e300)),
    }
)
requests = st.builds(
    AgentRequest,
    kind=st.sampled_from(KINDS) | st.text(max_size=8),
    run_id=st.sampled_from(["run", "other"]) | st.text(max_size=5),
    server_round=st.integers(0, 2**31 - 1),
    config=st.dictionaries(config_names, json_values, max_size=3),
    arrays=st.dictionaries(array_names, any_arrays, max_size=4) | shaped,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(request=requests)
def test_every_request_is_answered_and_a_refusal_is_a_code_alone(
    connection: AgentConnection, request: AgentRequest
) -> None:
    reply = connection.exchange(request)
    if reply.code == "ok":
        assert (reply.platform, reply.kind, reply.server_round) == ("shop", request.kind, request.server_round)
        assert all(np.isfinite(array).all() for array in reply.arrays.values())
    else:
        assert reply.code in CODES - {"internal"}, "nothing that is asked comes as a surprise"
        assert (dict(reply.arrays), dict(reply.config)) == ({}, {})
    assert "private-user" not in json.dumps(dict(reply.config))


def test_after_all_that_an_honest_run_is_still_answered(connection: AgentConnection) -> None:
    handshake(connection)
    last = AgentRequest(kind="statistics", run_id="run", server_round=3, arrays=parameters())
    assert connection.exchange(last).code == "ok"
    finish = AgentRequest(kind="finish", run_id="run", server_round=3, arrays=parameters())
    assert connection.exchange(finish).code == "ok"
