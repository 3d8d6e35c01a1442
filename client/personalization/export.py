"""A trained deep model as files that plain Keras and NumPy read, without this package.

    model.keras        history of items to user vector; standard layers alone
    item_vectors.npy   float32 [items, d]; a score is the product of a user's vector with an item's
    content.keras      attributes of a new item to its vector, where the model has encoders; standard layers alone
    contract.json      the shared variables as declared, the private ones, and what the model takes and gives
    vocabulary.json    which row is which item

Nothing in them is of a single user: user embeddings and profiles stay in the store, and the vectors are those of somebody
known by history alone. Rows of items that the platform shares with nobody are among them, and its adapter: the files are
the platform's own.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from client.personalization.platform_model import PlatformModel
from client.towers.content_export import content_contract, content_tower
from client.towers.layers import Values, block, embedding, norm, pointwise_block, with_weights
from client.towers.stored import TowerModel
from common.config.towers import SequenceConfig
from common.contributions.tower_variables import ITEM_ROWS, tower_variables
from common.errors import ConfigError
from common.files import write_atomically

FORMAT = 1


def export_model(model: PlatformModel, folder: Path) -> list[Path]:
    """Write the deep model of ``model`` to ``folder``, which is made; files that are there are replaced.

    Raises:
        ConfigError: the platform has no deep model, or one that does not read histories, or ``folder`` cannot be written.
    """
    towers = model.towers
    if towers is None:
        raise ConfigError("this store's model has no deep model to export; run a federation whose plan has towers")
    if towers.config.sequence.kind == "none":
        raise ConfigError(
            "plan.towers.sequence.kind: none: user vectors are made of private rows alone, which are not exported; "
            "take mean, gru, transformer or hstu and train again"
        )
    try:
        return _write(model, towers, folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error


def _write(model: PlatformModel, towers: TowerModel, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    paths = [folder / name for name in ("model.keras", "item_vectors.npy", "contract.json", "vocabulary.json")]
    _save(user_tower(towers), paths[0])
    vectors = io.BytesIO()
    np.save(vectors, towers.item_vectors)
    write_atomically(paths[1], vectors.getvalue())
    content = folder / "content.keras"
    if towers.encoder_values:
        _save(content_tower(towers), content)
        paths.append(content)
    else:
        content.unlink(missing_ok=True)
    for path, facts in ((paths[2], _contract(model, towers)), (paths[3], _vocabulary(model, towers))):
        write_atomically(path, json.dumps(facts, ensure_ascii=False, indent=1).encode())
    return paths


def _save(model: keras.Model, path: Path) -> None:
    unfinished = path.with_name("unfinished.keras")
    model.save(unfinished)
    # As the other files are: the folder may be one that others read.
    unfinished.chmod(0o600)
    unfinished.replace(path)


def user_tower(towers: TowerModel) -> keras.Model:
    """From int32 ``[b, L]``, 1 + row of each item, oldest first, 0 behind the last one, to float32 ``[b, d]``.

    The same function as :meth:`client.towers.two_tower.TwoTower.user_vectors` for somebody unknown, in layers that Keras has.
    """
    config, values = towers.config, towers.values
    d = config.dimension
    items = keras.Input((_length(towers),), dtype="int32", name="items")
    table = np.concatenate([np.zeros((1, d), dtype=np.float32), towers.item_vectors])
    x = embedding("item_vectors", table)(items)
    lengths = ops.sum(ops.cast(items > 0, "int32"), axis=1, keepdims=True)
    places = ops.cumsum(ops.ones_like(items), axis=1) - 1
    out = _sequence(config.sequence, values, x, lengths, places, d)
    last = ops.cast(ops.equal(places, lengths - 1), "float32")
    # Of an empty history no place is the last one: the vector is zero.
    user = ops.sum(out * ops.expand_dims(last, -1), axis=1)
    if config.adapter:
        user = user + with_weights(layers.Dense(d, use_bias=False, name="adapter"), values["adapter_kernel"])(user)
    return keras.Model(items, user, name="user_tower")


def _sequence(config: SequenceConfig, values: Values, x: Any, lengths: Any, places: Any, d: int) -> Any:
    """float32 ``[b, L, d]``: what each prefix of the history says."""
    if config.kind == "mean":
        return ops.cumsum(x, axis=1) / ops.expand_dims(ops.cast(places + 1, "float32"), -1)
    if config.kind == "gru":
        weights = (values["gru_kernel"], values["gru_recurrent_kernel"], values["gru_bias"])
        return with_weights(layers.GRU(d, return_sequences=True, name="gru"), *weights)(x)
    x = x * d**0.5
    if config.positions != "none":
        counted = config.length - lengths + places if config.positions == "end" else places
        x = x + embedding("positions", values["positions"])(ops.clip(counted, 0, config.length - 1))
    for number in range(config.blocks):
        name = f"block{number}"
        if config.kind == "hstu":
            x = pointwise_block(name, values, x, places, config.length)
        else:
            x = block(name, config.heads, values, x, d, causal=True)
    return norm("final_norm", values, x)


def _contract(model: PlatformModel, towers: TowerModel) -> dict[str, Any]:
    declared = tower_variables(towers.config)
    known = {variable.name for variable in declared}
    shared = [
        {
            "name": variable.name,
            "shape": list(variable.full_shape(towers.n_shared)),
            "rows": variable.rows,
            "file": _file_of(variable.name, towers),
        }
        for variable in declared
        if towers.config.place == "federation"
    ]
    private = [
        {"name": name, "shape": list(value.shape), "exported": name.startswith("adapter") or name in known}
        for name, value in sorted(towers.variables.items())
        if name not in {ITEM_ROWS, *(variable["name"] for variable in shared)}
    ]
    return {
        "format": FORMAT,
        "platform": model.platform,
        "server_round": model.server_round,
        "shared": shared,
        "private": private,
        "item_vectors": {
            "shape": list(towers.item_vectors.shape),
            "shared": towers.n_shared,
            "attributes": sorted(towers.item_parts),
            "made_of": f"{ITEM_ROWS} and the attributes' encoders; rows behind the first {towers.n_shared} are private",
        },
        "input": {
            "name": "items",
            "dtype": "int32",
            "shape": [None, _length(towers)],
            "meaning": "1 + row of each item, oldest first, newest last; 0 behind the last one",
        },
        "output": {"dtype": "float32", "shape": [None, towers.config.dimension], "score": "output @ item_vectors.T"},
        "content": content_contract(towers) if towers.encoder_values else None,
    }


def _file_of(name: str, towers: TowerModel) -> str:
    """Where a shared variable went."""
    if name == ITEM_ROWS:
        return "item_vectors.npy"
    return "content.keras" if name in towers.encoder_values else "model.keras"


def _length(towers: TowerModel) -> int:
    # As in client.towers.scorer: windows are two items wide at least.
    return max(towers.config.sequence.length, 2)


def _vocabulary(model: PlatformModel, towers: TowerModel) -> dict[str, Any]:
    """Rows of the items that somebody described, the platform's own included."""
    known = {
        row: (key, title, genres)
        for row, (key, title, genres) in enumerate(
            zip(model.vocabulary.keys, model.vocabulary.titles, model.vocabulary.genres, strict=True)
        )
        if key and row < towers.n_shared
    }
    own = zip(towers.own.tolist(), model.own.keys, model.own.titles, model.own.genres, strict=True)
    known |= {row: (key, title, genres) for row, key, title, genres in own}
    mine = set(towers.own.tolist())
    return {
        "items": [
            {"row": row, "input": row + 1, "key": key, "title": title, "genres": list(genres), "own": row in mine}
            for row, (key, title, genres) in sorted(known.items())
        ]
    }
