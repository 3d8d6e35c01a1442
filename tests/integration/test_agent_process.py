"""``crossfed-client start --part agent`` before the first federation: there is no model yet, and it lives on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.deploy.agent_process import PlatformProcess
from client.deploy.join import join_federation
from client.keys import KeyFolder
from client.personalization.store import PlatformStore
from client.remote import RemoteAgent
from client.service.health import AGENT_HEALTH
from client.service.server import serve_recommender
from client.steering.hidden import HiddenItems
from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.locks import held
from common.deploy.roles import AggregatorConfig, PlatformConfig
from common.errors import InUseError
from common.wire.exchange import AgentRequest
from server.deploy.provisioning import initialise, invite
from simulations.engine.deployment import free_port, wait_for
from simulations.engine.random_model import random_platform_model

ROOT = str(Path(__file__).parents[2])
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a socket's has at most 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="crossfed-") as name:
        yield Path(name)


@pytest.fixture
def config(folder: Path) -> Path:
    """``platform.yaml`` of a platform that has joined."""
    plan = read_plan({"federation": "films", "platforms": 2, "privacy": {"mode": "none"}})
    made = initialise(folder / "fed", plan, "127.0.0.1:9443")
    invitation, interactions = folder / "a.invitation", folder / "views.csv"
    invite(load_yaml_model(made.config, AggregatorConfig), "a", invitation)
    interactions.write_text("user_id,item_id\n" + "".join(f"{user},{user % 7}\n" for user in range(20)))
    joined = join_federation(invitation, folder / "a", interactions=interactions, ports=(free_port(), free_port()))
    KeyFolder(load_yaml_model(joined.config, PlatformConfig).keys).new_secret()
    return joined.config


@dataclass
class Agent:
    process: subprocess.Popen[bytes]
    log: Path

    def wait_said(self, text: str) -> None:
        wait_for(lambda: text in self.log.read_text() or self.process.poll() is not None, repr(text), 90)
        assert self.process.poll() is None, self.log.read_text()

    def end(self) -> None:
        os.kill(self.process.pid, signal.SIGTERM)
        assert self.process.wait(60) == 0
        assert "platform a has stopped" in self.log.read_text()


def command(config: Path) -> list[str]:
    return [sys.executable, "-m", "client", "start", "--part", "agent", "--config", str(config)]


@contextmanager
def agent_of(config: Path) -> Iterator[Agent]:
    log = config.parent / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(config), stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": ROOT}
        )
    agent = Agent(process, log)
    try:
        agent.wait_said("platform a is ready")
        yield agent
    finally:
        process.kill()
        process.wait()


def code_of(socket: Path) -> str:
    with RemoteAgent(socket, timeout=30) as remote:
        request = AgentRequest(kind="no such kind", run_id="r", server_round=0, config={}, arrays={})
        return remote.exchange(request).code


def test_a_hangup_before_the_first_model_does_not_end_the_agent(config: Path) -> None:
    with agent_of(config) as agent:
        os.kill(agent.process.pid, signal.SIGHUP)
        agent.wait_said("the next run uses it")
        agent.end()


def test_a_hidden_item_leaves_the_next_run_and_http_answers(config: Path) -> None:
    port = free_port()
    config.write_text(re.sub(r"(recommender:\n)", rf"\1  http: {{port: {port}}}\n", config.read_text()))
    settings = load_yaml_model(config, PlatformConfig)

    def shared(run_id: str) -> int:
        plan = settings.plan.model_dump(mode="json")
        request = AgentRequest(kind="join", run_id=run_id, server_round=0, config={"plan": plan}, arrays={})
        with RemoteAgent(settings.socket.path, timeout=30) as remote:
            return len(remote.exchange(request).arrays["digests"])

    with agent_of(config) as agent:
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 503, "there is no model yet"
        assert shared("r1") == 7
        HiddenItems(settings.state / "store").hide(["a:3"])
        agent.wait_said("hidden items have changed")
        assert shared("r2") == 6
        agent.end()


def test_a_second_start_is_refused_by_name_and_the_first_still_runs(config: Path) -> None:
    PlatformStore(load_yaml_model(config, PlatformConfig).state / "store").commit(random_platform_model(rng()))
    settings = load_yaml_model(config, PlatformConfig)
    with agent_of(config) as agent:
        second = subprocess.run(
            command(config),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            env=os.environ | {"PYTHONPATH": ROOT},
        )
        assert second.returncode == 1
        said = second.stderr.strip().splitlines()[-1]
        assert said.startswith(f"error: {settings.state}: in use by crossfed-client start")
        assert f"process {agent.process.pid} on" in said
        assert code_of(settings.socket.path) == "contract"
        with grpc.insecure_channel(f"127.0.0.1:{settings.recommender.port}") as channel:
            check = health_pb2_grpc.HealthStub(channel).Check

            def status(name: str) -> int:
                return int(check(health_pb2.HealthCheckRequest(service=name)).status)

            wait_for(lambda: status("") == SERVING, "the model", 60)
            settings.socket.path.unlink()
            wait_for(lambda: status("") == NOT_SERVING, "health to notice", 60)
            assert status(AGENT_HEALTH) == NOT_SERVING
            assert status("crossfed.v1.Recommender") == SERVING, "users are still served"
        agent.wait_said("the agent's socket is gone")
        agent.end()


@pytest.mark.parametrize(("part", "lock"), [("agent", "state/agent.lock"), ("courier", "courier/courier.lock")])
def test_each_half_has_a_lock_and_a_whole_start_takes_both(config: Path, part: str, lock: str) -> None:
    (config.parent / "state").mkdir(exist_ok=True)
    with held(config.parent / lock, f"start of {part}", mend=""):
        for wanted in (part, "all"):
            with pytest.raises(InUseError, match=f"in use by start of {part}, process {os.getpid()}"):
                PlatformProcess(config, wanted).run()  # type: ignore[arg-type]
    assert not list((config.parent / "state").glob("*.sock"))


def test_a_swap_of_models_does_not_hide_an_unreachable_agent(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path / "store")
    store.commit(random_platform_model(rng()))
    with serve_recommender(store.root, port=0) as server, grpc.insecure_channel(server.target) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        server.agent_reachable(False)
        store.commit(random_platform_model(rng()))
        server.model.reload()
        assert check(health_pb2.HealthCheckRequest(service="")).status == NOT_SERVING
        server.agent_reachable(True)
        assert check(health_pb2.HealthCheckRequest(service="")).status == SERVING


def rng() -> np.random.Generator:
    return np.random.default_rng(0)
