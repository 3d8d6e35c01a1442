"""Setting a federation up: certificates, invitations, registrations, pins, admissions, the bundle."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.provisioning import Invitation, Pins, normal_fingerprint
from common.deploy.roles import AggregatorConfig
from common.deploy.tls import (
    days_left,
    is_issued_by,
    issue_server_certificate,
    load_certificate,
    make_authority,
    names_of,
    read_certificate,
)
from common.errors import ConfigError, FederationError, StoreError
from server.cli import plan_from
from server.deploy.admission import AdmissionBook, AdmittedNames
from server.deploy.bundle import stage_app
from server.deploy.flower import Node
from server.deploy.provisioning import initialise, invite, renew_certificate
from tests.support.registrations import registration

PLAN = read_plan({"federation": "films", "platforms": 3, "privacy": {"mode": "none"}})


class SuperLinkStandIn:
    """Keeps node keys as the SuperLink does: an id for each key that is registered."""

    def __init__(self) -> None:
        self.keys: dict[int, str] = {}
        self.used: set[str] = set()

    def nodes(self) -> list[Node]:
        return [Node(node_id, "online" if key else "unregistered") for node_id, key in self.keys.items()]

    def register(self, public_key: Path, name: str) -> int:
        if public_key.read_text() in self.used:
            raise FederationError("Public key already in use.")
        self.used.add(public_key.read_text())
        self.keys[len(self.keys) + 1] = public_key.read_text()
        return len(self.keys)

    def unregister(self, node_id: int) -> None:
        if not self.keys[node_id]:
            raise FederationError("[code: 24] Node ID not found")
        self.keys[node_id] = ""


def test_a_server_certificate_verifies_for_its_names_alone() -> None:
    authority, other = make_authority("films"), make_authority("films")
    certificate = load_certificate(
        issue_server_certificate(authority, ["films.example.org", "10.0.0.7"]).certificate, "server"
    )
    assert names_of(certificate) == ["films.example.org", "10.0.0.7"]
    assert is_issued_by(certificate, load_certificate(authority.certificate, "ca"))
    assert not is_issued_by(certificate, load_certificate(other.certificate, "ca"))


def test_openssl_accepts_the_chain(tmp_path: Path) -> None:
    authority = make_authority("films")
    authority.write(tmp_path / "ca.pem", tmp_path / "ca.key")
    issue_server_certificate(authority, ["localhost"]).write(tmp_path / "s.pem", tmp_path / "s.key")
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.pem", "s.pem"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_days_left_turns_negative_when_a_certificate_expires() -> None:
    certificate = load_certificate(issue_server_certificate(make_authority("f"), ["h"], days=10).certificate, "s")
    assert 9.9 < days_left(certificate) <= 10
    assert days_left(certificate, datetime.now(UTC) + timedelta(days=11)) < 0


def test_init_keeps_private_keys_private_and_never_overwrites(tmp_path: Path) -> None:
    made = initialise(tmp_path / "agg", PLAN, "films.example.org:9443")
    for path in (made.authority[1], made.server[1], tmp_path / "agg/tls/superexec.secret"):
        assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="there already"):
        initialise(tmp_path / "agg", PLAN, "films.example.org:9443")


def test_the_plan_of_init_returns_from_configuration_and_invitation(tmp_path: Path) -> None:
    plan = plan_from("films", 3, ["plan.privacy.epsilon=1", "plan.rounds=7"])
    config = load_yaml_model(initialise(tmp_path / "agg", plan, "h.example.org:9443").config, AggregatorConfig)
    invite(config, "cinema", tmp_path / "cinema.invitation")
    assert Invitation.read(tmp_path / "cinema.invitation").plan.differences(plan) == []
    assert config.plan.differences(plan) == []


def test_an_invitation_holds_nothing_secret(tmp_path: Path) -> None:
    made = initialise(tmp_path / "agg", PLAN, "h.example.org:9443")
    invite(load_yaml_model(made.config, AggregatorConfig), "cinema", tmp_path / "cinema.invitation")
    text = (tmp_path / "cinema.invitation").read_text()
    assert "PRIVATE" not in text
    assert (tmp_path / "agg/tls/superexec.secret").read_bytes().hex() not in text


def test_init_refuses_settings_that_are_not_the_plans() -> None:
    with pytest.raises(ConfigError, match="only settings of the plan"):
        plan_from("films", 3, ["superlink_port=1"])
    with pytest.raises(ConfigError, match="did you mean"):
        plan_from("films", 3, ["plan.round=1"])


def test_renewing_keeps_the_authority_and_replaces_the_certificate(tmp_path: Path) -> None:
    made = initialise(tmp_path / "agg", PLAN, "h.example.org:9443")
    before = made.server[0].read_bytes()
    assert renew_certificate(made.config, ("alias.example.org",)) > 390
    renewed = read_certificate(made.server[0])
    assert made.server[0].read_bytes() != before
    assert is_issued_by(renewed, read_certificate(made.authority[0]))
    assert {"h.example.org", "alias.example.org", "localhost"} <= set(names_of(renewed))


@pytest.mark.parametrize("field", ["name", "federation", "identity", "sealing_key", "node_key"])
def test_a_registration_with_any_field_changed_is_refused(field: str) -> None:
    original, other = registration(), registration("other", "books")
    altered = original.model_copy(update={field: getattr(other, field)})
    if field == "sealing_key":
        altered = original.model_copy(update={field: "11" * 32})
    with pytest.raises(ConfigError, match="signature"):
        altered.check()
    original.check()


def test_pinning_needs_the_fingerprint_that_was_heard(tmp_path: Path) -> None:
    pins, theirs = Pins(tmp_path / "pins.json"), registration()
    with pytest.raises(ConfigError, match="not the one you were told"):
        pins.pin(theirs, registration().fingerprint)
    assert pins.all() == {}
    pins.pin(theirs, theirs.fingerprint.upper().replace(" ", "-"))
    assert pins.fingerprints() == {"cinema": theirs.fingerprint}


def test_a_pinned_name_does_not_change_its_key_silently(tmp_path: Path) -> None:
    pins, first, second = Pins(tmp_path / "pins.json"), registration(), registration()
    pins.pin(first, first.fingerprint)
    with pytest.raises(ConfigError, match="another key is pinned"):
        pins.pin(second, second.fingerprint)
    pins.unpin("cinema")
    pins.pin(second, second.fingerprint)
    assert pins.fingerprints() == {"cinema": second.fingerprint}


def test_a_shortened_fingerprint_is_not_enough(tmp_path: Path) -> None:
    theirs = registration()
    with pytest.raises(ConfigError, match="not the one you were told"):
        Pins(tmp_path / "pins.json").pin(theirs, theirs.fingerprint[:9])
    assert normal_fingerprint(theirs.fingerprint) == theirs.fingerprint


def test_the_superlink_follows_the_folder_of_admitted_platforms(tmp_path: Path) -> None:
    book, superlink = AdmissionBook(tmp_path / "platforms"), SuperLinkStandIn()
    theirs = registration()
    book.admit(theirs, "films")
    assert book.bring_in_line(superlink) == {"cinema": "admitted"}  # type: ignore[arg-type]
    assert superlink.keys[1].strip() == theirs.node_key
    assert book.bring_in_line(superlink) == {}  # type: ignore[arg-type]
    book.revoke("cinema")
    assert book.bring_in_line(superlink) == {"cinema": "revoked"}  # type: ignore[arg-type]
    assert book.bring_in_line(superlink) == {}  # type: ignore[arg-type]
    assert superlink.keys[1] == ""


def test_aggregator_and_operator_that_revoke_at_once_do_not_meet(tmp_path: Path) -> None:
    both, left = threading.Event(), AdmissionBook(tmp_path / "platforms")
    superlink = SuperLinkStandIn()
    left.admit(registration(), "films")
    left.bring_in_line(superlink)  # type: ignore[arg-type]
    left.revoke("cinema")
    nodes = superlink.nodes

    def slow() -> list[Node]:
        seen = nodes()
        both.wait(0.2)  # without a lock the other has seen the same by now
        return seen

    superlink.nodes = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        books = (left, AdmissionBook(tmp_path / "platforms"))
        done = [pool.submit(book.bring_in_line, superlink) for book in books]  # type: ignore[arg-type]
        assert sorted(len(each.result()) for each in done) == [0, 1]


def test_only_admitted_platforms_have_a_name(tmp_path: Path) -> None:
    book, superlink = AdmissionBook(tmp_path / "platforms"), SuperLinkStandIn()
    for name in ("cinema", "club"):
        book.admit(registration(name), "films")
    assert book.names() == {}
    book.bring_in_line(superlink)  # type: ignore[arg-type]
    assert set(book.names().values()) == {"cinema", "club"}
    book.revoke("club")
    assert set(book.names().values()) == {"cinema"}


def test_a_platform_admitted_during_the_wait_has_a_name_in_the_run(tmp_path: Path) -> None:
    book, superlink = AdmissionBook(tmp_path / "platforms"), SuperLinkStandIn()
    book.admit(registration("cinema"), "films")
    book.bring_in_line(superlink)  # type: ignore[arg-type]
    names = AdmittedNames(book)
    assert dict(names) == {1: "cinema"}
    assert (2 in names, names.get(2)) == (False, None)
    book.admit(registration("club"), "films")
    book.bring_in_line(superlink)  # type: ignore[arg-type]
    assert (2 in names, names[2], names[1]) == (True, "club", "cinema")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"registration": 1, "node_id": 1, "revoked": false}'])
def test_a_damaged_card_keeps_nobody_else_out(tmp_path: Path, content: str) -> None:
    book, superlink = AdmissionBook(tmp_path / "platforms"), SuperLinkStandIn()
    for name in ("cinema", "club"):
        book.admit(registration(name), "films")
    book.bring_in_line(superlink)  # type: ignore[arg-type]
    (book.folder / "cinema.json").write_text(content)
    book.admit(registration("third"), "films")
    done = book.bring_in_line(superlink)  # type: ignore[arg-type]
    assert done["third"] == "admitted"
    assert "cinema.json: damaged" in done["cinema"]
    assert set(book.names().values()) == {"club", "third"}
    with pytest.raises(StoreError, match="admit this platform again from its registration, then revoke it"):
        book.revoke("cinema")


def test_a_key_in_use_is_not_claimed_beside_a_damaged_card(tmp_path: Path) -> None:
    """The one node that no sound card names may be the damaged card's."""
    book, superlink = AdmissionBook(tmp_path / "platforms"), SuperLinkStandIn()
    book.admit(registration("cinema"), "films")
    book.bring_in_line(superlink)  # type: ignore[arg-type]
    (book.folder / "cinema.json").write_text("{")
    refused = registration("club")
    superlink.used.add(refused.node_key + "\n")
    book.admit(refused, "films")
    assert book.bring_in_line(superlink)["club"].startswith("NOT admitted")  # type: ignore[arg-type]


