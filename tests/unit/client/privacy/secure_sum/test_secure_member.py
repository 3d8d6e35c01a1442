from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.privacy.secure_sum.member import SecureMember
from common.contributions.factors import UserLevelMechanism
from common.contributions.masked_rounds import secure_rounds
from common.contributions.run_plan import RunPlan
from common.errors import SecureSumError
from common.privacy.secure_sum import PlatformIdentity, Roster
from common.wire.exchange import AgentRequest
from tests.private_support import private_plan

NAMES = ("a", "b", "c")
N_ITEMS = 4
PLAN = private_plan(3)


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PlatformIdentity]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: PlatformIdentity.create(folder / f"{name}.pem") for name in (*NAMES, "stranger")}


def member(identities: dict[str, PlatformIdentity], folder: Path, name: str = "a", **changes: Any) -> SecureMember:
    fingerprints = {other: identities[other].fingerprint for other in NAMES}
    folder.mkdir(exist_ok=True)
    arguments: dict[str, Any] = {"fingerprints": fingerprints, "plan": PLAN, "folder": folder}
    return SecureMember(name, identities[name], **(arguments | changes))


def roster(identities: dict[str, PlatformIdentity], names: tuple[str, ...] = NAMES, **changes: Any) -> Roster:
    rounds = secure_rounds(PLAN, platforms=len(names), n_items=N_ITEMS)
    terms: dict[str, Any] = {
        "run_id": "run",
        "identities": {name: identities[name].public for name in names},
        "colluders": 1,
        "dropouts": 0,
        "rounds": rounds,
    }
    return Roster.agree(**(terms | changes))


def step(name: Any, message: bytes, run_id: str = "run") -> AgentRequest:
    arrays = {"message": np.frombuffer(message, dtype=np.uint8)}
    return AgentRequest(kind="secure_sum", run_id=run_id, server_round=0, config={"step": name}, arrays=arrays)


def test_a_member_that_is_made_anew_keeps_its_keys_and_its_advert(
    identities: dict[str, PlatformIdentity], tmp_path: Path
) -> None:
    message = roster(identities).to_bytes()
    first = member(identities, tmp_path).answer(step("advertise", message), N_ITEMS)
    again = member(identities, tmp_path).answer(step("advertise", message), N_ITEMS)
    assert first.tobytes() == again.tobytes()
    other = member(identities, tmp_path / "other").answer(step("advertise", message), N_ITEMS)
    assert first.tobytes() != other.tobytes(), "keys are new where nothing was saved"


def test_state_is_on_disk_and_private_before_the_answer(
    identities: dict[str, PlatformIdentity], tmp_path: Path
) -> None:
    member(identities, tmp_path).answer(step("advertise", roster(identities).to_bytes()), N_ITEMS)
    assert (tmp_path / "secure_sum.state").stat().st_mode & 0o777 == 0o600


def test_a_new_run_gets_new_keys(identities: dict[str, PlatformIdentity], tmp_path: Path) -> None:
    one = member(identities, tmp_path)
    first = one.answer(step("advertise", roster(identities).to_bytes()), N_ITEMS)
    second = one.answer(step("advertise", roster(identities, run_id="next").to_bytes(), "next"), N_ITEMS)
    assert first.tobytes() != second.tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_id": "another"}, "of another run"),
        ({"colluders": 2, "names": ("a", "b", "c", "stranger")}, "another number of platforms"),
        ({"rounds": "one fewer"}, r"roster\.rounds: 2, while this platform expects 3"),
        ({"rounds": "quieter"}, r"roster\.rounds\[0\]: label, ring or noise differ"),
        ({"names": ("a", "b", "stranger")}, "not the pinned one"),
    ],
)
def test_terms_that_were_not_agreed_are_refused(
    identities: dict[str, PlatformIdentity], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    rounds = secure_rounds(PLAN, platforms=3, n_items=N_ITEMS)
    made = {
        "one fewer": rounds[:-1],
        "quieter": (rounds[0].model_copy(update={"noise_std": 1.0}), *rounds[1:]),
    }
    changes = {key: made.get(value, value) if key == "rounds" else value for key, value in changes.items()}
    with pytest.raises(SecureSumError, match=message):
        member(identities, tmp_path).answer(step("advertise", roster(identities, **changes).to_bytes()), N_ITEMS)
    assert not (tmp_path / "secure_sum.state").exists()


def test_another_vocabulary_is_another_number_of_values(
    identities: dict[str, PlatformIdentity], tmp_path: Path
) -> None:
    """Rounds are computed from the vocabulary that the platform itself was told."""
    message = roster(identities).to_bytes()
    one = member(identities, tmp_path)
    with pytest.raises(SecureSumError, match="differ from this platform's own"):
        one.answer(step("advertise", message), 1000 * N_ITEMS)


@pytest.mark.parametrize("name", ["unmask", "", None, 7, ["advertise"]])
def test_unknown_steps_are_refused(identities: dict[str, PlatformIdentity], tmp_path: Path, name: Any) -> None:
    one = member(identities, tmp_path)
    one.answer(step("advertise", roster(identities).to_bytes()), N_ITEMS)
    with pytest.raises(SecureSumError, match="unknown step"):
        one.answer(step(name, b""), N_ITEMS)


def test_nothing_is_answered_before_enrolment_or_for_another_run(
    identities: dict[str, PlatformIdentity], tmp_path: Path
) -> None:
    indptr, indices = np.array([0, 1]), np.array([0], dtype=np.int32)
    counts = UserLevelMechanism(RunPlan.of(PLAN).release_plan()).counts(indptr, indices, n_items=N_ITEMS)
    one = member(identities, tmp_path)
    for name in ("enrol", "receive", "survivors", "certificate"):
        with pytest.raises(SecureSumError, match="not enrolled in the secure sum of this run"):
            one.answer(step(name, b""), N_ITEMS)
    with pytest.raises(SecureSumError, match="not enrolled in the secure sum of this run"):
        one.mask(counts, "run", bytes(32))
    one.answer(step("advertise", roster(identities).to_bytes()), N_ITEMS)
    with pytest.raises(SecureSumError, match="not enrolled in the secure sum of this run"):
        one.mask(counts, "another", bytes(32))
    with pytest.raises(SecureSumError, match="not enrolled yet"):
        one.mask(counts, "run", bytes(32))


def test_one_run_has_one_roster(identities: dict[str, PlatformIdentity], tmp_path: Path) -> None:
    plan = private_plan(4)
    names = (*NAMES, "stranger")
    pins = {name: identities[name].fingerprint for name in names}
    rounds = secure_rounds(plan, platforms=4, n_items=N_ITEMS)
    one = member(identities, tmp_path, fingerprints=pins, plan=plan)
    first = roster(identities, names, rounds=rounds)
    one.answer(step("advertise", first.to_bytes()), N_ITEMS)
    for anew in (one, member(identities, tmp_path, fingerprints=pins, plan=plan)):
        with pytest.raises(SecureSumError, match="has enrolled with another roster"):
            anew.answer(step("advertise", roster(identities, names, rounds=rounds, colluders=2).to_bytes()), N_ITEMS)
        anew.answer(step("advertise", first.to_bytes()), N_ITEMS)
