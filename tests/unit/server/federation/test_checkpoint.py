from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.catalogue import Vocabulary
from common.errors import FederationError, NewerStoreError, StoreError
from common.files import archive, read_archive
from server.federation.checkpoint import CheckpointStore
from server.federation.state import FederationState, TransferWeights, fresh_state, with_vocabulary
from tests.support import SECRET, small_plan
from tests.support.checkpoints import PLAN, state_after


def assert_same(left: FederationState, right: FederationState) -> None:
    assert np.array_equal(left.vocabulary.digests, right.vocabulary.digests)
    assert list(left.vocabulary.owners) == list(right.vocabulary.owners)
    for name, rows in left.vocabulary.owners.items():
        assert np.array_equal(rows, right.vocabulary.owners[name])
    for name in ("item_parameters", "item_counts"):
        assert getattr(left, name).tobytes() == getattr(right, name).tobytes()
        assert getattr(left, name).dtype == getattr(right, name).dtype
    assert (left.run_id, left.server_round, left.user_counts, left.value_mean) == (
        right.run_id,
        right.server_round,
        right.user_counts,
        right.value_mean,
    )
    assert [asdict(record) for record in left.history] == [asdict(record) for record in right.history]


@pytest.mark.parametrize("server_round", [0, 1, 7])
def test_a_state_comes_back_as_it_was_saved(tmp_path: Path, server_round: int) -> None:
    store = CheckpointStore(tmp_path / "new" / "folder")
    assert store.latest(PLAN) is None
    state = state_after(server_round) if server_round else fresh_state("run", PLAN.row)
    store.save(state, PLAN)
    read = store.latest(PLAN)
    assert read is not None
    assert_same(read, state)


def test_the_newest_rounds_stay_and_the_newest_is_resumed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for server_round in (1, 2, 9, 10):
        store.save(state_after(server_round), PLAN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000009.npz", "round-000010.npz"]
    read = store.latest(PLAN)
    assert read is not None
    assert read.server_round == 10


def test_a_checkpoint_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path).save(state_after(1), PLAN)
    assert path.stat().st_mode & 0o077 == 0


