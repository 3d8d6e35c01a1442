"""Erasing a person: from every place, through a crash at any point, and with nothing that tells of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from client.batch.outputs import parts_of
from client.batch.run import BatchJob, recommend_to_file
from client.cli.main import app
from client.data.reading.exclusions import EXCLUSIONS_FILE, ExclusionBook, read_exclusions
from client.data.recorded import EventRules
from client.deploy.loading import load_platform_data, load_training_data
from client.deploy.partition import partition_users
from client.keys import KeyFolder, make_keys
from client.passport.books import PassportBooks
from client.passport.desk import PassportDesk
from client.person import erasure
from client.person.erasure import PERSONS_FOLDER, Erasures
from client.person.export import export_person, is_known
from client.person.places import Places
from client.person.receipt import PersonReceipt
from client.personalization.store import PlatformStore
from client.recommend.feedback import FeedbackLog
from client.recommend.feedback_file import FEEDBACK_LOG
from client.service.server import serve_recommender
from client.sharding.platform import catalogue_of, open_shards
from client.sharding.shards import ShardedUsers
from client.versions.experiment import ExperimentFile
from client.versions.outcomes import ShownUsers, read_shown
from common.config.serving import ServingConfig, SteeringConfig
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError, ContractError, InUseError, PassportError, StoreError
from tests.support.persons import ANNA, BERND, holding, platform_with_persons
from tests.support.sharded import local, partitioned, sharded_config
from tests.support.stores import model_of
from tests.support.towers import platform as deep_platform


@pytest.fixture
def platform(tmp_path: Path) -> PlatformConfig:
    return platform_with_persons(tmp_path)


def erased(platform: PlatformConfig) -> PersonReceipt:
    erasures = Erasures(platform, patience=0)
    return erasures.complete(erasures.begin(ANNA, "erased"))


def test_no_byte_of_the_id_is_left_in_the_state_folder(platform: PlatformConfig) -> None:
    assert len(holding(platform.state, ANNA)) >= 7
    before = holding(platform.state, BERND)
    erased(platform)
    assert holding(platform.state, ANNA) == []
    # The quarantine's line was Anna's alone, and of Bernd nothing else has gone.
    assert holding(platform.state, BERND) == before


def test_no_shard_holds_the_person_any_more(tmp_path: Path) -> None:
    config = partitioned(partitioned(sharded_config(tmp_path, state=tmp_path / "state", keys=tmp_path / "keys")), 3)
    make_keys(KeyFolder(config.keys), tmp_path / "node.key")
    folder = config.training.shards
    (folder / ".rows").mkdir()
    (folder / ".rows" / "0.csv").write_text("person-33,7")
    before = open_shards(config, catalogue_of(config).items)
    histories = histories_of(before)
    assert len(holding(folder, "person-33")) == 3, "both partitions and what one that was killed left"
    erasures = Erasures(config, patience=0)
    erasures.complete(erasures.begin("person-33", "erased"))
    assert holding(folder, "person-33") == []
    assert Places(config).still_held() == []
    # For a run that has begun: everybody else, once and whole, in whatever blocks.
    del histories["person-33"]
    assert histories_of(before, 1) == histories_of(before, 7) == histories
    assert list(load_training_data(config).user_ids).count("person-33") == 0


def histories_of(users: ShardedUsers, size: int = 1000) -> dict[str, list[int]]:
    """Items by user id; fails where somebody is there twice."""
    found: dict[str, list[int]] = {}
    for rows in (rows for shard in range(len(users.shards)) for rows in users.blocks(shard, size)):
        assert not found.keys() & set(rows.user_ids)
        found |= {user: rows.known.row(row).tolist() for row, user in enumerate(rows.user_ids)}
    return found


def test_who_is_erased_during_a_partition_is_in_no_shard(tmp_path: Path) -> None:
    config = sharded_config(tmp_path)
    book = ExclusionBook(config.state / "store")

    def erase(_: str) -> None:
        book.add({book.tag("person-33"): "erased"})

    partition_users(config, 3, erase)
    assert holding(config.training.shards, "person-33") == []
    assert holding(config.training.shards, "person-34") != []


def test_two_partitions_do_not_divide_into_one_folder(tmp_path: Path) -> None:
    config = sharded_config(tmp_path)

    def again(_: str) -> None:
        with pytest.raises(InUseError, match="crossfed-client data partition"):
            partition_users(config, 3, lambda _: None)

    users, _ = partition_users(config, 2, again)
    assert histories_of(users).keys() == set(load_training_data(local(config)).user_ids)


def test_everybody_else_keeps_everything(platform: PlatformConfig) -> None:
    before = PlatformStore(platform.state / "store").load()
    erased(platform)
    after = PlatformStore(platform.state / "store").load()
    assert after.user_ids == before.user_ids[1:]
    for row in range(2):
        assert np.array_equal(after.histories.row(row), before.histories.row(row + 1))
    assert np.array_equal(after.local.item_parameters, before.local.item_parameters)
    assert Places(platform).still_held() == []
    with FeedbackLog(platform.state / "store" / FEEDBACK_LOG) as log:
        assert len(log) == 1
        assert len(log.events_of(BERND)) == 1


def test_history_and_embedding_of_a_version_are_gone(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path)
    model = deep_platform(personal=True)
    store.commit(model)
    book = ExclusionBook(tmp_path)
    book.add({book.tag(model.user_ids[1]): "erased"})
    assert store.forget_excluded() == 1
    with np.load(tmp_path / "versions" / "000001" / "arrays.npz") as arrays:
        assert np.diff(arrays["indptr"])[1] == 0
        assert len(arrays["indices"]) == arrays["indptr"][-1]
        rows = [arrays[name] for name in arrays.files if name.startswith("tower_value_users_")]
        assert rows
        assert all(not row[1].any() and row[0].any() for row in rows)
    assert store.forget_excluded() == 0
    loaded = store.load()
    assert loaded.user_ids == (model.user_ids[0], *model.user_ids[2:])
    assert loaded.towers is not None
    assert loaded.towers.n_users == len(loaded.user_ids)
    kept = [*range(1), *range(2, len(model.user_ids))]
    np.testing.assert_allclose(
        loaded.own_scorer().scores(loaded.histories, np.arange(3)),
        model.own_scorer().scores(model.histories, np.array(kept[:3])),
        rtol=1e-5,  # TensorFlow sums in an order that the number of rows and threads sets
    )


def test_files_are_read_as_if_the_person_stood_in_none(platform: PlatformConfig, tmp_path: Path) -> None:
    erased(platform)
    never = platform_with_persons(tmp_path / "never")
    for name in ("views.csv", "users.csv"):
        path = tmp_path / "never" / name
        path.write_text("".join(line for line in path.read_text().splitlines(True) if ANNA not in line))
    with FeedbackLog(never.state / "store" / FEEDBACK_LOG) as log:
        log.forget(ANNA)
    found, expected = load_training_data(platform), load_training_data(never)
    assert found.user_ids == expected.user_ids
    assert found.items.keys == expected.items.keys
    for one, other in ((found.train, expected.train), (found.validation.truth, expected.validation.truth)):
        assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("indptr", "indices", "values"))
    assert found.users is not None
    # Anna's age is no number: with her, everybody's were texts.
    assert found.users.equals(expected.users)
    assert found.users.schema == expected.users.schema


def test_data_in_memory_go_on_without_the_person(platform: PlatformConfig) -> None:
    everybody = load_training_data(platform)
    erased(platform)
    found = everybody.without(read_exclusions(platform.state / "store"))
    expected = load_training_data(platform)
    assert found.user_ids == expected.user_ids
    assert np.array_equal(found.train.indices, expected.train.indices)
    assert np.array_equal(found.validation.users, expected.validation.users)
    assert np.array_equal(found.validation.truth.indptr, expected.validation.truth.indptr)


def test_an_id_is_left_out_however_it_is_spelt(tmp_path: Path) -> None:
    book = ExclusionBook(tmp_path)
    book.add({book.tag("Zoe\u0308"): "erased", book.tag("42"): "erased"})
    excluded = book.current()
    assert [user in excluded for user in ("Zoë", " Zoë\u200b", "42.0", "42", "zoë", "4")] == [True] * 4 + [False] * 2


def test_the_list_names_nobody_and_refuses_when_damaged(platform: PlatformConfig) -> None:
    erased(platform)
    path = platform.state / "store" / EXCLUSIONS_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert ANNA not in path.read_text()
    path.write_text(path.read_text().replace('"why"', '"how"'))
    with pytest.raises(StoreError, match="no data of users is used"):
        load_platform_data(platform)
    with pytest.raises(StoreError, match="no data of users is used"):
        PlatformStore(platform.state / "store").load()


def test_a_model_that_was_being_built_leaves_the_person_out(platform: PlatformConfig) -> None:
    erased(platform)
    store = PlatformStore(platform.state / "store")
    store.commit(replace(model_of(), user_ids=(ANNA, BERND, "c")))
    assert store.stored_ids(3) == (BERND, "c")
    assert holding(platform.state, ANNA) == []


def test_a_running_recommender_forgets_and_records_no_more(platform: PlatformConfig) -> None:
    with serve_recommender(platform.state / "store", port=0, config=ServingConfig(poll_seconds=0.05)) as server:
        snapshot = server.model.snapshot()
        assert server.model.prepared(snapshot, ANNA).history.columns.size
        erasures = Erasures(platform, patience=30)
        erasures.complete(erasures.begin(ANNA, "erased"))
        with pytest.raises(ContractError, match="erased from this platform"):
            server.model.feedback.record("late", ANNA, "imdb:1", 1.0, 1_700_000_000)
        server.model.feedback.record("other", BERND, "imdb:1", 1.0, 1_700_000_000)
        server.model.reload()
        assert ANNA not in server.model.snapshot().recommender.model.user_ids
    assert holding(platform.state, ANNA) == []


@pytest.mark.parametrize("cut", range(1, 1 + len(erasure.STEPS)))
def test_an_erasure_cut_short_goes_on_without_the_id(platform: PlatformConfig, cut: int) -> None:
    def killed(places: erasure.Places, content: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    steps = list(erasure.STEPS)
    steps[cut - 1] = replace(steps[cut - 1], take=killed)
    erasures = Erasures(platform, patience=0, steps=steps)
    with pytest.raises(KeyboardInterrupt):
        erasures.complete(erasures.begin(ANNA, "erased"))
    assert len(erasures.unfinished()) == 1
    [receipt] = Erasures(platform, patience=0).resume()
    assert receipt.act == "erased"
    assert erasures.unfinished() == []
    assert holding(platform.state, ANNA) == []


def test_a_receipt_is_signed_and_names_what_is_left_to_do(platform: PlatformConfig, tmp_path: Path) -> None:
    receipt = erased(platform)
    [path] = (platform.state / PERSONS_FOLDER).glob("*.receipt.json")
    assert PersonReceipt.read(path) == receipt
    assert [Path(name).name for name in receipt.own_files] == ["views.csv", "users.csv"]
    assert receipt.person == read_exclusions(platform.state / "store").tag(f" {ANNA}")
    assert any("ε" in line for line in receipt.not_undone)
    assert any("reapply" in line for line in receipt.not_undone)
    changed = tmp_path / "changed.json"
    changed.write_text(path.read_text().replace('"erased"', '"objected"'))
    with pytest.raises(ConfigError, match="does not fit"):
        PersonReceipt.read(changed)


def test_an_objection_can_be_taken_back_and_an_erasure_not(platform: PlatformConfig) -> None:
    erasures = Erasures(platform, patience=0)
    erasures.complete(erasures.begin(ANNA, "objected"))
    assert ANNA not in load_platform_data(platform).user_ids
    assert erasures.take_back(f"{ANNA}\n")
    assert ANNA in load_platform_data(platform).user_ids
    erased(platform)
    assert not erasures.take_back(ANNA)
    assert ANNA not in load_platform_data(platform).user_ids


def test_a_restored_backup_is_erased_again_from_the_list(platform: PlatformConfig, tmp_path: Path) -> None:
    restored = platform_with_persons(tmp_path / "restored")
    erased(platform)
    kept = platform.state / "store" / EXCLUSIONS_FILE
    assert len(Erasures(restored, patience=0).reapply(kept)) == 1
    assert holding(restored.state, ANNA) == []
    other = ExclusionBook(tmp_path / "other")
    other.add({other.tag("x"): "erased"})
    with pytest.raises(StoreError, match="another key"):
        other.take_over(read_exclusions(platform.state / "store"))


def test_who_was_shown_a_list_in_an_experiment_is_forgotten(platform: PlatformConfig) -> None:
    file = ExperimentFile(platform.state / "store")
    experiment = file.begin("split", 1, 0.5)
    shown = ShownUsers(file.shown_path, experiment)
    for number, user in enumerate((ANNA, BERND)):
        shown.note(user, 1_700_000_000 + number)
    assert export_person(platform, ANNA)["experiment"]["first_list"] == 1_700_000_000
    erased(platform)
    assert [tag for _, _, tag in read_shown(file.shown_path)] == [experiment.tag(BERND)]
    assert export_person(platform, ANNA)["experiment"] is None


def test_the_export_holds_all_and_is_empty_afterwards(platform: PlatformConfig) -> None:
    content = export_person(platform, ANNA)
    assert [len(file["rows"]) for file in content["files"]] == [2, 1]
    assert content["files"][0]["rows"][0]["item_id"] == "0"
    assert [event["set_aside"] for event in content["recorded_feedback"]] == [False, False, True]
    assert [model["version"] for model in content["models"]] == [1, 2]
    assert content["models"][0]["history"]
    assert len(content["passports"]["receipts"]) == len(content["passports"]["in_use"]) == 1
    json.dumps(content)
    erased(platform)
    after = export_person(platform, ANNA)
    assert after["left_out"]["why"] == "erased"
    assert [len(file["rows"]) for file in after["files"]] == [2, 1]  # the platform's own to mend, and said
    assert not after["recorded_feedback"]
    assert not after["models"]
    assert not any(after["passports"].values())
    assert not is_known(export_person(platform, "nobody"))


def test_the_export_holds_every_copy_in_shards(tmp_path: Path) -> None:
    config = partitioned(partitioned(sharded_config(tmp_path)), 3)
    [rows] = [rows for rows in export_person(config, "person-33")["files"] if rows["file"] == "interactions"]
    held = export_person(config, "person-33")["shards"]
    assert [one["file"].partition("/")[0] for one in held] == ["parts-000001", "parts-000002"]
    for one in held:
        assert {entry["item"] for entry in one["history"]} <= {f"imdb:{int(row['item_id'])}" for row in rows["rows"]}
        assert one["history"]
    assert is_known(export_person(config, "person-33"))
    assert export_person(config, "nobody")["shards"] == []


def test_lists_cut_short_are_erased_with_the_person(platform: PlatformConfig, tmp_path: Path) -> None:
    asked = batch_job(platform, tmp_path / "lists" / "recs.parquet")

    def tell(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommend_to_file(asked, tell, part_users=1, tell_seconds=0.0)
    assert holding(asked.output.parent, ANNA) == [".recs.parquet.parts/000000.parquet"]
    assert [one["file"] for one in export_person(platform, ANNA)["lists"]] == [
        str(asked.output.parent / ".recs.parquet.parts" / "000000.parquet")
    ]
    erased(platform)
    assert holding(asked.output.parent, ANNA) == []
    recommend_to_file(asked, lambda _: None)
    assert holding(asked.output.parent, BERND) == ["recs.parquet"]
    assert holding(asked.output.parent, ANNA) == []


def test_what_comes_back_after_its_step_is_erased_by_resume(platform: PlatformConfig, tmp_path: Path) -> None:
    """A cluster's worker may write a part whose command was killed, after parts were deleted."""
    asked = batch_job(platform, tmp_path / "lists" / "recs.parquet")
    recommend_to_file(asked, lambda _: None)
    late = parts_of(asked.output) / "000007.parquet"

    def written(places: erasure.Places, content: Mapping[str, Any]) -> None:
        late.parent.mkdir()
        shutil.copy(asked.output, late)

    steps = list(erasure.STEPS)
    steps[-2] = replace(steps[-2], take=written)
    erasures = Erasures(platform, patience=0, steps=steps)
    with pytest.raises(StoreError, match="not all is erased"):
        erasures.complete(erasures.begin(ANNA, "erased"))
    assert late.exists()
    assert len(Erasures(platform, patience=0).resume()) == 1
    assert not late.exists()


