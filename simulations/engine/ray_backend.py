"""The ray backend: Flower's own simulation engine runs the same ServerApp and courier.

Any Ray actor may serve any node, and an actor has the couriers' code only. So the agents stay in this process, and the
couriers reach them over Unix sockets, exactly as in a deployment.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from client.agent import PlatformAgent
from client.app import make_courier, socket_of_partition
from client.service.agent_service import serve_agent
from common.errors import FederationError
from common.wire.exchange import AgentReply, AgentRequest
from server.strategy import FederatedFactorization

SOCKETS = "CROSSFED_AGENT_SOCKETS"
_SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def run_on_ray(strategy: FederatedFactorization, agents: Sequence[PlatformAgent]) -> float:
    """Run the strategy over the agents in Flower's simulation engine; returns the seconds spent in the platforms.

    Raises:
        FederationError: the engine failed.
    """
    os.environ.update(_SETTINGS)
    clocked = [_Clocked(agent) for agent in agents]
    outcome: list[BaseException] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            strategy.start(grid)
        except BaseException as error:
            outcome.append(error)
            raise

    with _sockets(clocked):
        try:
            run_simulation(
                server_app=server,
                client_app=make_courier(socket_of_partition),
                num_supernodes=len(clocked),
                backend_config={
                    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                    "init_args": {"log_to_driver": False, "logging_level": logging.ERROR},
                },
            )
        except RuntimeError as error:
            cause = outcome[0] if outcome else error
            raise FederationError(f"Flower's simulation engine stopped: {cause}") from cause
    if outcome:
        raise outcome[0]
    return sum(agent.seconds for agent in clocked)


class _Clocked:
    """An agent with a stopwatch."""

    def __init__(self, agent: PlatformAgent) -> None:
        self.name = agent.name
        self.seconds = 0.0
        self._agent = agent

    def exchange(self, request: AgentRequest) -> AgentReply:
        started = time.perf_counter()
        try:
            return self._agent.exchange(request)
        finally:
            self.seconds += time.perf_counter() - started


@contextmanager
def _sockets(agents: Sequence[_Clocked]) -> Iterator[Path]:
    """One socket a partition, in a short-named private folder that couriers in other processes find by environment."""
    folder = Path(tempfile.mkdtemp(prefix="crossfed-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for partition, agent in enumerate(agents):
            server = serve_agent(agent, agent.name, folder / f"{partition}.sock")
            stack.callback(server.stop, grace=None)
        os.environ[SOCKETS] = str(folder)
        stack.callback(os.environ.pop, SOCKETS, None)
        yield folder
