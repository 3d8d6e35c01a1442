"""The server side of the agent's socket: serves one :class:`~client.agent.PlatformAgent` to its courier."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger
from pathlib import Path

import grpc

from client.remote import CHANNEL_OPTIONS
from common.errors import CrossfedError, InternalError, StoreError
from common.exchange import AgentConnection, AgentReply
from common.proto import agent_pb2, agent_pb2_grpc
from common.proto.convert import reply_to_proto, request_from_proto

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


def serve_agent(agent: AgentConnection, platform: str, socket: Path, *, mode: int = 0o600) -> grpc.Server:
    """Serve ``agent`` on a Unix socket; the caller stops the server.

    Args:
        mode: permission bits of the socket. 0600 admits only the agent's own user; a courier under another user needs
            0660 and a shared group.

    Raises:
        StoreError: the socket cannot be made (path over 100 bytes, folder missing or not writable).
    """
    path = socket.resolve()
    if len(os.fsencode(path)) > 100:
        raise StoreError(f"{path}: a Unix socket's path has at most 100 bytes; choose a shorter folder")
    path.unlink(missing_ok=True)
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
