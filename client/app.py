"""The courier: the Flower ClientApp. It has no data and decides nothing.

Flower starts a process per message and ships this code from the aggregator's side, so the platform does not trust it: it
carries a request to the platform's own agent and the agent's answer back. It imports neither TensorFlow nor the data code.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.remote import RemoteAgent
from common.errors import ConfigError, CrossfedError
from common.exchange import AgentConnection, AgentReply
from common.messages import reply_content, request_of

Connect = Callable[[Context], AbstractContextManager[AgentConnection]]


def make_courier(connect: Connect) -> ClientApp:
    """A ClientApp that relays every message to the agent that ``connect`` reaches for its node."""
    app = ClientApp()

    def relay(message: Message, context: Context) -> Message:
        group = message.metadata.group_id
        try:
            request = request_of(message)
            with connect(context) as agent:
                reply = agent.exchange(request)
        except CrossfedError as error:
            # Only the code may cross the wire: the text can name files of the platform.
            reply = AgentReply(platform="", kind="", server_round=int(group or 0), code=error.code)
        return Message(reply_content(reply), reply_to=message)

    app.query()(relay)
    app.train()(relay)
    app.evaluate()(relay)
    return app


def agent_on_socket(context: Context) -> AbstractContextManager[AgentConnection]:
    """Reach the agent on the socket that the node's own configuration names.

    ``agent-socket`` in the SuperNode's node config is a path. Flower's simulation engine gives nodes no config of their
    own but a ``partition-id``; there the run config's ``agent-sockets`` names a folder with one socket a partition.

    Raises:
        ConfigError: neither is set.
    """
    own = context.node_config.get("agent-socket")
    if own is not None:
        return RemoteAgent(Path(str(own)))
    folder, partition = context.run_config.get("agent-sockets"), context.node_config.get("partition-id")
    if folder is None or partition is None:
        raise ConfigError("the SuperNode's node config lacks 'agent-socket': the path of the platform agent's socket")
    return RemoteAgent(Path(str(folder)) / f"{partition}.sock")


app = make_courier(agent_on_socket)
