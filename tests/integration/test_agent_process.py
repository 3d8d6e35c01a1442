"""``crossfed-client start --part agent`` before the first federation: there is no model yet, and it lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from client.join import join_federation
from client.keys import KeyFolder
from common.config.deploy import AggregatorConfig, PlatformConfig
from common.config.federation import FederationPlan
from common.config.loader import load_yaml_model
from server.provisioning import initialise, invite
from simulations.deployment import free_port, wait_for


def test_a_hangup_before_the_first_model_reloads_and_does_not_end_the_agent(tmp_path: Path) -> None:
    plan = FederationPlan.model_validate({"federation": "films", "platforms": 2, "privacy": {"mode": "none"}})
    made = initialise(tmp_path / "fed", plan, "127.0.0.1:9443")
    invitation, interactions, log = tmp_path / "a.invitation", tmp_path / "views.csv", tmp_path / "log"
    invite(load_yaml_model(made.config, AggregatorConfig), "a", invitation)
    interactions.write_text("user_id,item_id\n" + "".join(f"{user},{user % 7}\n" for user in range(20)))
    ports = (free_port(), free_port())
    joined = join_federation(invitation, tmp_path / "a", interactions=interactions, ports=ports)
    KeyFolder(load_yaml_model(joined.config, PlatformConfig).keys).new_secret()
    command = [str(Path(sys.executable).parent / "crossfed-client"), "start", "--part", "agent"]
    with log.open("wb") as output:
        agent = subprocess.Popen([*command, "--config", str(joined.config)], stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: "platform a is ready" in log.read_text() or agent.poll() is not None, "the agent", 90)
        assert agent.poll() is None, log.read_text()
        os.kill(agent.pid, signal.SIGHUP)
        wait_for(lambda: "the next run uses it" in log.read_text() or agent.poll() is not None, "the reload", 90)
        assert agent.poll() is None, log.read_text()
        os.kill(agent.pid, signal.SIGTERM)
        assert agent.wait(60) == 0
        assert "platform a has stopped" in log.read_text()
    finally:
        agent.kill()
        agent.wait()
