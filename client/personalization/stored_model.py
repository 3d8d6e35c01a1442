"""A platform's model as a version's two files hold it, a manifest and arrays, and back; older formats, too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import client.scoring.described  # noqa: F401 -- its parts are stored
from client.data.dataset import ItemDescriptions, UserItemMatrix
from client.data.described import Described
from client.personalization.platform_model import CrossVerdict, OwnVerdict, PlatformModel
from client.scoring.attributes import AttributePart
from client.scoring.blend import Blend
from client.scoring.ease import EasePart
from client.scoring.factors import FactorModel
from client.scoring.fold_in import Recency
from client.scoring.part import stored_part
from client.scoring.reranker import Ranker
from client.towers.stored import USER_ROWS, TowerModel
from common.config.model import FactorizationConfig
from common.config.towers import TowerConfig
from common.files import archive, write_atomically

FORMAT: Final = 2
_MODELS: Final = ("shared", "local", "anchored")
_RANKER: Final = "ranker_"
_CROSS: Final = "cross_"
_TOWER_VALUE: Final = "tower_value_"


def without_rows(
    arrays: Mapping[str, NDArray[Any]], gone: NDArray[np.bool_], manifest: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """The arrays of a version with the rows of some users emptied, and all others where they were."""
    histories = _histories(arrays, manifest)
    found = _with_entries(arrays, histories, ~gone[histories.entry_users()])
    for name, array in arrays.items():
        if name == "tower_profile" or name.startswith(f"{_TOWER_VALUE}{USER_ROWS}"):
            found[name] = np.where(gone[:, None], np.zeros_like(array), array)
    return found


def without_older(
    arrays: Mapping[str, NDArray[Any]], oldest: int, manifest: Mapping[str, Any]
) -> dict[str, NDArray[Any]] | None:
    """The arrays of a version with the interactions before ``oldest`` left out; None where there are none."""
    histories = _histories(arrays, manifest)
    kept = histories.times >= oldest
    return None if kept.all() else _with_entries(arrays, histories, kept)


def _histories(arrays: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any]) -> UserItemMatrix:
    return UserItemMatrix(arrays["indptr"], arrays["indices"], arrays["values"], arrays["times"], manifest["n_items"])


def _with_entries(
    arrays: Mapping[str, NDArray[Any]], histories: UserItemMatrix, kept: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    entries = histories.select_entries(kept)
    return dict(arrays) | {name: getattr(entries, name) for name in ("indptr", "indices", "values", "times")}


def write_model(folder: Path, model: PlatformModel) -> None:
    models = {name: getattr(model, name) for name in _MODELS if getattr(model, name) is not None}
    manifest = {
        "format": FORMAT,
        "platform": model.platform,
        "server_round": model.server_round,
        "platforms": model.platforms,
        "vocabulary": _told(model.vocabulary),
        "own": _told(model.own),
        "verdict": asdict(model.verdict),
        "cross_verdict": None if model.cross_verdict is None else asdict(model.cross_verdict),
        "cross": {
            "weights": model.cross.weights,
            "beta": model.cross.beta,
            "parts": [{"name": part.name, "kind": part.kind} for part in model.cross.parts],
        },
        "user_ids": model.user_ids,
        "n_items": model.histories.n_items,
        "models": {
            name: {
                "config": part.config.model_dump(mode="json"),
                "value_mean": part.value_mean,
                "recency": None if part.recency is None else asdict(part.recency),
            }
            for name, part in models.items()
        },
        "towers": None if model.towers is None else _towers_manifest(model.towers),
    }
    arrays: dict[str, NDArray[Any]] = {
        "owners": model.owners,
        "elsewhere": model.foreign_popularity,
        "own_positions": model.own_positions,
        "indptr": model.histories.indptr,
        "indices": model.histories.indices,
        "values": model.histories.values,
        "times": model.histories.times,
        **{f"{name}_parameters": part.item_parameters for name, part in models.items()},
        **({} if model.towers is None else _tower_arrays(model.towers)),
        **{
            f"{_CROSS}{place}_{name}": values
            for place, part in enumerate(model.cross.parts)
            for name, values in part.arrays().items()
        },
        **({} if model.ranker is None else {f"{_RANKER}{name}": part for name, part in model.ranker.arrays().items()}),
    }
    write_atomically(folder / "arrays.npz", archive(arrays))
    write_atomically(folder / "manifest.json", json.dumps(manifest, ensure_ascii=False).encode())


def model_of(manifest: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> PlatformModel:
    models = {
        name: FactorModel(
            item_parameters=arrays[f"{name}_parameters"],
            config=FactorizationConfig.model_validate(part["config"]),
            value_mean=part["value_mean"],
            recency=_recency_of(part.get("recency")),
        )
        for name, part in manifest["models"].items()
    }
    verdict = manifest["verdict"]
    return PlatformModel(
        platform=manifest["platform"],
        server_round=manifest["server_round"],
        platforms=tuple(manifest["platforms"]),
        vocabulary=_descriptions(manifest["vocabulary"]),
        owners=arrays["owners"],
        shared=models["shared"],
        foreign_popularity=arrays["elsewhere"],
        own=_descriptions(manifest["own"]),
        own_positions=arrays["own_positions"],
        local=models["local"],
        anchored=models.get("anchored"),
        verdict=OwnVerdict(**{**verdict, "interval": tuple(verdict["interval"])}),
        cross=_blend_of(manifest, arrays),
        user_ids=tuple(manifest["user_ids"]),
        histories=UserItemMatrix(
            arrays["indptr"], arrays["indices"], arrays["values"], arrays["times"], manifest["n_items"]
        ),
        towers=_towers_of(manifest.get("towers"), arrays),
        ranker=_ranker_of(arrays),
        cross_verdict=_cross_verdict_of(manifest.get("cross_verdict")),
    )


def _towers_manifest(towers: TowerModel) -> dict[str, Any]:
    return {
        "config": towers.config.model_dump(mode="json"),
        "n_shared": towers.n_shared,
        "n_users": towers.n_users,
        "values": sorted(towers.values),
    }


def _tower_arrays(towers: TowerModel) -> dict[str, NDArray[Any]]:
    profile = {} if towers.profile is None else {"tower_profile": towers.profile}
    return {"tower_own": towers.own, **profile, **{f"{_TOWER_VALUE}{name}": v for name, v in towers.values.items()}}


def _towers_of(manifest: dict[str, Any] | None, arrays: dict[str, NDArray[Any]]) -> TowerModel | None:
    if manifest is None:
        return None
    return TowerModel(
        config=TowerConfig.model_validate(manifest["config"]),
        values={name: arrays[f"{_TOWER_VALUE}{name}"] for name in manifest["values"]},
        own=arrays["tower_own"],
        n_shared=manifest["n_shared"],
        n_users=manifest["n_users"],
        profile=arrays.get("tower_profile"),
    )


def _blend_of(manifest: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Blend:
    if "cross" not in manifest:
        return _older_blend(manifest, arrays)
    found, parts = manifest["cross"], []
    for place, told in enumerate(found["parts"]):
        prefix = f"{_CROSS}{place}_"
        own = {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
        parts.append(stored_part(told["kind"]).of_arrays(told["name"], own))
    return Blend(weights=found["weights"], beta=found["beta"], parts=tuple(parts))


def _recency_of(told: dict[str, float] | None) -> Recency | None:
    return None if told is None else Recency(**told)


def _cross_verdict_of(told: dict[str, Any] | None) -> CrossVerdict | None:
    if told is None:
        return None
    # Versions that knew no shares served all of a blend, or none.
    share = 0.0 if told["name"] == "popularity" else 1.0
    return CrossVerdict(**{"share": share, **told, "interval": tuple(told["interval"])})


def _older_blend(manifest: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Blend:
    """Of a version from before there was a :class:`Blend`: each part had fields of its own, or was not there yet."""
    blend = Blend(weights={"shared": 1.0}, beta=manifest["beta"])
    if manifest.get("towers") is not None and manifest.get("tower_weight", 0.0) > 0:
        blend = replace(blend, weights={**blend.weights, "towers": manifest["tower_weight"]})
    if "attribute_tastes" in arrays and manifest.get("attribute_weight", 0.0) > 0:
        tastes = AttributePart(arrays["attribute_tastes"], arrays["attribute_items"])
        blend = blend.with_part(tastes, manifest["attribute_weight"])
    if "linear_weights" in arrays and manifest.get("linear_weight", 0.0) > 0:
        scored = np.arange(len(arrays["owners"]))
        linear = EasePart(arrays["linear_inputs"], arrays["linear_targets"], arrays["linear_weights"], scored)
        blend = blend.with_part(linear, manifest["linear_weight"])
    return blend


def _ranker_of(arrays: dict[str, NDArray[Any]]) -> Ranker | None:
    found = {name.removeprefix(_RANKER): part for name, part in arrays.items() if name.startswith(_RANKER)}
    return Ranker.of_arrays(found) if found else None


def _descriptions(part: dict[str, Any]) -> ItemDescriptions:
    return ItemDescriptions(
        keys=tuple(part["keys"]),
        titles=tuple(part["titles"]),
        genres=tuple(tuple(genres) for genres in part["genres"]),
        further=Described.from_json(part.get("further", {})),
    )


def _told(described: ItemDescriptions) -> dict[str, Any]:
    return {
        "keys": described.keys,
        "titles": described.titles,
        "genres": described.genres,
        "further": described.further.to_json(),
    }
