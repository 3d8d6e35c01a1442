"""The courier: the Flower ClientApp. It has no data and decides nothing.

Flower starts a process per message and ships this code from the aggregator's side, so the platform does not trust it: it
carries a request to the platform's own agent and the agent's answer back. It imports neither TensorFlow nor the data code.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from logging import getLogger
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.remote import RemoteAgent
from common.errors import ConfigError, CrossfedError, InternalError
from common.wire.exchange import AgentConnection, AgentReply
from common.wire.messages import reply_content, request_of

_log = getLogger(__name__)

Connect = Callable[[Context], AbstractContextManager[AgentConnection]]


def make_courier(connect: Connect) -> ClientApp:
    """A ClientApp that relays every message to the agent that ``connect`` reaches for its node."""
    app = ClientApp()

    def relay(message: Message, context: Context) -> Message:
        try:
            request = request_of(message)
            with connect(context) as agent:
                reply = agent.exchange(request)
        except CrossfedError as error:
            reply = _refusal(message, error.code)
        except Exception:
            # This is the wire's edge: Flower would send the text of an exception to the aggregator.
            _log.exception("the courier failed")
            reply = _refusal(message, InternalError.code)
        return Message(reply_content(reply), reply_to=message)

    app.query()(relay)
    app.train()(relay)
    app.evaluate()(relay)
    return app


def _refusal(message: Message, code: str) -> AgentReply:
    # Only the code may cross the wire: the text can name files of the platform.
    return AgentReply(platform="", kind="", server_round=int(message.metadata.group_id or 0), code=code)


def agent_on_socket(context: Context) -> AbstractContextManager[AgentConnection]:
    """Reach the agent on the socket that the SuperNode's own configuration names (``agent-socket``).

    Raises:
        ConfigError: it names none.
    """
    path = context.node_config.get("agent-socket")
    if path is None:
        raise ConfigError("the SuperNode's node config lacks 'agent-socket': the path of the platform agent's socket")
    return RemoteAgent(Path(str(path)))


def socket_of_partition(context: Context) -> AbstractContextManager[AgentConnection]:
    """Reach the agent of a simulated node: socket ``PARTITION.sock`` in the folder ``$CROSSFED_AGENT_SOCKETS``.

    Raises:
        ConfigError: no simulation has set the folder.
    """
    folder = os.environ.get("CROSSFED_AGENT_SOCKETS")
    if folder is None:
        raise ConfigError("CROSSFED_AGENT_SOCKETS is not set: only the simulator's ray backend runs this courier")
    return RemoteAgent(Path(folder) / f"{context.node_config['partition-id']}.sock")


app = make_courier(agent_on_socket)