def test_another_plan_is_refused_naming_the_difference(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save(state_after(1), PLAN)
    other = small_plan(rounds=8, model={"regularization": 9.0})
    with pytest.raises(FederationError, match=r"differs in model\.regularization, rounds\); restore the plan"):
        CheckpointStore(tmp_path).latest(other)


def rewritten(path: Path, **changes: Any) -> None:
    arrays = read_archive(path)
    header = json.loads(arrays["header"].tobytes())
    for name, value in changes.items():
        if value is None:
            del header[name]
        else:
            header[name] = value
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    path.write_bytes(archive(arrays))


def test_a_newer_format_is_said_to_be_newer(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path).save(state_after(1), PLAN)
    rewritten(path, format=2, run_id=None)
    with pytest.raises(NewerStoreError, match="upgrade"):
        CheckpointStore(tmp_path).latest(PLAN)


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": None},
        {"format": "one"},
        {"history": [{"round": 1}]},
        {"plan": {"rounds": "many"}},
        {"plan": {"no such": 1}},
        {"platforms": ["a", "b", "c"]},
        {"history": 3},
    ],
    ids=repr,
)
def test_a_header_that_makes_no_sense_is_damage(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = CheckpointStore(tmp_path).save(state_after(1), PLAN)
    rewritten(path, **changes)
    with pytest.raises(StoreError, match=r"round-000001\.npz: damaged; restore it, or move it away") as caught:
        CheckpointStore(tmp_path).latest(PLAN)
    assert not isinstance(caught.value, NewerStoreError)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04"])
def test_a_damaged_file_is_named_with_the_way_to_mend_it(tmp_path: Path, content: bytes) -> None:
    CheckpointStore(tmp_path).save(state_after(1), PLAN).write_bytes(content)
    with pytest.raises(StoreError, match="damaged; restore it, or move it away"):
        CheckpointStore(tmp_path).latest(PLAN)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04"])
def test_a_damaged_checkpoint_costs_its_round_alone(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state_after(1), PLAN)
    store.save(state_after(2), PLAN).write_bytes(content)
    read = CheckpointStore(tmp_path).latest(PLAN)
    assert read is not None
    assert_same(read, state_after(1))
    assert "round-000002.npz" in caplog.text


def test_a_round_of_a_newer_version_is_skipped_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Upgrade, run a round, roll back: the run goes on from the last round that this version can read."""
    store = CheckpointStore(tmp_path, keep=1)
    kept = store.save(state_after(2), PLAN)
    newer = store.save(replace(state_after(1), server_round=3), PLAN)
    rewritten(newer, format=2)
    kept.write_bytes(archive(read_archive(newer)))
    rewritten(kept, format=1, server_round=2)
    read = CheckpointStore(tmp_path, keep=1).latest(PLAN)
    assert read is not None
    assert read.server_round == 2
    assert "round-000003.npz: written by a newer crossfed" in caplog.text
    store.save(read, PLAN)
    assert kept.exists(), "the round that was just saved is never pruned for one that cannot be read"


def test_an_unfinished_file_of_a_crash_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state_after(1), PLAN)
    (tmp_path / ".round-000002.npz.abcdef").write_bytes(b"half")
    read = store.latest(PLAN)
    assert read is not None
    assert read.server_round == 1


def test_known_rows_are_kept_and_new_ones_depend_on_the_seed_alone() -> None:
    first = Vocabulary.empty().extended({"a": SECRET.digests(["x:1", "x:2"])})
    known = with_vocabulary(fresh_state("run", PLAN.row), first, PLAN)
    later = first.extended({"b": SECRET.digests(["x:2", "x:9", "x:8"])})
    grown = with_vocabulary(known, later, PLAN)
    assert np.array_equal(grown.item_parameters[:2], known.item_parameters)
    assert grown.item_parameters.shape == (4, PLAN.row)
    assert grown.item_counts.shape == (4,)
    assert np.array_equal(with_vocabulary(known, later, PLAN).item_parameters, grown.item_parameters)
    other = with_vocabulary(known, later, small_plan(seed=1))
    assert not np.array_equal(other.item_parameters[2:], grown.item_parameters[2:])
    assert with_vocabulary(grown, later, PLAN).item_parameters.tobytes() == grown.item_parameters.tobytes()


def test_new_biases_start_at_zero() -> None:
    plan = small_plan(model={"feedback": "explicit"})
    vocabulary = Vocabulary.empty().extended({"a": SECRET.digests(["x:1", "x:2"])})
    parameters = with_vocabulary(fresh_state("run", plan.row), vocabulary, plan).item_parameters
    assert np.all(parameters[:, -1] == 0)
    assert np.abs(parameters[:, :-1]).min() > 0


def test_linear_weights_are_kept_once_beside_the_rounds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "a": TransferWeights(np.array([1]), np.array([0, 2]), rng.standard_normal((1, 2)).astype(np.float32)),
        "b": TransferWeights(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 0), np.float32)),
    }
    store = CheckpointStore(tmp_path)
    store.save(state_after(1), PLAN)
    assert not (tmp_path / "linear.npz").exists()
    state = replace(state_after(2), linear=weights)
    store.save(state, PLAN)
    written = (tmp_path / "linear.npz").stat()
    store.save(replace(state, server_round=3), PLAN)
    assert (tmp_path / "linear.npz").stat() == written, "not written again with every round"
    read = CheckpointStore(tmp_path).latest(PLAN)
    assert read is not None
    assert read.linear is not None
    assert list(read.linear) == ["a", "b"]
    for name, part in weights.items():
        for array in ("inputs", "targets", "weights"):
            found, expected = getattr(read.linear[name], array), getattr(part, array)
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)


def test_linear_weights_of_another_run_are_not_taken(tmp_path: Path) -> None:
    weights = {"a": TransferWeights(np.array([1]), np.array([0]), np.ones((1, 1), np.float32))}
    CheckpointStore(tmp_path).save(replace(state_after(1), linear=weights, run_id="other"), PLAN)
    foreign = (tmp_path / "linear.npz").read_bytes()
    CheckpointStore(tmp_path).save(replace(state_after(2), linear=weights), PLAN)
    (tmp_path / "linear.npz").write_bytes(foreign)
    with pytest.raises(StoreError, match=r"linear\.npz: cannot be read"):
        CheckpointStore(tmp_path).latest(PLAN)