def test_a_card_damaged_during_a_run_costs_nobody_who_is_in_it(tmp_path: Path) -> None:
    book, superlink = AdmissionBook(tmp_path / "platforms"), SuperLinkStandIn()
    book.admit(registration("cinema"), "films")
    book.bring_in_line(superlink)  # type: ignore[arg-type]
    names = AdmittedNames(book)
    (book.folder / "club.json").write_text("{")
    assert (names[1], 2 in names) == ("cinema", False)


def test_a_superlink_without_database_gets_back_the_admitted_alone(tmp_path: Path) -> None:
    book, superlink = AdmissionBook(tmp_path / "platforms"), SuperLinkStandIn()
    for name in ("cinema", "club"):
        book.admit(registration(name), "films")
    book.bring_in_line(superlink)  # type: ignore[arg-type]
    book.revoke("club")
    assert book.bring_in_line(SuperLinkStandIn()) == {"cinema": "admitted"}  # type: ignore[arg-type]


def test_a_revoked_platform_comes_back_only_with_a_new_node_key(tmp_path: Path) -> None:
    book, superlink = AdmissionBook(tmp_path / "platforms"), SuperLinkStandIn()
    first = registration()
    book.admit(first, "films")
    book.bring_in_line(superlink)  # type: ignore[arg-type]
    book.revoke("cinema")
    book.bring_in_line(superlink)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="never takes a revoked node key again"):
        book.admit(first, "films")
    book.admit(registration(), "films")
    assert book.bring_in_line(superlink) == {"cinema": "admitted"}  # type: ignore[arg-type]


