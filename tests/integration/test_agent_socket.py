"""The agent behind its Unix socket answers what it answers in process, to its own user alone."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from client.agent import PlatformAgent
from client.remote import RemoteAgent
from client.service.agent_service import serve_agent
from common.catalogue import unpack_blobs
from common.errors import InUseError, PlatformError, StoreError
from common.proto import agent_pb2
from common.proto.agent_pb2_grpc import PlatformAgentStub
from common.proto.convert import request_to_proto
from common.wire.exchange import AgentConnection, AgentReply, AgentRequest
from tests.support import SECRET, Recorder, agents_of, federate, random_platforms, small_plan

PLAN = small_plan()
SECRET_TEXT = "private-user in /srv/shop/ratings.csv"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a socket's has at most 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="crossfed-") as name:
        yield Path(name)


def served(agent: AgentConnection, folder: Path, **options: Any) -> tuple[grpc.Server, Path]:
    path = folder / "agent.sock"
    return serve_agent(agent, "shop", path, **options), path


def stopped(server: grpc.Server) -> None:
    server.stop(grace=None).wait()


def test_a_federation_over_sockets_is_the_same_to_the_bit(tmp_path: Path, folder: Path) -> None:
    platforms = random_platforms(2, (7, 4))
    near = [Recorder(agent) for agent in agents_of(platforms, PLAN, tmp_path / "near")]
    in_process = federate(near, PLAN, tmp_path / "near").state
    behind = agents_of(platforms, PLAN, tmp_path / "far")
    servers = [serve_agent(agent, agent.name, folder / f"{agent.name}.sock") for agent in behind]
    remotes = [RemoteAgent(folder / f"{agent.name}.sock", timeout=60) for agent in behind]
    far = [Recorder(remote) for remote in remotes]
    try:
        over_sockets = federate(far, PLAN, tmp_path / "far").state
    finally:
        for remote, server in zip(remotes, servers, strict=True):
            remote.__exit__(None, None, None)
            stopped(server)
    assert over_sockets.item_parameters.tobytes() == in_process.item_parameters.tobytes()
    for one, other in zip(near, far, strict=True):
        for (_, here), (_, there) in zip(one.seen, other.seen, strict=True):
            assert_same_answer(here, there)


def assert_same_answer(here: AgentReply, there: AgentReply) -> None:
    assert (here.platform, here.kind, here.server_round, here.code, dict(here.config)) == (
        there.platform,
        there.kind,
        there.server_round,
        there.code,
        dict(there.config),
    )
    assert here.arrays.keys() == there.arrays.keys()
    for name, array in here.arrays.items():
        assert array.dtype == there.arrays[name].dtype
        # Sealed cards have random nonces: the same card never looks the same.
        if name != "cards":
            assert array.tobytes() == there.arrays[name].tobytes()
    if here.kind == "join":
        opened = [
            SECRET.open_cards(
                unpack_blobs(reply.arrays["cards"], reply.arrays["card_offsets"]), reply.arrays["digests"]
            )
            for reply in (here, there)
        ]
        assert opened[0] == opened[1]


@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_the_socket_has_exactly_the_mode_that_was_asked_for(folder: Path, mode: int) -> None:
    before = os.umask(0)
    try:
        server, path = served(Answering(), folder, mode=mode)
        assert os.umask(0) == 0, "the process keeps its own umask"
    finally:
        os.umask(before)
    try:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        stopped(server)


def test_the_default_mode_admits_the_agents_own_user_alone(folder: Path) -> None:
    server, path = served(Answering(), folder)
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        stopped(server)


class Answering:
    """Says what it was asked; raises what it is told to."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.asked: list[AgentRequest] = []

    def exchange(self, request: AgentRequest) -> AgentReply:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return AgentReply(platform="shop", kind=request.kind, server_round=request.server_round)


def request(**parts: Any) -> AgentRequest:
    return AgentRequest(**{"kind": "counts", "run_id": "run", "server_round": 1} | parts)


def test_nobody_on_the_socket_is_a_platform_error(folder: Path) -> None:
    with RemoteAgent(folder / "nobody.sock", timeout=5) as agent, pytest.raises(PlatformError, match="UNAVAILABLE"):
        agent.exchange(request())


def test_a_lost_agent_is_a_platform_error_and_may_come_back(folder: Path) -> None:
    server, path = served(Answering(), folder)
    with RemoteAgent(path, timeout=60) as agent:
        assert agent.exchange(request()).code == "ok"
        stopped(server)
        with pytest.raises(PlatformError, match="did not answer on its socket"):
            agent.exchange(request())
    server, path = served(Answering(), folder)
    try:
        with RemoteAgent(path, timeout=60) as agent:
            assert agent.exchange(request()).code == "ok"
    finally:
        stopped(server)


