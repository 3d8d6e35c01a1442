"""Lists for everybody: those of the service, whole or not there, and taken up where they were left."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.batch.outputs import StillTheSame
from client.batch.run import BatchJob, recommend_to_file, write_lists
from client.batch.selection import best_of_each
from client.cli.main import app
from client.data.dataset import UserItemMatrix
from client.data.recorded import EventRules
from client.personalization.store import PlatformStore
from client.recommend.feedback import FeedbackLog
from client.recommend.lists import ListMaker
from client.recommend.recommender import Recommender
from client.scoring.linear_form import BlockQuery
from client.scoring.topk import top_k
from client.steering.hidden import HiddenItems
from common.config.serving import NeverListed, SteeringConfig
from common.errors import DataError, StoreError
from simulations.engine.random_model import random_platform_model
from tests.support import random_matrix


@given(
    seed=st.integers(0, 200),
    m=st.sampled_from([1, 7, 300, 1024, 1025, 2500]),
    k=st.integers(1, 40) | st.integers(500, 3000),
    kind=st.sampled_from(["ties", "floats", "direct"]),
)
def test_the_best_of_each_are_those_of_a_full_sort(seed, m, k, kind):
    rng = np.random.default_rng(seed)
    if kind == "floats":
        vectors, items = (rng.standard_normal((rows, 6)).astype(np.float32) for rows in (5, m))
    else:  # whole numbers: products are exact, and many are equal
        vectors, items = (rng.integers(-2, 3, (rows, 2)).astype(np.float32) for rows in (5, m))
    direct = None
    if kind == "direct":
        direct = rng.integers(0, 3, (5, m)).astype(np.float64)
        direct[rng.random((5, m)) < 0.3] = -np.inf
    seen = random_matrix(rng, 5, m)
    barred = rng.random(m) < 0.2
    query = BlockQuery(vectors, np.zeros(5, dtype=np.float32), direct, items)
    found, scores = best_of_each(query, k, seen.csr(), barred)
    every = query.without_offsets(slice(0, m)).T
    expected, best = top_k(np.ascontiguousarray(every), k, seen, candidates=~barred)
    assert found.tolist() == expected.tolist()
    assert scores.tobytes() == best.tobytes()


@pytest.fixture(params=["local", "blend", "shared"])
def store(request, tmp_path) -> Path:
    """200 items of which a block of scores is looked at in runs; the last user has nothing, the one before one item."""
    model = random_platform_model(
        np.random.default_rng(0), own=200, foreign=150, unshared=20, users=30, verdict=request.param
    )
    histories = model.histories.select_entries(model.histories.entry_users() < 28)
    rows = histories.entry_users()
    more = UserItemMatrix.from_entries(
        np.append(rows, 28), np.append(histories.indices, 199), np.append(histories.values, 1.0),
        np.append(histories.times, 5), n_users=30, n_items=200,
    )  # fmt: skip
    PlatformStore(tmp_path / "store").commit(replace(model, histories=more))
    return tmp_path / "store"


def job(store: Path, **options) -> BatchJob:
    defaults = {"output": store.parent / "recs.parquet", "users": None, "k": 7, "scope": "all"}
    defaults |= {"steering": SteeringConfig(), "rules": EventRules(meaning="weight")}
    return BatchJob(store=store, **(defaults | options))


def written(job: BatchJob) -> dict[str, list[tuple[str, float]]]:
    recommend_to_file(job, lambda _: None)
    table = pl.read_parquet(job.output)
    lists: dict[str, list[tuple[str, float]]] = {}
    for user, rank, key, score in table.rows():
        lists.setdefault(user, []).append((key, score))
        assert rank == len(lists[user])
    return lists


def served(job: BatchJob, users: list[str], events=None) -> dict[str, list[tuple[str, float]]]:
    recommender = Recommender(PlatformStore(job.store).load())
    lists = ListMaker(job.steering, HiddenItems(job.store))
    found = {}
    for user in users:
        history = recommender.history_of(user, (events or {}).get(user, ()), job.rules)
        answer = lists.recommend(recommender, recommender.prepare(history), job.k, job.scope)
        found[user] = [(item.key, item.score) for item in answer]
    return found


def same(one, other) -> None:
    assert one.keys() == other.keys()
    for user in one:
        assert [key for key, _ in one[user]] == [key for key, _ in other[user]], user
        np.testing.assert_allclose([s for _, s in one[user]], [s for _, s in other[user]], rtol=1e-4, atol=1e-5)


EVERYBODY = [f"user-{number}" for number in range(30)]


@pytest.mark.parametrize("scope", ["own", "cross", "all"])
def test_everybodys_list_is_the_one_that_is_served(store, scope):
    HiddenItems(store).hide([Recommender(PlatformStore(store).load()).recommend("user-1", 1, scope)[0].key])
    asked = job(store, scope=scope)
    same(written(asked), served(asked, EVERYBODY))
    assert asked.output.stat().st_mode & 0o077 == 0
    assert not list(store.parent.glob(".recs*"))


@pytest.mark.parametrize(
    "steering",
    [SteeringConfig(never=NeverListed(genres=("Drama",))), SteeringConfig(diversity=0.3, foreign_share=0.4)],
)
def test_lists_are_steered_as_the_platform_says(store, steering):
    asked = job(store, steering=steering)
    same(written(asked), served(asked, EVERYBODY))


@pytest.mark.parametrize("scope", ["own", "cross", "all"])
def test_a_list_longer_than_there_are_items_has_all_of_them(store, scope):
    found, expected = written(job(store, scope=scope, k=10**9)), served(job(store, scope=scope, k=10**4), EVERYBODY)
    assert {user: {key for key, _ in items} for user, items in found.items()} == {
        user: {key for key, _ in items} for user, items in expected.items() if items
    }


def test_a_store_on_a_read_only_file_system_gives_lists(store, monkeypatch):
    """No erasure can find them then, which the command says."""
    usual = os.statvfs(store)
    read_only = SimpleNamespace(f_flag=usual.f_flag | os.ST_RDONLY)
    monkeypatch.setattr(os, "statvfs", lambda _: read_only)
    before = {path.name for path in store.iterdir()}
    output = store.parent / "recs.parquet"
    result = CliRunner().invoke(app, ["recommend", "--all", "--store", str(store), "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert "delete them yourself when a person is erased" in result.stderr
    assert output.exists()
    assert {path.name for path in store.iterdir()} == before


def test_feedback_since_training_counts_for_known_and_new_users(store):
    key = Recommender(PlatformStore(store).load()).recommend("user-3", 1, "own")[0].key
    with FeedbackLog(store / "feedback.log") as log:
        log.record("a", "user-3", key, 1.0, 1_700_000_000)
        log.record("b", "somebody new", key, 1.0, 1_700_000_000)
        events = {user: log.events_of(user) for user in ("user-3", "somebody new")}
    asked = job(store)
    same(written(asked), served(asked, [*EVERYBODY, "somebody new"], events))


def test_the_users_of_a_file_and_nobody_else(store, tmp_path):
    (tmp_path / "ids.txt").write_text("user-2\n user-1 \n\nnobody at all\nuser-2\n", encoding="utf-8")
    asked = job(store, users=tmp_path / "ids.txt")
    done = recommend_to_file(asked, lambda _: None)
    assert (done.users, done.unknown, done.version) == (2, 1, 1)
    assert pl.read_parquet(asked.output)["user_id"].unique(maintain_order=True).to_list() == ["user-2", "user-1"]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="can be read once alone"):
        recommend_to_file(job(store, users=tmp_path / "pipe"), lambda _: None)
    (tmp_path / "ids.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"ids\.txt: cannot be read"):
        recommend_to_file(asked, lambda _: None)


def test_what_is_held_does_not_grow_with_the_users(tmp_path):
    held = {}
    for users in (500, 5_000):
        model = random_platform_model(
            np.random.default_rng(0), own=60, foreign=40, unshared=5, users=users, verdict="local", dimension=4
        )
        PlatformStore(tmp_path / str(users)).commit(model)
        asked = job(tmp_path / str(users), output=tmp_path / f"{users}.parquet")
        recommender = Recommender(PlatformStore(asked.store).load())
        lists = tmp_path / f"{users}.txt"
        lists.write_text("\n".join(model.user_ids))
        for name, wanted in (("everybody", asked), ("of a file", replace(asked, users=lists))):
            recommender.row_of("")  # makes the index that the service has, too
            for _ in range(2):  # what is made once and kept is no part of it
                tracemalloc.start()
                write_lists(
                    wanted, (users, name), recommender, lambda _: None,
                    same=StillTheSame(wanted.store), threads=1, part_users=250,
                )  # fmt: skip
                held[name, users] = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
    # Two numbers say where a user's row is; a set of ids or histories in another form would take 100 bytes and more.
    assert (held["everybody", 5_000] - held["everybody", 500]) / 4_500 < 24, held
    assert (held["of a file", 5_000] - held["of a file", 500]) / 4_500 < 24, held


def test_two_spellings_of_an_older_model_are_one_user(store):
    model = PlatformStore(store).load()
    PlatformStore(store).commit(replace(model, user_ids=("7.0", "7", *model.user_ids[2:])))
    asked = job(store, scope="own")
    lists = written(asked)
    assert list(lists) == ["7", *EVERYBODY[2:]]
    same(lists, served(asked, list(lists)))


def made_parts(asked: BatchJob) -> dict[str, int]:
    """Name and inode of each part: another inode is another write."""
    folder = asked.output.parent / f".{asked.output.name}.parts"
    return {path.name: path.stat().st_ino for path in sorted(folder.glob("*.parquet"))}


def interrupted_after(asked: BatchJob, parts: int) -> dict[str, int]:
    """The parts of a job of three parts that somebody ends after ``parts`` of them."""
    told = []

    def tell(text):
        told.append(text)
        if len(told) == parts:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommend_to_file(asked, tell, part_users=10, tell_seconds=0.0)
    return made_parts(asked)


def test_an_interrupted_job_goes_on_and_another_begins_anew(store):
    asked = job(store)
    asked.output.write_bytes(b"as it was")
    before = interrupted_after(asked, 2)
    assert list(before) == ["000000.parquet", "000001.parquet"]
    assert asked.output.read_bytes() == b"as it was"
    assert interrupted_after(asked, 2) == before, "what was made is not made again"
    recommend_to_file(asked, lambda _: None, part_users=10)
    assert pl.read_parquet(asked.output)["user_id"].unique(maintain_order=True).to_list() == EVERYBODY
    before = interrupted_after(asked, 2)
    # Whatever changes a list, here what is hidden, begins anew.
    HiddenItems(store).hide(["x:1"])
    anew = interrupted_after(asked, 1)
    assert list(anew) == ["000000.parquet"]
    assert anew["000000.parquet"] != before["000000.parquet"]


def test_a_full_disk_leaves_what_was_there(store):
    asked = job(store)
    asked.output.write_bytes(b"as it was")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            recommend_to_file(asked, lambda _: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert asked.output.read_bytes() == b"as it was"


def test_other_commands_do_without_the_compiler():
    code = "import sys, client.cli.main, client.service.server; assert not {'numba', 'tensorflow'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
