"""Simulate a whole federation on one machine."""

import os
from typing import TYPE_CHECKING

from common.public_names import public_names

if TYPE_CHECKING:
    from simulations.run import SimulationResult, simulate
    from simulations.scenarios.scenario import Scenario, load_scenario

__all__ = ["Scenario", "SimulationResult", "load_scenario", "simulate"]

# Read by gRPC when it is first imported: Ray forks while agents serve their sockets, and gRPC would log every fork.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# Small matrices, many of them: threads inside each product only wait for one another. Read when NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__getattr__ = public_names(
    __name__,
    {
        "Scenario": "simulations.scenarios.scenario",
        "SimulationResult": "simulations.run",
        "load_scenario": "simulations.scenarios.scenario",
        "simulate": "simulations.run",
    },
)
