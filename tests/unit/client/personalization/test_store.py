from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.personalization.platform_model import CrossVerdict, PlatformModel
from client.personalization.store import PlatformStore
from client.recommend.recommender import Recommender
from client.scoring.attributes import AttributePart
from client.scoring.blend import Blend
from client.scoring.ease import EasePart
from client.scoring.fold_in import Recency
from common.errors import NewerStoreError, StoreError
from tests.support.disk import FullDisk
from tests.support.stores import model_of

SCOPES = ("own", "cross", "all")


def answers(model: PlatformModel) -> list[Any]:
    recommender = Recommender(model)
    return [recommender.recommend(user, 6, scope) for user in model.user_ids for scope in SCOPES]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdict", "explicit"),
    [("local", False), ("shared", False), ("blend", False), ("anchored", False), ("shared", True), ("anchored", True)],
)
def test_a_model_comes_back_with_identical_recommendations(tmp_path: Path, verdict: str, explicit: bool) -> None:
    model = model_of(1, verdict, explicit=explicit)
    store = PlatformStore(tmp_path / "store")
    assert store.commit(model) == 1
    loaded = store.load()
    assert answers(loaded) == answers(model)
    assert asdict(loaded.verdict) == asdict(model.verdict)
    assert asdict(loaded.vocabulary) == asdict(model.vocabulary)
    assert asdict(loaded.own) == asdict(model.own)
    assert asdict(loaded.cross) == asdict(model.cross)
    for name in ("platform", "server_round", "platforms", "user_ids"):
        assert getattr(loaded, name) == getattr(model, name)
    for name in ("owners", "foreign_popularity", "own_positions"):
        assert getattr(loaded, name).tobytes() == getattr(model, name).tobytes()
    for name in ("indptr", "indices", "values", "times"):
        assert getattr(loaded.histories, name).tobytes() == getattr(model.histories, name).tobytes()


def test_how_latest_items_weigh_comes_back_and_is_told(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path)
    latest = Recency(boost=40.0, span=3.0)
    store.commit(model_of(2, "local").with_recency("local", latest))
    assert store.load().recencies == {"local": latest}
    assert answers(store.load()) == answers(model_of(2, "local").with_recency("local", latest))
    assert store.told(1)["recency"] == {"local": {"boost": 40.0, "span": 3.0}}
    store.commit(model_of(2, "local"))
    assert store.told(2)["recency"] == store.load().recencies == {}


def test_a_version_from_before_recency_weighs_all_alike(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path)
    store.commit(model_of(2))
    path = store.folder_of(1) / "manifest.json"
    manifest = json.loads(path.read_text())
    for part in manifest["models"].values():
        del part["recency"]
    path.write_text(json.dumps(manifest))
    assert store.load().recencies == store.told(1)["recency"] == {}
    assert answers(store.load()) == answers(model_of(2))


def test_a_model_without_an_anchored_one_comes_back_without(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path)
    store.commit(model_of(anchored=False))
    assert store.load().anchored is None


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path / "nothing")
    assert store.versions() == []
    with pytest.raises(StoreError, match="holds no model yet; run a federation"):
        store.load()


def test_the_newest_versions_stay_and_an_older_one_can_be_read(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path, keep=2)
    for seed in range(4):
        assert store.commit(model_of(seed)) == seed + 1
    assert store.versions() == [3, 4]
    assert store.current() == 4
    assert np.array_equal(store.load(3).foreign_popularity, model_of(2).foreign_popularity)
    assert np.array_equal(store.load().foreign_popularity, model_of(3).foreign_popularity)
    with pytest.raises(StoreError, match="000001: damaged"):
        store.load(1)


def test_the_store_is_open_to_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        PlatformStore(tmp_path / "store").commit(model_of())
    finally:
        os.umask(before)
    for path in (tmp_path / "store").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize(("name", "share"), [("blend", 1.0), ("popularity", 0.0)])
def test_a_version_from_before_shares_served_all_or_nothing(tmp_path: Path, name: str, share: float) -> None:
    verdict = CrossVerdict(
        name=name, metric="recall@20", users=9, popularity_mean=0.1, chosen_mean=0.2, interval=(0.1, 0.3), share=0.5
    )
    store = PlatformStore(tmp_path)
    store.commit(replace(model_of(), cross_verdict=verdict))

    def loaded() -> Any:
        read = store.load().cross_verdict
        assert read is not None
        return asdict(read)

    assert loaded() == asdict(verdict)
    path = tmp_path / "versions" / "000001" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["cross_verdict"]["share"]
    path.write_text(json.dumps(manifest))
    assert loaded() == {**asdict(verdict), "share": share}