def test_a_key_registered_before_it_could_be_written_down_is_claimed(tmp_path: Path) -> None:
    book, superlink = AdmissionBook(tmp_path / "platforms"), SuperLinkStandIn()
    theirs = registration()
    (tmp_path / "key").write_text(theirs.node_key + "\n")
    superlink.register(tmp_path / "key", "cinema")
    book.admit(theirs, "films")
    assert book.bring_in_line(superlink) == {"cinema": "admitted"}  # type: ignore[arg-type]
    assert book.all()["cinema"].node_id == 1


def test_a_platform_that_cannot_be_admitted_does_not_stop_the_others(tmp_path: Path) -> None:
    book, superlink = AdmissionBook(tmp_path / "platforms"), SuperLinkStandIn()
    refused = registration("cinema")
    superlink.used.add(refused.node_key + "\n")
    for each in (refused, registration("club")):
        book.admit(each, "films")
    done = book.bring_in_line(superlink)  # type: ignore[arg-type]
    assert done["club"] == "admitted"
    assert done["cinema"].startswith("NOT admitted")


def test_an_admitted_name_cannot_be_taken_over(tmp_path: Path) -> None:
    book = AdmissionBook(tmp_path / "platforms")
    book.admit(registration(), "films")
    with pytest.raises(ConfigError, match="admitted with other keys"):
        book.admit(registration(), "films")
    with pytest.raises(ConfigError, match="is for federation"):
        book.admit(registration("club", "books"), "films")