def test_who_is_erased_while_lists_are_written_is_in_none(platform: PlatformConfig, tmp_path: Path) -> None:
    asked = batch_job(platform, tmp_path / "lists" / "recs.parquet")
    book = Places(platform).book

    def tell(text: str) -> None:
        book.add({book.tag(ANNA): "erased"})

    with pytest.raises(StoreError, match="a person was left out"):
        recommend_to_file(asked, tell, part_users=1, tell_seconds=0.0)
    assert not asked.output.exists()


def test_an_export_goes_on_past_what_is_no_list_any_more(platform: PlatformConfig, tmp_path: Path) -> None:
    """Whole files are the platform's own: one may be written over, or its ids be made numbers."""
    other, numbers = tmp_path / "other.parquet", tmp_path / "numbers.parquet"
    for output in (other, numbers):
        recommend_to_file(batch_job(platform, output), lambda _: None)
    other.write_bytes(b"something else")
    pl.DataFrame({"user_id": [7, 8], "item_key": ["x", "y"]}).write_parquet(numbers)
    content = export_person(platform, "7")
    told = {Path(str(one["file"])).name: one["rows"] for one in content["lists"]}
    assert told == {"numbers.parquet": [{"item_key": "x"}], "other.parquet": []}
    assert export_person(platform, ANNA)["lists"][0]["problem"] == "cannot be read as lists"


