"""One federation as real processes: SuperLink, fleet proxy, two platforms; every test looks at the same run."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from client.app import make_courier
from client.console.places import platform_console
from client.deploy.loading import load_training_data, make_agent
from client.recommend.answers import AttributeCondition, ItemFilter
from client.remote import RemoteAgent
from common.contributions.run_plan import read_plan
from common.web.console.serving import ConsoleServer
from common.wire.exchange import AgentRequest
from server.console.places import aggregator_console
from server.deploy.aggregator import begin_run
from server.deploy.runs import RunFolder, RunStatus, read_runs
from server.federation.checkpoint import CheckpointStore
from server.federation.state import FederationState
from server.strategy import FederatedFactorization
from simulations.engine.deployment import AGGREGATOR, LocalFederation, PlatformFiles, provision, wait_for
from simulations.engine.grid import InlineGrid
from tests.support.visits import ConsoleVisit

PLAN = read_plan(
    {
        "federation": "test",
        "platforms": 2,
        "min_platforms": 2,
        "rounds": 2,
        "tolerance": 0,
        "model": {"dimension": 4},
        "attributes": {
            "maker": "category",
            "topics": "categories",
            "year": "number",
            "blurb": "text",
            "cover": "vector",
        },
        "privacy": {"mode": "none"},
    }
)
SETTINGS = {"personalization": {"tuning_candidates": 1, "anchored": False, "blend_weights": [1.0]}}
USERS, ITEMS = 60, 30
# 127.0.0.1, the same mapped into IPv6, and ::1, as /proc/net writes them.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@dataclass
class Deployed:
    federation: LocalFederation
    run: RunStatus
    state: FederationState
    process_ids: dict[str, int | None]


def make_files(folder: Path, name: str, offset: int) -> PlatformFiles:
    """Users with two tastes; items ``offset`` … ``offset + ITEMS``, half of them on both platforms, described in all kinds."""
    rng = np.random.default_rng(offset)
    describe = {
        "maker": {"kind": "category", "column": f"{name} author"},
        "topics": {"kind": "categories", "column": "tags", "separator": ";"},
        **{own: {"kind": kind} for own, kind in (("year", "number"), ("blurb", "text"), ("cover", "vector"))},
    }
    files = PlatformFiles(folder / f"{name}.csv", folder / f"{name}-items.csv", "imdb", describe)
    rows = ["user_id,item_id"]
    for user in range(USERS):
        liked = rng.permutation([item for item in range(ITEMS) if item % 2 == user % 2])[:8]
        rows += [f"{name}-{user},{offset + item}" for item in liked]
    files.interactions.write_text("\n".join(rows) + "\n")
    lines = [
        f"{n},Film {n},制作者 {n % 3},t{n % 2};every,{1990 + n},About {n},{n} 1" for n in range(offset, offset + ITEMS)
    ]
    heading = f"item_id,title,{name} author,tags,year,blurb,cover"
    files.items.write_text("\n".join([heading, *lines]) + "\n", encoding="utf-8")
    return files


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("d")
    files = {name: make_files(folder, name, offset) for name, offset in (("a", 0), ("b", ITEMS // 2))}
    federation = provision(folder / "f", PLAN, files, SETTINGS)
    with federation.running() as supervisor:
        federation.wait_online(2)
        name = begin_run(federation.config)
        run = federation.wait_run(name)
        assert run.state == "finished", run.error
        state = RunFolder(federation.config.state, name).checkpoints(keep=3).latest(PLAN)
        assert state is not None
        yield Deployed(federation, run, state, supervisor.process_ids)


def test_the_deployed_result_is_that_of_the_inline_simulation(deployed: Deployed, tmp_path: Path) -> None:
    agents = {}
    for node, name in enumerate(("a", "b"), start=1):
        config = deployed.federation.platform_config(name)
        config = config.model_copy(update={"state": tmp_path / name})
        agents[node] = make_agent(config, load_training_data(config))
    courier = make_courier(lambda context: nullcontext(agents[context.node_id]))
    strategy = FederatedFactorization(PLAN, CheckpointStore(tmp_path / "checkpoints"), run_id="inline")
    strategy.start(InlineGrid(courier, {node: {} for node in agents}))
    inline, real = strategy.state.item_parameters, deployed.state.item_parameters
    assert np.linalg.norm(inline - real) <= 1e-5 * np.linalg.norm(inline)
    np.testing.assert_array_equal(strategy.state.vocabulary.digests, deployed.state.vocabulary.digests)


def test_both_platforms_took_part_in_every_round(deployed: Deployed) -> None:
    assert [record["platforms"] for record in deployed.run.rounds] == [["a", "b"], ["a", "b"]]
    assert {name: answer["code"] for name, answer in deployed.run.answers.items()} == {"a": "ok", "b": "ok"}


def test_the_platforms_own_service_recommends_other_platforms_items(deployed: Deployed) -> None:
    with deployed.federation.recommender("a") as recommender:
        found = recommender.recommend("a-0", 5, "cross")
    assert len(found) == 5
    assert all(item.platforms == ("b",) for item in found)
    assert all(int(item.key.partition(":")[2]) >= ITEMS for item in found)


def test_a_deployed_platform_filters_and_explains_by_any_attribute(deployed: Deployed) -> None:
    with deployed.federation.recommender("a") as recommender:
        found = {}
        for scope in ("own", "cross"):
            conditions = (
                AttributeCondition("maker", any_of=("制作者 1",)),
                AttributeCondition("topics", any_of=("t1",)),
                AttributeCondition("year", at_least=1990.0 + (0 if scope == "own" else ITEMS)),
            )
            wanted = ItemFilter(attributes=conditions)
            found[scope] = recommender.recommend("a-0", 30, scope, exclude_seen=False, wanted=wanted)
        reasons = {
            reason.attribute
            for item in found["cross"]
            for reason in recommender.explain("a-1", item.key).reasons
        }  # fmt: skip
    for scope, first in (("own", 0), ("cross", ITEMS)):
        numbers = {int(item.key.partition(":")[2]) for item in found[scope]}
        last = ITEMS if scope == "own" else ITEMS + ITEMS // 2
        assert numbers == {n for n in range(first, last) if n % 3 == 1 and n % 2 == 1}
        assert all(item.attributes["maker"] == ("制作者 1",) for item in found[scope])
    assert "topics" in reasons


def ask(port: int, ca: Path, method: str, path: str, body: bytes = b"") -> int:
    context = ssl.create_default_context(cafile=str(ca))
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    try:
        connection.request(method, path, body, {"Content-Type": "application/protobuf"})
        return connection.getresponse().status
    finally:
        connection.close()


def superlink_routes(deployed: Deployed) -> dict[str, str]:
    """Every path that Flower serves and a method for it, from its own description."""
    config = deployed.federation.config
    context = ssl.create_default_context(cafile=str(config.tls.ca))
    connection = http.client.HTTPSConnection("127.0.0.1", config.superlink_port, timeout=20, context=context)
    connection.request("GET", "/openapi.json")
    description = json.loads(connection.getresponse().read())
    connection.close()
    return {path: next(iter(methods)).upper() for path, methods in description["paths"].items()}


def test_nothing_but_the_fleet_api_answers_through_the_proxy(deployed: Deployed) -> None:
    config = deployed.federation.config
    routes = superlink_routes(deployed)
    closed = {path: method for path, method in routes.items() if not path.startswith("/v1/fleet/")}
    assert "/v1/control/start-run" in closed
    tricks = {
        "/v1/fleet/../control/start-run": "POST",
        "/v1/fleet/%2e%2e/control/start-run": "POST",
        "/v1/fleet/..%2fcontrol/start-run": "POST",
        "//v1/control/start-run": "POST",
        "/v1/fleet": "POST",
        "/docs": "GET",
        "/openapi.json": "GET",
        "/": "GET",
    }
    for path, method in (closed | tricks).items():
        assert ask(config.proxy.port, config.tls.ca, method, path) == 404, path


def test_the_fleet_api_refuses_who_does_not_sign(deployed: Deployed) -> None:
    config = deployed.federation.config
    fleet = {path: method for path, method in superlink_routes(deployed).items() if path.startswith("/v1/fleet/")}
    assert len(fleet) > 5
    for path, method in fleet.items():
        assert ask(config.proxy.port, config.tls.ca, method, path) == 401, path


def descendants(process: int) -> set[int]:
    """The process and all that it has started."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {process}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found


