"""The file of a platform's place in a secure sum: damage shows, and no second survivor list is ever answered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.deploy.doctor import examine
from client.deploy.join import join_federation
from client.deploy.loading import load_training_data, make_agent
from client.keys import KeyFolder
from client.privacy.ledger import BudgetLedger
from client.privacy.report import restore_logs
from client.privacy.secure_sum.member import SecureMember
from client.privacy.secure_sum.state import STATE_FILE, SecureStateFile, forget_secure_sums
from common.config.loader import load_yaml_model
from common.contributions.run_plan import RunPlan
from common.deploy.provisioning import Pins
from common.deploy.roles import AggregatorConfig, PlatformConfig
from common.errors import ConfigError, SecureSumError
from common.privacy.secure_sum.wire import SurvivorList
from common.wire.exchange import AgentRequest
from server.deploy.provisioning import initialise, invite
from tests.private_support import HandMade, by_hand, bytes_of, private_plan, private_platforms

NAMES = [f"platform-{number}" for number in range(5)]
ME = "platform-1"
FIRST, SECOND = (
    SurvivorList(round_index=0, survivors=tuple(part)).to_bytes() for part in (NAMES[:4], [NAMES[1], *NAMES[2:]])
)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[HandMade, Path]:
    """A federation that tolerates a dropout; platform-1 has answered the survivor list FIRST of the counts."""
    folder = tmp_path_factory.mktemp("federation")
    asked = by_hand(private_platforms(5), private_plan(5, dropouts=1), folder)
    asked.masked_round(asked.enrol(), 0, NAMES[:4])
    assert asked.step(ME, "survivors", FIRST).code == "ok"
    return asked, folder / "platforms" / ME


def member_of(asked: HandMade, folder: Path) -> SecureMember:
    """The same platform after a restart, its state in ``folder``."""
    member = asked.agents[ME]._member()
    return SecureMember(ME, member._identity, member._fingerprints, asked.plan, folder)


def step(name: str, message: bytes, run_id: str = "run") -> AgentRequest:
    arrays = {"message": np.frombuffer(message, dtype=np.uint8)}
    return AgentRequest(kind="secure_sum", run_id=run_id, server_round=0, config={"step": name}, arrays=arrays)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    file = SecureStateFile(tmp_path)
    assert file.read() is None
    for state in (b"", b"{}\n\n", bytes(range(256))):
        file.write(state)
        assert SecureStateFile(tmp_path).read() == state
    assert (tmp_path / STATE_FILE).stat().st_mode & 0o777 == 0o600


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_no_damage_makes_a_platform_answer_another_list(answered: tuple[HandMade, Path], data: st.DataObject) -> None:
    asked, folder = answered
    whole = (folder / STATE_FILE).read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1), label="start")
    damaged = {
        "cut short": lambda: whole[:start],
        "one bit flipped": lambda: whole[:start] + bytes([whole[start] ^ (1 << start % 8)]) + whole[start + 1 :],
        "a part is missing": lambda: whole[:start] + whole[start + data.draw(st.integers(1, 99)) :],
        "a part is zero": lambda: whole[:start] + bytes(50) + whole[start + 50 :],
        "the list accepted is gone": lambda: whole.replace(b'"accepted":[', b'"accepted":[],"x":['),
        "more behind it": lambda: whole + b"\n",
    }
    content = data.draw(st.sampled_from(sorted(damaged)).map(lambda name: damaged[name]()), label="content")
    copy = folder.parent / "damaged"
    copy.mkdir(exist_ok=True)
    (copy / STATE_FILE).write_bytes(content)
    with pytest.raises(SecureSumError, match="Never put"):
        member_of(asked, copy).check()
    for name, message in (("survivors", SECOND), ("survivors", FIRST), ("certificate", b"")):
        with pytest.raises(SecureSumError, match="unusable"):
            member_of(asked, copy).answer(step(name, message), len(asked.vocabulary))


def test_a_damaged_platform_that_enrols_again_opens_nothing_of_before(
    answered: tuple[HandMade, Path], tmp_path: Path
) -> None:
    asked, folder = answered
    (tmp_path / STATE_FILE).write_bytes((folder / STATE_FILE).read_bytes()[:1000])
    member, size = member_of(asked, tmp_path), len(asked.vocabulary)
    advert = member.answer(step("advertise", asked.roster().to_bytes()), size).tobytes()
    assert advert != bytes_of(asked.step(ME, "advertise", asked.roster().to_bytes())), "its keys are fresh"
    for message in (FIRST, SECOND):
        with pytest.raises(SecureSumError):
            member.answer(step("survivors", message), size)


def test_the_next_run_makes_a_damaged_state_anew(
    answered: tuple[HandMade, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked, _ = answered
    (tmp_path / STATE_FILE).write_bytes(b"garbled")
    asked.run_id, message = "next", b""
    try:
        message = asked.roster().to_bytes()
    finally:
        asked.run_id = "run"
    member_of(asked, tmp_path).answer(step("advertise", message, "next"), len(asked.vocabulary))
    assert "unusable" in caplog.text
    member_of(asked, tmp_path).check()


def test_a_state_of_version_0_1_still_opens(answered: tuple[HandMade, Path], tmp_path: Path) -> None:
    asked, folder = answered
    state = SecureStateFile(folder).read()
    assert state is not None
    (tmp_path / STATE_FILE).write_bytes(state)
    member = member_of(asked, tmp_path)
    with pytest.raises(SecureSumError, match="second, different survivor list"):
        member.answer(step("survivors", SECOND), len(asked.vocabulary))
    member.answer(step("survivors", FIRST), len(asked.vocabulary))


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.write_bytes(b"")], ids=["folder", "empty"])
def test_a_state_that_is_no_state_is_named(
    answered: tuple[HandMade, Path], tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / STATE_FILE)
    with pytest.raises(SecureSumError, match=rf"{STATE_FILE} is unusable"):
        member_of(answered[0], tmp_path).check()


def test_the_message_holds_nothing_secret(answered: tuple[HandMade, Path], tmp_path: Path) -> None:
    asked, folder = answered
    state = SecureStateFile(folder).read() or b""
    (tmp_path / STATE_FILE).write_bytes(state[: len(state) // 2])
    with pytest.raises(SecureSumError) as raised:
        member_of(asked, tmp_path).check()
    assert len(str(raised.value)) < 600
    assert not any(state[at : at + 24].decode() in str(raised.value) for at in range(0, len(state), 24))


def test_restored_books_have_no_place_in_an_earlier_sum(answered: tuple[HandMade, Path], tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(answered[1], home)
    (home / f".{STATE_FILE}.x7").write_bytes(b"half written")
    restore_logs(home)
    assert not [path.name for path in home.iterdir() if STATE_FILE in path.name]
    assert (home / "ledger.db").exists()


def test_forgetting_where_nothing_is_kept_is_no_error(tmp_path: Path) -> None:
    forget_secure_sums(tmp_path)
    forget_secure_sums(tmp_path / "missing")


@pytest.fixture
def deployed(tmp_path: Path) -> Path:
    """A joined platform of a private federation with its pins; returns its configuration."""
    plan = private_plan(3)
    aggregator = load_yaml_model(initialise(tmp_path / "agg", plan, "127.0.0.1:9").config, AggregatorConfig)
    (tmp_path / "views.csv").write_text("user_id,item_id\n" + "".join(f"u{u},{i}\n" for u in range(9) for i in (u, 9)))
    (tmp_path / "films.csv").write_text("item_id,title\n" + "".join(f"{item},Film {item}\n" for item in range(10)))
    joined = []
    for name in ("a", "b", "c"):
        invite(aggregator, name, tmp_path / f"{name}.invitation")
        joined.append(
            join_federation(
                tmp_path / f"{name}.invitation",
                tmp_path / name,
                interactions=tmp_path / "views.csv",
                items=tmp_path / "films.csv",
                namespace="imdb",
            )
        )
    for other in joined[1:]:
        Pins(tmp_path / "a" / "pins.json").pin(other.registration, other.registration.fingerprint)
    KeyFolder(tmp_path / "a" / "keys").new_secret()
    config = load_yaml_model(joined[0].config, PlatformConfig)
    make_agent(config, load_training_data(config))
    return joined[0].config


@pytest.mark.parametrize("name", [STATE_FILE, "store/vocabulary.npz", "store/towers.npz"])
def test_a_damaged_file_is_said_at_start_and_by_doctor(
    deployed: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_yaml_model(deployed, PlatformConfig)
    data = load_training_data(config)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    (config.state / name).parent.mkdir(exist_ok=True)
    (config.state / name).write_bytes(b"cut sho")
    make_agent(config, data)
    [said] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert name in said
    assert "new run" in said
    wrong = [finding.detail for finding in examine(deployed, devices=False) if finding.level == "wrong"]
    assert said in wrong


@pytest.mark.parametrize("name", ["ledger.db", "egress.db", "ledger.head", "egress.head", "store/ledger.head"])
def test_damaged_books_are_said_by_doctor(deployed: Path, name: str) -> None:
    path = load_yaml_model(deployed, PlatformConfig).state / name
    path.write_bytes(path.read_bytes()[:100])
    found = {finding.what: finding for finding in examine(deployed, devices=False)}
    assert found["ledger and journal"].level == "wrong"


@pytest.mark.parametrize("name", ["federation.secret", "identity.pem", "sealing.pem"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: bytes(len(data))], ids=["cut", "zeros"]
)
def test_a_damaged_key_is_said_by_doctor(deployed: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    path = load_yaml_model(deployed, PlatformConfig).keys / name
    path.write_bytes(damage(path.read_bytes()))
    wrong = [finding.detail for finding in examine(deployed, devices=False) if finding.level == "wrong"]
    assert any(str(path) in detail for detail in wrong)


@pytest.mark.parametrize("damage", [lambda data: data[:16], lambda data: bytes(32)], ids=["cut", "zeros"])
def test_no_run_begins_under_a_damaged_secret(deployed: Path, damage: Callable[[bytes], bytes]) -> None:
    config = load_yaml_model(deployed, PlatformConfig)
    path = config.keys / "federation.secret"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=r"federation\.secret: is damaged"):
        make_agent(config, load_training_data(config))


def test_a_budget_that_is_used_up_is_said_at_start(deployed: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_yaml_model(deployed, PlatformConfig)
    data = load_training_data(config)
    make_agent(config, data)
    assert "lifetime budget" not in caplog.text
    ledger, releases = BudgetLedger.open(config.state), RunPlan.of(config.plan).release_plan().releases()
    ledger.reserve("run", releases, epsilon=3.0, delta=config.plan.delta)
    ledger.charge("run", 0, releases[:1], f"{1:064x}")
    make_agent(config, data)
    assert "pays for no further run of ε 3" in caplog.text
    caplog.clear()
    rich = config.plan.privacy.model_copy(update={"budget": 9.0})
    make_agent(
        config.model_copy(update={"plan": config.plan.model_copy(update={"privacy": rich}), "budget": 4.5}), data
    )
    assert "budget 4.5 pays for 1 of the 5 runs that plan.privacy pays for" in caplog.text