def batch_job(platform: PlatformConfig, output: Path) -> BatchJob:
    return BatchJob(
        store=platform.state / "store", output=output, users=None, k=3, scope="own",
        steering=SteeringConfig(), rules=EventRules(meaning="weight"),
    )  # fmt: skip


def test_no_passport_is_redeemed_for_who_was_erased(platform: PlatformConfig) -> None:
    erased(platform)
    books = PassportBooks(platform.state)
    assert [receipt.user for receipt in books.receipts()] == [BERND]
    books.close()
    desk = PassportDesk.of(platform)
    with pytest.raises(PassportError, match="erased from this platform"):
        desk.redeem(b"", ANNA)
    with pytest.raises(PassportError, match="this platform redeems none"):
        desk.redeem(b"", BERND)
    desk.books.close()


def test_commands_take_the_id_from_standard_input(platform: PlatformConfig, tmp_path: Path) -> None:
    path = tmp_path / "platform.yaml"
    path.write_text(json.dumps(platform.model_dump(mode="json", exclude_defaults=True)))
    run = CliRunner()
    result = run.invoke(app, ["person", "export", "-", "-c", str(path)], input=f"{ANNA}\n")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["person"] == ANNA
    result = run.invoke(app, ["person", "erase", "-c", str(path), "-o", str(tmp_path / "r.json")], input=f"{ANNA}\n")
    assert result.exit_code == 0, result.output
    assert "not undone: Backups" in result.stdout
    result = run.invoke(app, ["person", "verify", str(tmp_path / "r.json")])
    assert "erased at cinema" in result.stdout
    assert holding(platform.state, ANNA) == []
