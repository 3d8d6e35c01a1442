"""The Flower ServerApp: one federation run, from its last checkpoint if it has one.

SuperExec starts it as a process of its own on the aggregator's host. What it needs to know beyond the run's name it
reads from the aggregator's own configuration, so that nothing of it crosses the wire.
"""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.config.loader import load_yaml_model
from common.deploy.logs import set_up_logs
from common.deploy.roles import AggregatorConfig
from common.errors import ConfigError
from server.deploy.admission import AdmissionBook, AdmittedNames
from server.deploy.runs import RunFolder
from server.deploy.superlink import CONFIG_VARIABLE
from server.deploy.tracing import traced
from server.strategy import FederatedFactorization

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation named by the run configuration."""
    set_up_logs()
    config = _config()
    run = RunFolder(config.state, str(context.run_config["run-name"]))
    recorder = run.observer()
    with run.recorded(), traced(recorder, config.traces, run.name) as observer:
        strategy = FederatedFactorization(
            config.plan,
            run.checkpoints(keep=config.keep_checkpoints),
            run_id=run.name,
            observer=observer,
            deadline=config.deadline,
            join_deadline=config.join_deadline,
            names=AdmittedNames(AdmissionBook(config.platforms)),
            on_waiting=recorder.on_waiting,
        )
        strategy.start(grid)


def _config() -> AggregatorConfig:
    path = os.environ.get(CONFIG_VARIABLE)
    if path is None:
        raise ConfigError(f"{CONFIG_VARIABLE} is not set: crossfed-server start runs this ServerApp")
    return load_yaml_model(Path(path), AggregatorConfig)
