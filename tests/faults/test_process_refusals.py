"""A live federation refuses an expired certificate, a wrong authority and a strange node key; and a disk that is full."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.deploy.join import join_federation
from client.deploy.supernode import courier_programs
from common.deploy.roles import PlatformConfig
from common.deploy.supervise import Supervisor
from common.deploy.tls import CertifiedKey, issue_server_certificate, make_authority
from common.errors import PlatformError
from server.deploy.aggregator import begin_run, control_of
from server.deploy.runs import FINISHED
from server.deploy.superlink import aggregator_programs
from simulations.engine.deployment import LocalFederation, free_port, provision, wait_for
from tests.support.process_files import PLAN, SETTINGS, make_files


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("r")
    files = {name: make_files(folder, name, offset) for name, offset in (("a", 0), ("b", 15))}
    made = provision(folder / "f", PLAN, files, SETTINGS)
    with made.running():
        made.wait_online(2)
        assert made.wait_run(begin_run(made.config)).state == FINISHED
        yield made


@contextmanager
def another_supernode(config: PlatformConfig, folder: Path) -> Iterator[Path]:
    """A SuperNode beside the platform's own; yields its log."""
    own = config.supernode.model_copy(update={"port": free_port(), "superexec_secret": folder / "superexec.secret"})
    program = courier_programs(config.model_copy(update={"supernode": own}), folder)[0]
    assert program.log is not None
    supervisor = Supervisor([program])
    supervisor.start()
    try:
        yield program.log
    finally:
        supervisor.stop()


def wait_said(log: Path, text: str) -> None:
    wait_for(lambda: log.exists() and text in log.read_text(errors="replace"), f"{text!r} in {log}", 90)


def online(federation: LocalFederation) -> int:
    return sum(node.status == "online" for node in control_of(federation.config).nodes())


def test_an_expired_certificate_is_refused_by_a_live_supernode(federation: LocalFederation, tmp_path: Path) -> None:
    config = federation.config
    authority = CertifiedKey(config.tls.ca.read_bytes(), config.tls.ca.with_suffix(".key").read_bytes())
    old, key, port = tmp_path / "old.pem", tmp_path / "old.key", free_port()
    issue_server_certificate(authority, ["localhost", "127.0.0.1"], days=-1).write(old, key)
    changes = {
        "state": tmp_path / "aggregator",
        "tls": config.tls.model_copy(update={"certificate": old, "key": key}),
        "proxy": config.proxy.model_copy(update={"port": port}),
    }
    programs = aggregator_programs(config.model_copy(update=changes), federation.aggregator.config)
    proxy = Supervisor([program for program in programs if program.name == "proxy"])
    proxy.start()
    platform = federation.platform_config("b").model_copy(update={"aggregator": f"127.0.0.1:{port}"})
    try:
        with another_supernode(platform, tmp_path / "node") as log:
            wait_said(log, "certificate has expired")
    finally:
        proxy.stop()
    assert online(federation) == 2


def test_a_live_supernode_refuses_another_authoritys_certificate(federation: LocalFederation, tmp_path: Path) -> None:
    make_authority("other").write(tmp_path / "other.pem", tmp_path / "other.key")
    platform = federation.platform_config("b").model_copy(update={"ca": tmp_path / "other.pem"})
    with another_supernode(platform, tmp_path / "node") as log:
        wait_said(log, "certificate verify failed")
    assert online(federation) == 2


def test_a_node_key_that_nobody_admitted_is_refused(federation: LocalFederation, tmp_path: Path) -> None:
    stranger = join_federation(
        federation.invitation, tmp_path / "stranger", name="b", interactions=federation.folder.parent / "b.csv"
    )
    key = stranger.config.parent / "courier" / "node.key"
    own = federation.platform_config("b")
    platform = own.model_copy(update={"supernode": own.supernode.model_copy(update={"private_key": key})})
    with another_supernode(platform, tmp_path / "node") as log:
        wait_said(log, "Exit Code: 305")
    assert online(federation) == 2


def test_a_full_disk_loses_nothing_that_was_acknowledged(federation: LocalFederation) -> None:
    """The agent may write no more (RLIMIT_FSIZE): the next byte fails as on a full disk, then there is space again."""
    assert federation.supervisor is not None
    process = federation.supervisor.process_ids["a"]
    assert process is not None
    soft, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
    with federation.recommender("a") as recommender:
        first, second, third = (item.key for item in recommender.recommend("a-0", 3, "own"))
        recommender.record_feedback("a-0", first)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (1, hard))
        try:
            with pytest.raises(PlatformError, match="free some space"):
                recommender.record_feedback("a-0", second)
            served = [item.key for item in recommender.recommend("a-0", 3, "own")]
        finally:
            resource.prlimit(process, resource.RLIMIT_FSIZE, (soft, hard))
        assert first not in served
        assert second in served
        recommender.record_feedback("a-0", third)
        assert not {first, third} & {item.key for item in recommender.recommend("a-0", 3, "own")}
    log = (federation.platform_config("a").state / "store" / "feedback.log").read_text()
    assert [key in log for key in (first, second, third)] == [True, False, True]


def test_a_full_disk_leaves_the_version_before_and_the_next_run_ends(federation: LocalFederation) -> None:
    assert federation.supervisor is not None
    process = federation.supervisor.process_ids["a"]
    assert process is not None
    current = federation.platform_config("a").state / "store" / "CURRENT"
    before = current.read_text()
    soft, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (1, hard))
    try:
        status = federation.wait_run(begin_run(federation.config))
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, (soft, hard))
    assert status.state != FINISHED
    assert current.read_text() == before
    with federation.recommender("a") as recommender:
        assert recommender.recommend("a-0", 3, "cross")
    again = federation.wait_run(begin_run(federation.config))
    assert (again.state, again.error) == (FINISHED, None)
    # The platform builds its model after its last answer.
    wait_for(lambda: current.read_text() != before, "a newer version of a's model", 90)