def test_the_bundle_holds_code_and_nothing_else(tmp_path: Path) -> None:
    app = stage_app(tmp_path / "app")
    files = sorted(path.relative_to(app) for path in app.rglob("*") if path.is_file())
    assert {path.suffix for path in files} == {".py", ".toml"}
    assert [str(path) for path in files if path.parts[0] == "client"] == [
        "client/__init__.py",
        "client/app.py",
        "client/remote.py",
    ]
    assert {path.parts[0] for path in files} == {"client", "common", "server", "pyproject.toml"}


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's own
def test_flowers_own_build_takes_exactly_the_staged_files(tmp_path: Path) -> None:
    import io
    import zipfile

    from flwr.cli.build import build_fab_from_disk

    app = stage_app(tmp_path / "app")
    (app / "data.csv").write_text("user_id\n1\n")
    (app / "common" / "secrets.yaml").write_text("token: abc\n")
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(app))) as bundle:
        names = {name for name in bundle.namelist() if not name.startswith(".info/")}
    staged = {str(path.relative_to(app)) for path in app.rglob("*.py")} | {"pyproject.toml"}
    assert names == staged


def test_the_bundled_courier_runs_without_the_platforms_code(tmp_path: Path) -> None:
    app = stage_app(tmp_path / "app")
    code = (
        "import sys; sys.path.insert(0, '.'); import client.app; "
        "assert client.app.__file__.startswith(sys.argv[1]), client.app.__file__; "
        "heavy = {'tensorflow', 'keras', 'torch', 'opacus', 'polars', 'numba', 'client.agent', 'client.data', "
        "'client.personalization.store'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(app)], cwd=app, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_bundled_server_app_runs_without_the_client(tmp_path: Path) -> None:
    app = stage_app(tmp_path / "app")
    code = (
        "import sys; sys.path.insert(0, '.'); import server.app; "
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'client']"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=app, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("privacy", "lines"),
    [
        ({}, ["  privacy:", "    mode: user", "    epsilon: 3.0"]),
        ({"epsilon": 1.0, "noise": "per_platform"}, ["    mode: user", "    epsilon: 1.0", "    noise: per_platform"]),
        ({"mode": "none"}, ["    mode: none"]),
    ],
)
def test_a_new_configuration_shows_what_users_are_promised(
    tmp_path: Path, privacy: dict[str, object], lines: list[str]
) -> None:
    plan = read_plan({"federation": "films", "platforms": 3, "privacy": privacy})
    made = initialise(tmp_path, plan, "localhost:9443")
    text = made.config.read_text()
    assert [line for line in text.splitlines() if line in lines] == lines
    assert load_yaml_model(made.config, AggregatorConfig).plan == plan
    assert ("NOT PRIVATE" in text) == (not plan.private)
    assert ("What users are promised" in text) == plan.private
    assert max(map(len, text.splitlines())) <= 120