def listening(processes: set[int]) -> set[str]:
    """Hexadecimal addresses on which these processes accept TCP connections."""
    inodes = set()
    for process in processes:
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1])
    return found


def test_every_port_is_on_loopback_where_the_configuration_says_so(deployed: Deployed) -> None:
    processes = {child for process in deployed.process_ids.values() if process for child in descendants(process)}
    found = listening(processes)
    assert len(found) >= 6  # SuperLink, proxy, and of each platform the SuperNode's API and the recommender
    assert {address.partition(":")[0] for address in found} <= LOOPBACK


@pytest.mark.parametrize(
    "request_",
    [
        AgentRequest(kind="read_file", run_id="r", server_round=0, config={"path": "/etc/passwd"}),
        AgentRequest(kind="join", run_id="r", server_round=0, config={}),
        AgentRequest(kind="join", run_id="r", server_round=0, config={"plan": {"privacy": {"mode": "user"}}}),
        AgentRequest(
            kind="statistics", run_id="r", server_round=1, arrays={"item_parameters": np.zeros((1, 1), "float32")}
        ),
        AgentRequest(kind="counts", run_id="another run", server_round=0),
        AgentRequest(kind="finish", run_id="r", server_round=9),
        AgentRequest(kind="vocabulary", run_id="r", server_round=0, arrays={"digests": np.zeros((5, 32), "uint8")}),
        AgentRequest(kind="secure_sum", run_id="r", server_round=0, config={"step": "survivors"}),
    ],
    ids=lambda request: request.kind,
)
def test_a_hostile_courier_gets_codes_and_nothing_else(deployed: Deployed, request_: AgentRequest) -> None:
    """Whoever holds the socket speaks to the agent of a platform in the middle of its life."""
    socket = deployed.federation.platform_config("a").socket.path
    with RemoteAgent(socket, timeout=30) as agent:
        reply = agent.exchange(request_)
    assert reply.code != "ok"
    assert dict(reply.arrays) == {}
    assert dict(reply.config) == {}