@pytest.mark.parametrize("error", [ValueError(SECRET_TEXT), KeyError(SECRET_TEXT), StoreError(SECRET_TEXT)])
def test_what_fails_behind_the_socket_answers_a_code_without_its_text(folder: Path, error: Exception) -> None:
    server, path = served(Answering(error), folder)
    try:
        channel = grpc.insecure_channel(f"unix:{path}")
        answer = PlatformAgentStub(channel).Exchange(request_to_proto(request()), timeout=60)
        channel.close()
    finally:
        stopped(server)
    assert answer.code == (error.code if isinstance(error, StoreError) else "internal")
    assert (answer.platform, answer.kind, answer.server_round) == ("shop", "counts", 1)
    assert SECRET_TEXT.encode() not in answer.SerializeToString()


MALFORMED = {
    "unknown dtype": agent_pb2.NamedArray(name="x", dtype="O", shape=[1], data=b"\0" * 8),
    "no such dtype": agent_pb2.NamedArray(name="x", dtype="(2,f4", shape=[1], data=b"\0" * 8),
    "bytes too few": agent_pb2.NamedArray(name="x", dtype="<f4", shape=[3], data=b"\0" * 8),
    "negative shape": agent_pb2.NamedArray(name="x", dtype="<f4", shape=[-2], data=b"\0" * 8),
    "impossible shape": agent_pb2.NamedArray(name="x", dtype="<f4", shape=[0, 2**62, 2**62], data=b""),
}


@pytest.mark.parametrize("malformed", MALFORMED)
def test_a_malformed_array_never_reaches_the_agent(folder: Path, malformed: str) -> None:
    agent = Answering()
    server, path = served(agent, folder)
    try:
        channel = grpc.insecure_channel(f"unix:{path}")
        stub = PlatformAgentStub(channel)
        answer = stub.Exchange(
            agent_pb2.ExchangeRequest(kind="statistics", run_id="run", server_round=2, arrays=[MALFORMED[malformed]]),
            timeout=60,
        )
        config = stub.Exchange(agent_pb2.ExchangeRequest(kind="join", config_json="[" * 100_000), timeout=60)
        channel.close()
    finally:
        stopped(server)
    assert (answer.code, answer.kind, answer.server_round, len(answer.arrays)) == ("contract", "statistics", 2, 0)
    assert config.code == "contract"
    assert agent.asked == []


def test_requests_are_answered_one_at_a_time(folder: Path) -> None:
    """An agent is not made for threads: its steps build on one another."""
    import threading

    inside, most = 0, 0
    lock = threading.Lock()

    class Slow:
        def exchange(self, asked: AgentRequest) -> AgentReply:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            np.linalg.svd(np.ones((150, 150)))
            with lock:
                inside -= 1
            return AgentReply(platform="shop", kind=asked.kind, server_round=asked.server_round)

    server, path = served(Slow(), folder)
    try:
        channel = grpc.insecure_channel(f"unix:{path}")
        stub = PlatformAgentStub(channel)
        futures = [stub.Exchange.future(request_to_proto(request(server_round=n)), timeout=60) for n in range(8)]
        assert [future.result().server_round for future in futures] == list(range(8))
        channel.close()
    finally:
        stopped(server)
    assert most == 1


def test_a_path_that_is_too_long_and_a_missing_folder_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="at most 100 bytes; choose a shorter folder"):
        serve_agent(Answering(), "shop", folder / ("x" * 100))
    with pytest.raises(StoreError, match="is its folder there and writable"):
        serve_agent(Answering(), "shop", folder / "nowhere" / "agent.sock")


def test_a_live_agents_socket_is_not_taken_over(tmp_path: Path, folder: Path) -> None:
    (agent,) = agents_of(random_platforms(2, (5,)), PLAN, tmp_path)
    server, path = served(agent, folder)
    try:
        inode = path.stat().st_ino
        with pytest.raises(InUseError, match="an agent answers on this socket"):
            served(agent, folder)
        assert path.stat().st_ino == inode
    finally:
        stopped(server)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_no_socket_is_not_removed_for_one(tmp_path: Path, folder: Path, what: str) -> None:
    (agent,) = agents_of(random_platforms(2, (5,)), PLAN, tmp_path)
    path = folder / "agent.sock"
    path.write_text("orders") if what == "file" else path.mkdir()
    with pytest.raises(StoreError, match="this is no socket"):
        served(agent, folder)
    assert path.exists()


def test_a_stale_socket_of_a_killed_agent_is_replaced(folder: Path) -> None:
    import socket

    left = socket.socket(socket.AF_UNIX)
    left.bind(str(folder / "agent.sock"))
    left.close()
    server, path = served(Answering(), folder)
    try:
        with RemoteAgent(path, timeout=60) as agent:
            assert agent.exchange(request()).code == "ok"
    finally:
        stopped(server)


def test_the_real_agents_refusals_cross_the_socket_as_codes(tmp_path: Path, folder: Path) -> None:
    agent: PlatformAgent = agents_of(random_platforms(2, (4,)), PLAN, tmp_path)[0]
    server, path = served(agent, folder)
    try:
        with RemoteAgent(path, timeout=60) as remote:
            assert remote.exchange(request(kind="no such kind")).code == "contract"
            assert remote.exchange(request(kind="join", config={"plan": 1})).code == "contract"
            assert remote.exchange(request(kind="counts", server_round=0)).code == "out-of-order"
    finally:
        stopped(server)
