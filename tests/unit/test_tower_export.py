"""What is exported is read by plain Keras and NumPy, in a process where this package cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.cli import app
from client.models.export import export_model
from client.recommend.recommender import Recommender
from client.store import PlatformStore
from common.errors import ConfigError
from tests.unit.test_tower_serving import LENGTH, platform

# Keras' own, when it saves.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
KINDS = ("transformer", "gru", "mean")
HISTORIES = ([], [3], [7, 1, 4], list(range(LENGTH)), [9, *range(20, 20 + LENGTH)])
READER = """
import json, sys
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
    np.savez(folder / "read.npz", users=users, scores=users @ np.load(folder / "item_vectors.npy").T)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One exported model a kind, read back by another process."""
    root = tmp_path_factory.mktemp("export")
    for kind in KINDS:
        model = platform(kind=kind)
        export_model(model, root / kind)
        keys = [[model.own.keys[c] for c in columns] for columns in HISTORIES]
        (root / kind / "histories.json").write_text(json.dumps(keys))
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
    assert all(shape == model.towers.values[name].shape for name, shape in shapes.items() if name != "item_rows")
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


def test_an_item_that_nobody_described_is_in_the_vectors_and_not_in_the_vocabulary(tmp_path: Path) -> None:
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
        "model.keras", "item_vectors.npy", "contract.json", "vocabulary.json",
    }  # fmt: skip
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "out").iterdir())
    asked = ["explain", *store, "--user", "user-1", "--item", model.own.keys[4]]
    shown = run(app, asked)
    assert shown.exit_code == 0, shown.output
    assert all(part in shown.output for part in ("towers", "genres", "own row", "score"))
    why = json.loads(run(app, [*asked, "--limit", "100", "--json"]).output)
    total = sum(part["amount"] for part in why["contributions"]) + why["others"] + why["item_bias"] + why["popularity"]
    assert total == pytest.approx(why["score"], abs=1e-6)
