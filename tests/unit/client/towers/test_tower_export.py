"""An exported model is read by plain Keras and NumPy, in a process where this package cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from client.cli.main import app
from client.personalization.export import export_model
from client.personalization.store import PlatformStore
from client.recommend.recommender import Recommender
from client.towers.content_export import content_tower
from client.towers.encoders import ContentEncoder
from client.towers.features import Feature, ItemFeatures
from client.towers.stored import TowerModel
from client.towers.two_tower import TwoTower
from common.config.towers import EncoderConfig, SequenceConfig, TowerConfig
from common.errors import ConfigError
from tests.support.towers import ENCODERS, LENGTH, platform

# Keras' own, when it saves.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
KINDS = ("transformer", "hstu", "gru", "mean")
HISTORIES = ([], [3], [7, 1, 4], list(range(LENGTH)), [9, *range(20, 20 + LENGTH)])
READER = """
import json, sys, unicodedata, zlib
from pathlib import Path
import numpy as np

class WithoutThisPackage:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("client", "common", "server", "simulations"):
            raise ImportError(name)

sys.meta_path.insert(0, WithoutThisPackage)
import keras
for folder in map(Path, sys.argv[1:]):
    contract = json.loads((folder / "contract.json").read_text())
    inputs = {item["key"]: item["input"] for item in json.loads((folder / "vocabulary.json").read_text())["items"]}
    length = contract["input"]["shape"][1]
    histories = json.loads((folder / "histories.json").read_text())
    read = np.zeros((len(histories), length), dtype=np.int32)
    for row, keys in enumerate(histories):
        newest = [inputs[key] for key in keys][-length:]
        read[row, : len(newest)] = newest
    users = keras.models.load_model(folder / "model.keras").predict(read, verbose=0)
    # From what the contract says of attributes, in words: without the package's own reading of text.
    content = contract["content"]
    new = json.loads((folder / "new.json").read_text())
    taken, present = {}, np.zeros((len(new), len(content["inputs"]) - 1), dtype=np.float32)
    for place, one in enumerate(content["inputs"][:-1]):
        modulus = int(one["meaning"].partition("modulo ")[2].partition(";")[0])
        values = taken[one["name"]] = np.zeros((len(new), one["shape"][1]), dtype=one["dtype"])
        for row, item in enumerate(new):
            tokens = []
            for part in item.get(one["attribute"]) or []:
                fold = unicodedata.normalize("NFKC", part).casefold().strip()
                if one["kind"] == "multi_hot":
                    tokens.append("=" + fold)
                    continue
                for word in fold.split():
                    tokens.append(word)
                    tokens += ["#" + word[i : i + 3] for i in range(len(word) - 2)] if len(word) > 3 else []
            codes = [1 + zlib.crc32(token.encode()) % modulus for token in tokens][: one["shape"][1]]
            values[row, : len(codes)], present[row, place] = codes, bool(codes)
    vectors = keras.models.load_model(folder / "content.keras").predict({**taken, "present": present}, verbose=0)
    np.savez(
        folder / "read.npz",
        users=users, scores=users @ np.load(folder / "item_vectors.npy").T, new=vectors, new_scores=users @ vectors.T,
    )
