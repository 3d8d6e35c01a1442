"""``data.retention_days`` where the platform serves: what has become too old is in no list, no log and no version on disk."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from client.batch.run import BatchJob, recommend_to_file
from client.data.recorded import DAY_SECONDS, EventRules
from client.person.watch import Days
from client.personalization.store import PlatformStore
from client.recommend.feedback import FeedbackLog
from client.recommend.feedback_file import FEEDBACK_LOG, FeedbackEvent, header, line_of
from client.recommend.quarantine import quarantine_of
from client.recommend.snapshot import ServingModel
from common.config.serving import ServingConfig, SteeringConfig
from simulations.engine.random_model import random_platform_model

KEPT = EventRules(meaning="weight", retention_days=30)
FRESH, OLD = 10, 40
"""Days."""


def ago(days: int) -> int:
    return int(time.time()) - days * DAY_SECONDS


@pytest.fixture
def store(tmp_path: Path) -> PlatformStore:
    """Two versions: of every user the first interaction is old and all others are fresh; and one event of each age."""
    model = random_platform_model(np.random.default_rng(0), users=4)
    histories = model.histories
    times = np.full(histories.nnz, ago(FRESH), dtype=np.int64)
    times[histories.indptr[:-1]] = ago(OLD)
    made = PlatformStore(tmp_path / "store")
    for _ in range(2):
        made.commit(replace(model, histories=replace(histories, times=times)))
    with FeedbackLog(made.root / FEEDBACK_LOG, EventRules(meaning="weight")) as log:
        for days in (FRESH, OLD):
            log.record(f"e{days}", "user-1", f"x:{days}", 1.0, ago(days))
    return made


def ages(store: PlatformStore) -> list[int]:
    """The oldest interaction of each version, in days."""
    return [int((time.time() - store.load(n).histories.times.min()) // DAY_SECONDS) for n in store.versions()]


def test_what_serves_lets_go_of_what_is_too_old(store: PlatformStore) -> None:
    before = store.load().histories
    with FeedbackLog(store.root / FEEDBACK_LOG, KEPT) as log:
        serving = ServingModel(store, log, ServingConfig())
        serving.reload()
        history = serving.snapshot().recommender.model.histories
        assert history.nnz == before.nnz - before.n_users
        assert ages(store) == [FRESH, FRESH]
        assert [event.item_key for event in log.events_of("user-1")] == [f"x:{FRESH}"]
    assert b"e40" not in (store.root / FEEDBACK_LOG).read_bytes()


def test_it_is_looked_at_again_while_it_serves(store: PlatformStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with FeedbackLog(store.root / FEEDBACK_LOG, KEPT) as log:
        serving = ServingModel(store, log, ServingConfig())
        serving.reload()
        assert not serving.reload()
        assert serving.snapshot().recommender.model.histories.nnz
        later = time.time() + 25 * DAY_SECONDS
        monkeypatch.setattr(time, "time", lambda: later)
        assert serving.reload()
        assert serving.snapshot().recommender.model.histories.nnz == 0
        assert log.events_of("user-1") == ()


def test_without_a_limit_nothing_is_taken_out(store: PlatformStore) -> None:
    with FeedbackLog(store.root / FEEDBACK_LOG, replace(KEPT, retention_days=None)) as log:
        ServingModel(store, log, ServingConfig()).reload()
        assert len(log) == 2
    assert ages(store) == [OLD, OLD]


def test_a_damaged_version_keeps_no_other_from_it(store: PlatformStore, caplog: pytest.LogCaptureFixture) -> None:
    (store.root / "versions" / "000001" / "arrays.npz").write_bytes(b"")
    with FeedbackLog(store.root / FEEDBACK_LOG, KEPT) as log:
        serving = ServingModel(store, log, ServingConfig())
        serving.reload()
        assert serving.snapshot().version == 2
    assert int((time.time() - store.load(2).histories.times.min()) // DAY_SECONDS) == FRESH
    assert "retention_days could not be taken out" in caplog.text


def test_lists_for_everybody_know_nothing_that_is_too_old(store: PlatformStore, tmp_path: Path) -> None:
    job = BatchJob(
        store=store.root, output=tmp_path / "recs.parquet", users=None, k=200, scope="own", steering=SteeringConfig(),
        rules=KEPT,
    )  # fmt: skip
    model = store.load()
    first = model.own.keys[model.histories.row(0)[0]]
    recommend_to_file(replace(job, rules=replace(KEPT, retention_days=None)), lambda _: None)
    listed = pl.read_parquet(job.output).filter(pl.col("user_id") == model.user_ids[0])["item_key"]
    assert first not in listed.to_list(), "what somebody has is not listed"
    recommend_to_file(job, lambda _: None)
    listed = pl.read_parquet(job.output).filter(pl.col("user_id") == model.user_ids[0])["item_key"]
    assert first in listed.to_list(), "nobody knows any more that they had it"


def test_what_was_set_aside_goes_with_its_age(tmp_path: Path) -> None:
    path = tmp_path / FEEDBACK_LOG
    events = [FeedbackEvent(n, f"e{n}", "ann", "x:1", -1.0, ago(days)) for n, days in ((1, OLD), (2, FRESH))]
    path.write_bytes(header(1) + b"".join(line_of([event]) for event in events))
    with FeedbackLog(path, KEPT) as log:
        assert len(quarantine_of(path).read_bytes().splitlines()) == 2
        log.forget_older(ago(30))
        [left] = quarantine_of(path).read_bytes().splitlines()
        assert b'"e2"' in left


def test_a_day_is_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = Days().stamp()
    later = time.time() + DAY_SECONDS
    monkeypatch.setattr(time, "time", lambda: later)
    assert Days().stamp() != stamp
