"""The server side of the agent's socket: serves one :class:`~client.agent.PlatformAgent` to its courier."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger
from pathlib import Path

import grpc

from client.remote import CHANNEL_OPTIONS
from common.errors import CrossfedError, InternalError, InUseError, StoreError
from common.proto import agent_pb2, agent_pb2_grpc
from common.proto.convert import reply_to_proto, request_from_proto
from common.wire.exchange import AgentConnection, AgentReply

_log = getLogger(__name__)


class AgentServicer(agent_pb2_grpc.PlatformAgentServicer):
    """Hands every request to the agent, one at a time; what the agent refuses comes back as a code."""

    def __init__(self, agent: AgentConnection, platform: str) -> None:
        self._agent = agent
        self._platform = platform

    def Exchange(  # noqa: N802 (the name is the protocol's)
        self, request: agent_pb2.ExchangeRequest, context: grpc.ServicerContext
    ) -> agent_pb2.ExchangeReply:
        try:
            reply = self._agent.exchange(request_from_proto(request))
        except CrossfedError as error:
            reply = self._refusal(request, error.code)
        except Exception:
            # gRPC would send the text of an exception to the courier, which the platform does not trust.
            _log.exception("%s: %s of round %d failed", self._platform, request.kind, request.server_round)
            reply = self._refusal(request, InternalError.code)
        return reply_to_proto(reply)

    def _refusal(self, request: agent_pb2.ExchangeRequest, code: str) -> AgentReply:
        return AgentReply(platform=self._platform, kind=request.kind, server_round=request.server_round, code=code)


def _make_way(path: Path) -> None:
    """Remove the socket of an agent that has ended; refuse to remove anything else."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise StoreError(f"{path}: the agent's socket would go here, and this is no socket; set another socket.path")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise StoreError(f"{path}: cannot be asked whether an agent answers there ({error.strerror})") from error
    raise InUseError(f"{path}: an agent answers on this socket; end it first, or set another socket.path")


class SocketWatch:
    """Looks whether the agent's socket is still the one that was made: a server does not notice that its file is gone.

    Args:
        path: of the socket, which is there.
        tell: told when it is gone, and when it is back.
        seconds: between two looks.
    """

    def __init__(self, path: Path, tell: Callable[[bool], None], *, seconds: float = 1.0) -> None:
        self._path = path
        self._tell = tell
        self._seconds = seconds
        self._made = _identity(path)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="agent-socket", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        there = True
        while not self._ended.wait(self._seconds):
            now = _identity(self._path) == self._made
            if now != there:
                there = now
                if not there:
                    _log.error(
                        "%s: the agent's socket is gone or another's, so that no request of the aggregator reaches this agent; "
                        "restart crossfed-client start",
                        self._path,
                    )
                self._tell(there)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def serve_agent(agent: AgentConnection, platform: str, at: Path, *, mode: int = 0o600) -> grpc.Server:
    """Serve ``agent`` on a Unix socket; the caller stops the server.

    Args:
        agent: answers.
        platform: its name.
        at: path of the socket; that of an agent which has ended is replaced.
        mode: permission bits of the socket. 0600 admits only the agent's own user; a courier under another user needs
            0660 and a shared group.

    Raises:
        InUseError: an agent answers there.
        StoreError: something else lies there, or the socket cannot be made (path over 100 bytes, folder missing or not
            writable).
    """
    path = at.resolve()
    if len(os.fsencode(path)) > 100:
        raise StoreError(f"{path}: a Unix socket's path has at most 100 bytes; choose a shorter folder")
    _make_way(path)
    server = grpc.server(ThreadPoolExecutor(max_workers=1, thread_name_prefix="agent"), options=CHANNEL_OPTIONS)
    agent_pb2_grpc.add_PlatformAgentServicer_to_server(AgentServicer(agent, platform), server)
    try:
        # The socket must never exist with wider permissions than asked for, not even for a moment.
        previous = os.umask(0o777 & ~mode)
        try:
            server.add_insecure_port(f"unix:{path}")
        finally:
            os.umask(previous)
    except RuntimeError as error:
        raise StoreError(f"{path}: the agent's socket cannot be opened; is its folder there and writable?") from error
    server.start()
    return server