def test_logs_name_no_user(deployed: Deployed) -> None:
    texts = [path.read_text(errors="replace") for path in deployed.federation.folder.rglob("logs/*.log")]
    assert len(texts) >= 6
    assert not any("a-0" in text or "b-1" in text for text in texts)


def test_the_aggregators_folder_holds_no_item_key_and_no_secret(deployed: Deployed) -> None:
    secret = (deployed.federation.platform_config("a").keys / "federation.secret").read_bytes()
    keys = [f"imdb:{item}".encode() for item in range(10, ITEMS)]
    for path in (deployed.federation.folder / AGGREGATOR).rglob("*"):
        if path.is_file() and not path.is_socket():
            content = path.read_bytes()
            assert secret not in content
            assert not any(key in content for key in keys), path
            assert b"Film 1" not in content, path


def test_the_history_says_what_happened(deployed: Deployed) -> None:
    from typer.testing import CliRunner

    from server.cli import app

    config = str(deployed.federation.aggregator.config)
    shown = CliRunner().invoke(app, ["history", "--config", config, "--json"])
    [entry] = json.loads(shown.stdout)
    assert (entry["name"], entry["state"], len(entry["rounds"])) == (deployed.run.name, "finished", 2)
    table = CliRunner().invoke(app, ["status", "--config", config]).stdout
    assert "finished, 2 rounds" in table


@contextmanager
def consoles(deployed: Deployed) -> Iterator[tuple[ConsoleVisit, ConsoleVisit]]:
    """The aggregator's and platform a's, as their commands serve them."""
    federation = deployed.federation
    aggregator, platform = federation.aggregator.config, federation.platforms["a"].config
    with (
        ConsoleServer(lambda port: aggregator_console(aggregator, port)) as one,
        ConsoleServer(lambda port: platform_console(platform, port)) as other,
    ):
        yield ConsoleVisit(one), ConsoleVisit(other)


