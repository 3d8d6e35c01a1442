"""Agent and courier under different users: the courier's reaches the agent's socket, and nothing else of the platform."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.deploy.agent_process import give_to_group, socket_mode
from client.deploy.join import join_federation
from client.deploy.loading import load_training_data, make_agent
from client.keys import KeyFolder
from client.service.agent_service import serve_agent
from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.roles import AggregatorConfig, PlatformConfig, SocketConfig
from common.errors import ConfigError
from server.deploy.provisioning import initialise, invite

PLAN = read_plan({"federation": "films", "platforms": 2, "privacy": {"mode": "none"}})
COURIER_USER = 47811

HOSTILE = """
import os, sys
from pathlib import Path
from client.remote import RemoteAgent
from common.wire.exchange import AgentRequest
socket, group, user, *targets = sys.argv[1:]
import encodings.idna
os.setgroups([]); os.setgid(int(group)); os.setuid(int(user))
for target in targets:
    try:
        Path(target).read_bytes() if not Path(target).is_dir() else list(Path(target).iterdir())
        print('READ', target)
    except PermissionError:
        pass
with RemoteAgent(Path(socket), timeout=20) as agent:
    print('CODE', agent.exchange(AgentRequest(kind='steal', run_id='r', server_round=0)).code)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may walk through, as /var/lib is."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory(prefix="cf-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run_hostile(folder: Path, config: PlatformConfig, group: int) -> str:
    private = [config.keys / "identity.pem", config.keys / "federation.secret", config.keys / "api.token"]
    books = [config.state / "ledger.db", config.state / "egress.db", config.state, config.keys]
    data = [config.data.interactions.path]
    command = [sys.executable, "-c", HOSTILE, str(config.socket.path), str(group), str(COURIER_USER)]
    command += [str(path) for path in private + books + data]
    for path in private + books + data:
        assert path.exists(), path
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def platform(folder: Path) -> PlatformConfig:
    aggregator = load_yaml_model(initialise(folder / "agg", PLAN, "h.example.org:9443").config, AggregatorConfig)
    invite(aggregator, "cinema", folder / "cinema.invitation")
    home, run = folder / "cinema", folder / "run"
    home.mkdir(mode=0o700)
    run.mkdir()
    views, films = home / "views.csv", home / "films.csv"
    rows = [f"u{user},{item}" for user in range(20) for item in range(user % 3, 12, 3)]
    views.write_text("\n".join(["user_id,item_id", *rows]) + "\n")
    films.write_text("item_id,title\n" + "".join(f"{item},Film {item}\n" for item in range(12)))
    made = join_federation(folder / "cinema.invitation", home, interactions=views, items=films, namespace="imdb")
    KeyFolder(home / "keys").new_secret()
    return load_yaml_model(made.config, PlatformConfig, [f"socket.path={run}/agent.sock", "socket.group=daemon"])


def test_a_courier_of_another_user_reaches_the_socket_and_no_file(folder: Path) -> None:
    import grp

    config = platform(folder)
    group = grp.getgrnam("daemon").gr_gid
    os.chown(folder / "run", -1, group)
    (folder / "run").chmod(0o750)
    agent = make_agent(config, load_training_data(config))
    server = serve_agent(agent, config.name, config.socket.path, mode=socket_mode(config.socket))
    try:
        give_to_group(config.socket)
        assert run_hostile(folder, config, group).splitlines() == ["CODE contract"]
        outsider = subprocess.run(
            [sys.executable, "-c", HOSTILE, str(config.socket.path), str(COURIER_USER), str(COURIER_USER)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "CODE" not in outsider.stdout  # without the group not even the socket
    finally:
        server.stop(grace=None).wait()


def test_a_group_that_is_not_there_is_named(folder: Path) -> None:
    path = folder / "agent.sock"
    path.touch()
    with pytest.raises(ConfigError, match="no-such-group"):
        give_to_group(SocketConfig(path=path, group="no-such-group"))


def test_one_user_for_both_says_that_it_is_unprotected(caplog: pytest.LogCaptureFixture) -> None:
    assert socket_mode(SocketConfig()) == 0o600
    assert "could read this platform's files" in caplog.text
