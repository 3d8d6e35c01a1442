"""How a courier reaches its platform's agent."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import grpc

from common.errors import PlatformError
from common.proto.agent_pb2_grpc import PlatformAgentStub
from common.proto.convert import reply_from_proto, request_to_proto
from common.wire.exchange import AgentReply, AgentRequest

# The largest message of protobuf: contributions of big platforms are hundreds of megabytes.
MAX_MESSAGE_BYTES = 2**31 - 1
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)


class Connection:
    """A channel that is closed with the ``with`` block."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def close(self) -> None:
        self._channel.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RemoteAgent(Connection):
    """An :class:`~common.wire.exchange.AgentConnection` over a Unix socket. Use it as a context manager.

    Args:
        socket: path of the agent's socket.
        timeout: seconds to wait for one answer; a round of training is one answer.
    """

    def __init__(self, socket: Path, *, timeout: float = 3600.0) -> None:
        super().__init__(grpc.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS))
        self._timeout = timeout
        self._stub = PlatformAgentStub(self._channel)

    def exchange(self, request: AgentRequest) -> AgentReply:
        """Raises: PlatformError when no agent answers on the socket."""
        try:
            answer = self._stub.Exchange(request_to_proto(request), timeout=self._timeout, wait_for_ready=False)
        except grpc.RpcError as error:
            raise PlatformError(f"the platform agent did not answer on its socket ({error.code().name})") from None
        return reply_from_proto(answer)

    def __enter__(self) -> RemoteAgent:
        return self