def test_a_run_is_started_and_followed_in_the_consoles(deployed: Deployed) -> None:
    federation = deployed.federation
    agent = deployed.process_ids["b"]
    assert agent is not None
    with consoles(deployed) as (aggregator, platform):
        assert "SuperLink: answers" in aggregator.see()
        assert "version 1" in platform.see()
        os.kill(agent, signal.SIGSTOP)  # platform b's agent says nothing, and its SuperNode stays connected
        try:
            assert re.search("about to begin|running", aggregator.send("/"))
            # Platform a has joined and b has not: b is late, and a's own console shows the run.
            wait_for(lambda: re.search(r"\bb late", aggregator.see()) is not None, "b to be late", 120)
            assert re.search(r"\ba (answered|late)", aggregator.see())
        finally:
            os.kill(agent, signal.SIGCONT)
        name = read_runs(federation.config.state)[0][-1].name
        run = federation.wait_run(name)
        assert run.state == "finished", run.error
        assert f"{name} finished 2 of 2 rounds" in aggregator.see()
        assert f"Rounds of {name}" in aggregator.see(f"/runs?run={name}")
        wait_for(lambda: "version 2" in platform.see(), "the second version", 60)
        overview, left = platform.see(), platform.see("/privacy")
        assert "2 of 2 rounds" in overview
        assert "agent: answers" in overview
        for kind in ("join", "counts", "statistics", "finish"):
            assert kind in left, kind
        assert re.search(r"\b1 20\S+ \S+ UTC .* serves", platform.send("/models", version="1"))
        platform.send("/models", version="2")
        with federation.recommender("a") as recommender:
            recommender.record_feedback("a-0", "imdb:29", event_id="seen in the console")
        assert "today: 1" in platform.see()
        tried = platform.send("/try", user="a-0", k="3", scope="cross")
        assert "As the running recommender answers now." in tried
        assert "a-0" not in tried


def test_the_console_says_why_a_run_failed(deployed: Deployed) -> None:
    federation = deployed.federation
    path = federation.platforms["b"].config
    before, log = path.read_text(), federation.folder / "logs" / "b.log"

    def reload(text: str) -> None:
        path.write_text(text)
        seen = log.read_text().count("reloaded; the next run uses it")
        os.kill(deployed.process_ids["b"] or 0, signal.SIGHUP)
        wait_for(lambda: log.read_text().count("reloaded; the next run uses it") > seen, "the reload", 60)

    reload(before.replace("rounds: 2", "rounds: 3"))  # b agrees to another plan, and refuses this one
    try:
        with consoles(deployed) as (aggregator, platform):
            aggregator.send("/")
            name = read_runs(federation.config.state)[0][-1].name
            assert federation.wait_run(name).state == "failed"
            shown = aggregator.see(f"/runs?run={name}")
            assert "Why it failed: 1 platforms" in shown
            assert "the quorum (min_platforms) is 2" in shown
            assert re.search(r"with a code: b '[\w-]+'", shown), shown
            assert "agent: answers" in platform.see()
    finally:
        reload(before)


def test_a_hangup_reloads_and_a_termination_ends_cleanly(deployed: Deployed) -> None:
    """Last, since platform b is started again after it."""
    process = deployed.process_ids["b"]
    log = deployed.federation.folder / "logs" / "b.log"
    assert process is not None
    started = descendants(process)
    assert len(started) >= 3  # the agent, SuperNode, SuperExec
    told = "reloaded; the next run uses it"
    before = log.read_text().count(told)
    os.kill(process, signal.SIGHUP)
    wait_for(lambda: log.read_text().count(told) > before, "the reload", 60)
    os.kill(process, signal.SIGTERM)
    wait_for(lambda: "platform b has stopped" in log.read_text(), "the end", 180)
    wait_for(lambda: not any(running(child) for child in started), "all its programs to end", 60)


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