"""
NEW: tuple[dict[str, list[str]], ...] = (
    {"title": ["Die  Brücke"], "genres": ["War", "drama"]},
    {"title": ["Film 3"]},
    {"genres": ["comedy"]},
    {},
)
"""Items that nobody had when the model was trained; each text and category in a list."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One exported model a kind, read back by another process."""
    root = tmp_path_factory.mktemp("export")
    for kind in KINDS:
        model = platform(kind=kind)
        export_model(model, root / kind)
        keys = [[model.own.keys[c] for c in columns] for columns in HISTORIES]
        (root / kind / "histories.json").write_text(json.dumps(keys))
        (root / kind / "new.json").write_text(json.dumps(NEW))
    command = [sys.executable, "-c", READER, *map(str, (root / kind for kind in KINDS))]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {kind: root / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_plain_keras_gives_the_same_user_vectors_and_scores(folders: dict[str, Path], kind: str) -> None:
    model = platform(kind=kind)
    assert model.towers is not None
    found = np.load(folders[kind] / "read.npz")
    for row, columns in enumerate(HISTORIES):
        vector = model.towers.user_vector(np.array(columns, dtype=np.int32), None)
        np.testing.assert_allclose(found["users"][row], vector, atol=1e-5)
        np.testing.assert_allclose(found["scores"][row], model.towers.item_vectors @ vector, atol=1e-5)
    assert not found["users"][0].any()
    assert np.abs(found["users"][1:]).max(axis=1).min() > 0.01


def test_plain_keras_scores_a_new_item_from_its_attributes(folders: dict[str, Path]) -> None:
    model = platform(kind="transformer")
    assert model.towers is not None
    found = np.load(folders["transformer"] / "read.npz")
    columns = {
        "title": [item["title"][0] if "title" in item else None for item in NEW],
        "genres": [item.get("genres") for item in NEW],
    }
    # The encoders as they are trained, over the new items in place of the old ones.
    layer = ContentEncoder(model.towers.config, ItemFeatures.of(ENCODERS, columns, len(NEW)))
    layer()
    load_encoders(layer, model.towers)
    np.testing.assert_allclose(found["new"], np.asarray(layer()), atol=1e-5)
    assert np.abs(found["new"][:3]).max(axis=1).min() > 0.01
    assert not found["new"][3].any()
    vector = model.towers.user_vector(np.array(HISTORIES[2], dtype=np.int32), None)
    np.testing.assert_allclose(found["new_scores"][2], np.asarray(layer()) @ vector, atol=1e-5)


def load_encoders(layer: ContentEncoder, towers: TowerModel) -> None:
    for variable in layer.trainable_variables:
        parts = [part.removeprefix("attribute_") for part in variable.path.split("/") if part != "content"]
        variable.assign(towers.encoder_values["_".join(parts)])


@pytest.mark.parametrize(
    "kind", ["multi_hot", "numeric", "text", "text_transformer", "image", "vector", "sentence", "text_vector"]
)
def test_every_encoder_is_exported_as_it_was_trained(kind: str, tmp_path: Path) -> None:
    size = {"width": 4, "length": 8, "buckets": 16}
    encoders = tuple(EncoderConfig(attribute=name, kind=kind, **size) for name in ("about", "more"))
    rng, n = np.random.default_rng(3), 5
    raw = {
        "numeric": 1900 + 100 * rng.random((n, 1)),
        "image": rng.uniform(0, 255, (n, 8, 8, 3)),
        "vector": rng.normal(size=(n, 4)),
        "sentence": rng.normal(size=(n, 4)),
        "text_vector": rng.normal(size=(n, 4)),
    }.get(kind, rng.integers(0, 16, (n, 8)) * (np.arange(8) < 5))
    present = np.array([True, True, False, True, True])
    scale = (1930.0, 20.0) if kind == "numeric" else (0.0, 1.0)
    read = {"numeric": (raw - scale[0]) / scale[1], "image": raw / 127.5 - 1}.get(kind, raw)
    codes = kind in ("multi_hot", "text", "text_transformer")
    values = read.astype("int32" if codes else "float32")
    features = ItemFeatures(n, tuple(Feature(encoder, values, present, scale) for encoder in encoders))
    config = TowerConfig(dimension=4, encoders=encoders, item_ids=False, sequence=SequenceConfig(kind="mean"))
    tower = TwoTower(config, features, n_shared=n, n_users=1)
    for number, variable in enumerate(tower.trainable_variables):
        variable.assign(np.random.default_rng(number).normal(size=variable.shape))
    towers = TowerModel.of(tower, np.arange(n, dtype=np.int32))
    content_tower(towers).save(tmp_path / "content.keras")
    taken = {f"attribute_{encoder.attribute}": raw.astype(values.dtype) for encoder in encoders}
    if kind == "numeric":
        taken = {name: np.where(present[:, None], own, np.nan) for name, own in taken.items()}
    model = keras.models.load_model(tmp_path / "content.keras")
    found = model.predict({**taken, "present": np.repeat(present[:, None], 2, axis=1).astype("float32")}, verbose=0)
    np.testing.assert_allclose(found, towers.item_vectors, atol=2e-5)
    assert np.abs(found[present]).max() > 0.1


def test_a_model_stored_without_encoders_is_exported_without_them(tmp_path: Path) -> None:
    """As an earlier version stored it."""
    model = platform(kind="mean")
    assert model.towers is not None
    values = {name: value for name, value in model.towers.values.items() if not name.startswith("encoder_")}
    earlier = replace(model, towers=replace(model.towers, config=model.towers.folded, values=values))
    export_model(model, tmp_path)
    assert (tmp_path / "content.keras").exists()
    export_model(earlier, tmp_path)
    assert not (tmp_path / "content.keras").exists()
    assert json.loads((tmp_path / "contract.json").read_text())["content"] is None


def test_plain_keras_ranks_as_the_service_does(folders: dict[str, Path]) -> None:
    model = platform(kind="transformer")
    assert model.towers is not None
    scores = np.load(folders["transformer"] / "read.npz")["scores"][2][model.towers.own]
    recommender = Recommender(model)
    history, _ = recommender.history_from([(model.own.keys[c], 1.0) for c in HISTORIES[2]])
    listed = recommender.recommend_for(recommender.prepare(history), k=20, scope="own", exclude_seen=False)
    assert [item.key for item in listed] == [model.own.keys[i] for i in np.argsort(-scores, kind="stable")[:20]]


def test_contract_and_vocabulary_name_what_is_in_the_files(folders: dict[str, Path]) -> None:
    model = platform(kind="transformer")
    assert model.towers is not None
    contract = json.loads((folders["transformer"] / "contract.json").read_text())
    shapes = {variable["name"]: tuple(variable["shape"]) for variable in contract["shared"]}
    assert shapes["item_rows"] == (model.towers.n_shared, model.towers.config.dimension)
    kept = {**model.towers.values, **model.towers.encoder_values}
    assert all(shape == kept[name].shape for name, shape in shapes.items() if name != "item_rows")
    files = {variable["name"]: variable["file"] for variable in contract["shared"]}
    assert (files["item_rows"], files["positions"]) == ("item_vectors.npy", "model.keras")
    assert files["genres_table"] == files["title_project_kernel"] == "content.keras"
    private = {variable["name"]: variable["exported"] for variable in contract["private"]}
    assert private == {"users_table": False, "adapter_kernel": True}
    items = json.loads((folders["transformer"] / "vocabulary.json").read_text())["items"]
    titles = dict(zip(model.vocabulary.keys, model.vocabulary.titles, strict=True))
    titles |= dict(zip(model.own.keys, model.own.titles, strict=True))
    assert {item["key"]: item["title"] for item in items} == titles
    own = {item["key"]: item["row"] for item in items if item["own"]}
    assert own == dict(zip(model.own.keys, model.towers.own.tolist(), strict=True))


def test_nothing_of_a_single_user_is_exported(folders: dict[str, Path]) -> None:
    model = platform(kind="transformer")
    assert model.towers is not None
    table = model.towers.values["users_table"]
    assert table.any()
    written = b"".join(path.read_bytes() for path in folders["transformer"].iterdir() if path.name != "read.npz")
    assert not any(row.tobytes() in written for row in table)
    assert b"user-1" not in written


def test_an_undescribed_item_has_a_vector_and_no_vocabulary_entry(tmp_path: Path) -> None:
    model = platform()
    foreign = int(np.flatnonzero(model.foreign)[0])
    keys = tuple("" if i == foreign else key for i, key in enumerate(model.vocabulary.keys))
    export_model(replace(model, vocabulary=replace(model.vocabulary, keys=keys)), tmp_path)
    items = json.loads((tmp_path / "vocabulary.json").read_text())["items"]
    assert foreign not in {item["row"] for item in items}
    assert len(np.load(tmp_path / "item_vectors.npy")) == len(items) + 1


def test_a_store_without_a_deep_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no deep model"):
        export_model(replace(platform(), towers=None), tmp_path)
    with pytest.raises(ConfigError, match="sequence"):
        export_model(platform(kind="none"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_line_exports_and_explains(tmp_path: Path) -> None:
    model = platform(kind="mean")
    PlatformStore(tmp_path / "store").commit(model)
    run = CliRunner().invoke
    store = ["--store", str(tmp_path / "store")]
    done = run(app, ["export", *store, "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.keras", "item_vectors.npy", "content.keras", "contract.json", "vocabulary.json",
    }  # fmt: skip
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "out").iterdir())
    asked = ["explain", *store, "--user", "user-1", "--item", model.own.keys[4]]
    shown = run(app, asked)
    assert shown.exit_code == 0, shown.output
    assert all(part in shown.output for part in ("towers", "genres", "own row", "score"))
    why = json.loads(run(app, [*asked, "--limit", "100", "--json"]).output)
    total = sum(part["amount"] for part in why["contributions"]) + why["others"] + why["item_bias"] + why["popularity"]
    assert total == pytest.approx(why["score"], abs=1e-6)