def test_a_version_of_a_newer_crossfed_is_said_to_be_newer(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path)
    store.commit(model_of())
    path = tmp_path / "versions" / "000001" / "manifest.json"
    path.write_text(json.dumps({"format": 3, "all": "else is new"}))
    with pytest.raises(NewerStoreError, match="has format 3, this crossfed reads up to 2; upgrade"):
        store.load()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", b""),
        ("manifest.json", b"[]"),
        ("manifest.json", b'{"format": 1}'),
        ("manifest.json", b"\xff\xfe"),
        ("manifest.json", b'{"format": 1, "models": []}'),
        ("arrays.npz", b""),
        ("arrays.npz", b"PK\x03\x04"),
        ("arrays.npz", None),
        ("manifest.json", None),
    ],
)
def test_the_version_before_serves_in_place_of_a_damaged_one(
    tmp_path: Path, name: str, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    store = PlatformStore(tmp_path)
    store.commit(model_of(0))
    store.commit(model_of(1))
    path = tmp_path / "versions" / "000002" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(StoreError, match="000002: damaged; restore it from a backup, or train again"):
        store.load(2)
    assert np.array_equal(store.load().foreign_popularity, model_of(0).foreign_popularity)
    assert "000002: damaged" in caplog.text


@pytest.mark.parametrize("content", ["", "one", "-", "\0", "99\n", None])
def test_a_damaged_current_serves_the_newest_sound_version(tmp_path: Path, content: str | None) -> None:
    store = PlatformStore(tmp_path)
    for seed in range(3):
        store.commit(model_of(seed))
    (tmp_path / "versions" / "000003" / "arrays.npz").write_bytes(b"")
    current = tmp_path / "CURRENT"
    current.unlink() if content is None else current.write_text(content)
    assert np.array_equal(store.load().foreign_popularity, model_of(1).foreign_popularity)
    assert "names no version that is there" in (store.misnamed() or "")
    assert store.commit(model_of(3)) == 4
    assert np.array_equal(store.load().foreign_popularity, model_of(3).foreign_popularity)
    assert store.misnamed() is None


def test_a_version_of_a_newer_crossfed_is_skipped_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Upgrade, train, roll back: the last version that this one can read serves."""
    store = PlatformStore(tmp_path)
    store.commit(model_of(0))
    store.commit(model_of(1))
    (tmp_path / "versions" / "000002" / "manifest.json").write_text('{"format": 3}')
    assert np.array_equal(store.load().foreign_popularity, model_of(0).foreign_popularity)
    assert "000002: has format 3" in caplog.text


def test_nothing_serves_where_every_version_is_damaged(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path)
    store.commit(model_of(0))
    (tmp_path / "versions" / "000001" / "arrays.npz").write_bytes(b"")
    with pytest.raises(StoreError, match="000001: damaged"):
        store.load()


@pytest.mark.parametrize("first", [True, False], ids=["first version", "second version"])
def test_a_disk_full_at_any_step_leaves_the_old_version_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """The number of writing calls before the disk is full runs from 0 until a commit gets through."""
    for left in range(60):
        root = tmp_path / str(left)
        store = PlatformStore(root)
        if not first:
            store.commit(model_of(0))
        disk = FullDisk(left)
        failed = False
        with monkeypatch.context() as patch:
            disk.install(patch)
            try:
                store.commit(model_of(1))
            except StoreError as error:
                failed = True
                assert "cannot be written" in str(error)  # noqa: PT017
        if not failed:
            assert np.array_equal(store.load().foreign_popularity, model_of(1).foreign_popularity)
            assert left > 8
            return
        if not first:
            assert np.array_equal(
                store.load().foreign_popularity, model_of(0 if store.current() == 1 else 1).foreign_popularity
            )
        assert not list(root.rglob("*unfinished*"))
        # With space again the next commit goes through.
        store.commit(model_of(2))
        assert np.array_equal(store.load().foreign_popularity, model_of(2).foreign_popularity)
    pytest.fail("no commit ever got through")


def test_half_written_versions_are_not_listed_and_not_in_the_way(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path)
    store.commit(model_of(0))
    unfinished = tmp_path / "versions" / ".000002.unfinished"
    unfinished.mkdir()
    (unfinished / "manifest.json").write_text("{")
    assert store.versions() == [1]
    assert store.commit(model_of(1)) == 2
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == ["000001", "000002"]


def test_a_version_not_yet_named_at_power_loss_does_not_serve(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path)
    store.commit(model_of(0))
    store.commit(model_of(1))
    (tmp_path / "CURRENT").write_text("1\n")
    assert np.array_equal(store.load().foreign_popularity, model_of(0).foreign_popularity)
    assert store.commit(replace(model_of(2), cross=Blend(weights={"shared": 1.0}, beta=0.9))) == 3
    assert store.load().cross.beta == 0.9


def test_the_parts_of_a_blend_come_back_in_order(tmp_path: Path) -> None:
    store, model = PlatformStore(tmp_path), model_of(0)
    tastes, placed = np.random.default_rng(1).standard_normal((2, 9, 3)).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    linear = EasePart(np.array([0, 8]), np.array([1, 2, 7]), weights, np.arange(9))
    blend = model.cross.with_part(AttributePart(tastes, placed), 2.5).with_part(linear, 0.5)
    model = replace(model, cross=replace(blend, beta=None))
    store.commit(model)
    new = store.load()
    assert list(new.cross.weights.items()) == [("shared", 1.0), ("attributes", 2.5), ("linear", 0.5)]
    assert new.cross.beta is None
    for part, kept in zip(model.cross.parts, new.cross.parts, strict=True):
        assert (type(kept), kept.name) == (type(part), part.name)
        assert all(np.array_equal(values, kept.arrays()[name]) for name, values in part.arrays().items())
    assert answers(new) == answers(model)


def test_stores_of_format_1_open_and_answer_as_before(tmp_path: Path) -> None:
    """Version 1 has attributes and the item-item model with their weights, version 2 neither; both as 96db9a8 wrote them."""
    old = Path(__file__).parent / "store_of_format_1"
    shutil.copytree(old, tmp_path / "store")
    store = PlatformStore(tmp_path / "store")
    for version, expected in zip((1, 2), json.loads((old / "answers.json").read_text()), strict=True):
        model = store.load(version)
        assert list(model.cross.weights) == (["shared", "attributes", "linear"] if version == 1 else ["shared"])
        recommender = Recommender(model)
        for user, listed in expected.items():
            found = recommender.recommend(user, 34, exclude_seen=False)
            assert [item.key for item in found] == [key for key, _ in listed]
            assert [item.score for item in found] == pytest.approx([score for _, score in listed], abs=5e-5)
    store.commit(store.load(1))
    assert answers(store.load()) == answers(store.load(1))
