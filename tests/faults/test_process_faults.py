"""Killed processes, a cut network, revoked platforms and bad certificates, on a deployed federation of real processes.

A killed process costs at most the round that it was killed in; what a run arrives at is the same as without the fault.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client.app import make_courier
from client.deploy.join import join_federation
from client.deploy.loading import load_training_data, make_agent
from common.deploy.doctor import check_aggregator, check_certificate
from common.deploy.tls import CertifiedKey, issue_server_certificate, make_authority
from server.deploy.admission import AdmissionBook
from server.deploy.aggregator import begin_run, control_of
from server.deploy.runs import FAILED, FINISHED, RunFolder, RunStatus
from server.federation.checkpoint import CheckpointStore
from server.strategy import FederatedFactorization
from simulations.engine.deployment import LocalFederation, provision, wait_for
from simulations.engine.grid import InlineGrid
from tests.support.process_files import PLAN, SETTINGS, make_files


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("f")
    files = {name: make_files(folder, name, offset) for name, offset in (("a", 0), ("b", 15))}
    made = provision(folder / "f", PLAN, files, SETTINGS)
    with made.running():
        made.wait_online(2)
        yield made


@pytest.fixture(scope="module")
def undisturbed(federation: LocalFederation, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    """Return what the same run arrives at without processes."""
    folder = tmp_path_factory.mktemp("inline")
    agents = {}
    for node, name in enumerate(("a", "b"), start=1):
        config = federation.platform_config(name).model_copy(update={"state": folder / name})
        agents[node] = make_agent(config, load_training_data(config))
    courier = make_courier(lambda context: nullcontext(agents[context.node_id]))
    strategy = FederatedFactorization(PLAN, CheckpointStore(folder / "checkpoints"), run_id="inline")
    strategy.start(InlineGrid(courier, {node: {} for node in agents}))
    return strategy.state.item_parameters


def processes(program: str, *also: str) -> list[int]:
    """Ids of the processes whose command line names ``program`` and all of ``also``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        line = " ".join(words)
        if any(Path(word).name == program for word in words[:2]) and all(text in line for text in also):
            found.append(int(path.parent.name))
    return found


def kill(program: str, *also: str) -> None:
    ids = processes(program, *also)
    assert ids, f"{program} is not running"
    for process in ids:
        os.kill(process, signal.SIGKILL)


def disturbed_run(federation: LocalFederation, fault: Callable[[], None]) -> RunStatus:
    """A run with a fault after its first round; taken up again by the operator if it gave up."""
    federation.wait_online(2, deadline=200)  # a run may end while what the fault before has killed is coming up again
    name = begin_run(federation.config)
    run = RunFolder(federation.config.state, name)
    wait_for(lambda: run.status().server_round >= 1 or run.status().state == FAILED, "a first round", 180)
    assert run.status().state != FAILED, run.status().error
    fault()
    wait_for(lambda: run.status().state in (FINISHED, FAILED), f"run {name} to end", 400)
    if run.status().state == FAILED:
        assert "quorum" in (run.status().error or ""), run.status().error
        federation.wait_online(2, deadline=200)
        begin_run(federation.config, name)
        federation.wait_run(name, deadline=400)
    return run.status()


def assert_unchanged(federation: LocalFederation, run: RunStatus, expected: NDArray[np.float32]) -> None:
    assert run.state == FINISHED, run.error
    assert [record["round"] for record in run.rounds] == [1, 2, 3, 4]
    state = RunFolder(federation.config.state, run.name).checkpoints(keep=3).latest(PLAN)
    assert state is not None
    assert np.linalg.norm(state.item_parameters - expected) <= 1e-5 * np.linalg.norm(expected)


def test_a_killed_server_app_goes_on_by_itself(federation: LocalFederation, undisturbed: NDArray[np.float32]) -> None:
    home = str(federation.config.state)
    run = disturbed_run(federation, lambda: os.kill(RunFolder(Path(home), newest(federation)).status().process, 9))
    assert_unchanged(federation, run, undisturbed)


def test_a_killed_superlink_costs_nothing(federation: LocalFederation, undisturbed: NDArray[np.float32]) -> None:
    port = f"--port {federation.config.superlink_port}"
    run = disturbed_run(federation, lambda: kill("flower-superlink", port))
    assert_unchanged(federation, run, undisturbed)


def test_a_killed_supernode_comes_back(federation: LocalFederation, undisturbed: NDArray[np.float32]) -> None:
    port = f"--port {federation.platform_config('b').supernode.port}"
    run = disturbed_run(federation, lambda: kill("flower-supernode", port))
    assert_unchanged(federation, run, undisturbed)


def test_a_killed_agent_comes_back(federation: LocalFederation, undisturbed: NDArray[np.float32]) -> None:
    config = str(federation.platforms["b"].config)
    run = disturbed_run(federation, lambda: kill("crossfed-client", config))
    assert_unchanged(federation, run, undisturbed)


def test_a_cut_of_thirty_seconds_is_waited_out(federation: LocalFederation, undisturbed: NDArray[np.float32]) -> None:
    caddyfile = str(federation.config.state / "Caddyfile")

    def cut() -> None:
        proxies = processes("caddy", caddyfile)
        for process in proxies:
            os.kill(process, signal.SIGSTOP)
        threading.Event().wait(30)
        for process in proxies:
            os.kill(process, signal.SIGCONT)

    run = disturbed_run(federation, cut)
    assert_unchanged(federation, run, undisturbed)


def test_the_doctor_names_expired_certificates_and_wrong_authorities(
    federation: LocalFederation, tmp_path: Path
) -> None:
    config = federation.config
    authority = CertifiedKey(config.tls.ca.read_bytes(), config.tls.ca.with_suffix(".key").read_bytes())
    issue_server_certificate(authority, ["localhost"], days=-1).write(tmp_path / "old.pem", tmp_path / "old.key")
    expired = check_certificate(tmp_path / "old.pem", config.tls.ca)
    assert (expired.level, "expired" in expired.detail) == ("wrong", True)
    make_authority("other").write(tmp_path / "other.pem", tmp_path / "other.key")
    [refused] = check_aggregator(config.address, tmp_path / "other.pem")
    assert (refused.level, "certificate is refused" in refused.detail) == ("wrong", True)
    assert all(finding.level == "ok" for finding in check_aggregator(config.address, config.tls.ca))


def test_a_revoked_platform_is_out_until_it_is_admitted_again(federation: LocalFederation) -> None:
    config = federation.config
    book = AdmissionBook(config.platforms)
    log = federation.platform_config("b").supernode.superexec_secret.parent / "logs" / "supernode.log"
    before = log.stat().st_size
    node = book.revoke("b").node_id
    book.bring_in_line(control_of(config))
    assert {entry.node_id: entry.status for entry in control_of(config).nodes()}.get(node) in (None, "unregistered")
    wait_for(lambda: "Exit Code: 305" in log.read_bytes()[before:].decode(errors="replace"), "a refusal", 120)
    assert sum(entry.status == "online" for entry in control_of(config).nodes()) <= 1
    joined = federation.platforms["b"]
    (joined.config.parent / "courier" / "node.key").unlink()
    again = join_federation(
        federation.invitation, joined.config.parent, name="b", interactions=federation.folder.parent / "b.csv"
    )
    book.admit(again.registration, PLAN.federation)
    federation.wait_online(2, deadline=240)


def newest(federation: LocalFederation) -> str:
    return max(path.name for path in (federation.config.state / "runs").iterdir())
