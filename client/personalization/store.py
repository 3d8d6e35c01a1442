"""The platform's versioned model store: each version a folder that is wholly there or not at all.

    STORE/CURRENT              the number of the version that serves
    STORE/versions/000001/     manifest.json and arrays.npz

A version is written beside the others, made durable, and only then named in ``CURRENT``: a crash or a full disk at any
point leaves the old version serving. Where the one that is named is damaged, the newest sound one serves.

Whom the exclusion list (:mod:`client.data.reading.exclusions`) names is in no version that is written or loaded; one who is
erased is taken out of those that are there (:meth:`PlatformStore.forget_excluded`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from logging import getLogger
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import client.scoring.described  # noqa: F401 -- its parts are stored
from client.data.dataset import ItemDescriptions, UserItemMatrix
from client.data.described import Described
from client.data.reading.exclusions import ExclusionBook
from client.personalization.platform_model import CrossVerdict, OwnVerdict, PlatformModel
from client.scoring.attributes import AttributePart
from client.scoring.blend import Blend
from client.scoring.ease import EasePart
from client.scoring.factors import FactorModel
from client.scoring.part import stored_part
from client.scoring.reranker import Ranker
from client.towers.stored import USER_ROWS, TowerModel
from client.versions.experiment import ExperimentFile
from common.config.model import FactorizationConfig
from common.config.towers import TowerConfig
from common.deploy.locks import held
from common.errors import NewerStoreError, StoreError
from common.files import archive, read_archive, sync_folder, write_atomically

_log = getLogger(__name__)
FORMAT: Final = 2
_MODELS: Final = ("shared", "local", "anchored")
_RANKER: Final = "ranker_"
_CROSS: Final = "cross_"
_TOWER_VALUE: Final = "tower_value_"


class PlatformStore:
    """Versions of a platform's model in one folder, readable by its owner only.

    Args:
        root: the folder; made when it is not there.
        keep: how many of the newest versions stay.
    """

    def __init__(self, root: Path, *, keep: int = 3) -> None:
        self.root = root
        self._keep = keep
        self._exclusions = ExclusionBook(root)
        self.experiments = ExperimentFile(root)

    @property
    def _versions(self) -> Path:
        return self.root / "versions"

    def versions(self) -> list[int]:
        """Numbers of all complete versions, oldest first."""
        if not self._versions.is_dir():
            return []
        return sorted(int(path.name) for path in self._versions.iterdir() if path.name.isdigit())

    def named(self) -> int | None:
        """The version that ``CURRENT`` names; None where it is not there or not a number."""
        try:
            return int((self.root / "CURRENT").read_text().strip())
        except (OSError, ValueError):
            return None

    def current(self) -> int:
        """The version that is to serve: what ``CURRENT`` names, or the newest where that cannot be read.

        Raises:
            StoreError: there is none yet.
        """
        return self.candidates()[0]

    def candidates(self) -> list[int]:
        """All versions in the order in which they are to serve, should those before be damaged.

        First what ``CURRENT`` names, then those before it, then those after it, which had been written and not yet named.

        Raises:
            StoreError: there is none yet.
        """
        versions, named = self.versions(), self.named()
        if not versions:
            raise StoreError(
                f"{self.root}: holds no model yet; run a federation with this store first (crossfed-simulate run, or "
                f"crossfed-client start)"
            )
        after = [] if named not in versions else [version for version in versions if version > named]
        return [*reversed(versions[: len(versions) - len(after)]), *reversed(after)]

    def misnamed(self) -> str | None:
        """Return what is wrong with ``CURRENT``; None where it names a version that is there, or there is none yet."""
        if not self.versions() or self.named() in self.versions():
            return None
        return (
            f"{self.root / 'CURRENT'}: names no version that is there; write the number of one into it, or train again"
        )

    def signature(self) -> tuple[object, ...]:
        """Changes whenever a file of the store does."""
        files = [path for version in self.versions() for path in (self._versions / f"{version:06d}").glob("*")]
        stamps = tuple(_stamp(path) for path in (self.root / "CURRENT", *sorted(files)))
        return *stamps, self.exclusions_stamp(), self.experiments.stamp()

    def exclusions_stamp(self) -> tuple[object, ...]:
        """Changes whenever somebody more, or less, is left out."""
        return self._exclusions.stamp()

    def commit(self, model: PlatformModel) -> int:
        """Write ``model`` as the next version and serve it; returns its number.

        Raises:
            StoreError: it cannot be written; the version before still serves.
        """
        with self._writing("crossfed, writing a model"):
            return self._commit(self._allowed(model))

    def forget_excluded(self) -> int:
        """Take whoever is left out of all versions on disk; how many versions had somebody. Safe to repeat.

        What a version has learned of all users together stays: it is not any one's.

        Raises:
            StoreError: a version cannot be read or written; those before it are done.
        """
        if not self._versions.is_dir():
            return 0
        changed = 0
        with self._writing("crossfed-client person"):
            for left_over in self._versions.glob(".*"):
                shutil.rmtree(left_over)
            for version in self.versions():
                changed += self._forget_in(self._versions / f"{version:06d}")
        return changed

    def stored_ids(self, version: int) -> tuple[str, ...]:
        """Ids of the users whom a version's files name, empty where one was taken out.

        Raises:
            StoreError: it cannot be read.
        """
        manifest, _ = self._files_of(self._versions / f"{version:06d}")
        return tuple(user for user in manifest["user_ids"] if user)

    def _forget_in(self, folder: Path) -> bool:
        """Empty the rows of who is left out: first their arrays, then their ids, so that a crash leaves a whole version."""
        for left_over in folder.glob(".*"):
            left_over.unlink()
        manifest, arrays = self._files_of(folder)
        gone = self._exclusions.current().mask(manifest["user_ids"])
        if not gone.any():
            return False
        write_atomically(folder / "arrays.npz", archive(_without_rows(arrays, gone, manifest)))
        ids = ["" if gone[row] else user for row, user in enumerate(manifest["user_ids"])]
        write_atomically(
            folder / "manifest.json", json.dumps(manifest | {"user_ids": ids}, ensure_ascii=False).encode()
        )
        return True

    def _allowed(self, model: PlatformModel) -> PlatformModel:
        """The model without whoever is left out now, and without rows that were emptied."""
        gone = self._exclusions.current().mask(model.user_ids)
        return model.without(gone | np.array([not user for user in model.user_ids], dtype=np.bool_))

    @contextmanager
    def _writing(self, who: str) -> Iterator[None]:
        """One writer at a time: a version that is being written must not bring back whom another process takes out."""
        with ExitStack() as stack:
            try:
                self._versions.mkdir(parents=True, exist_ok=True, mode=0o700)
                lock = held(self.root / "versions.lock", who, mend="try again", wait=_log.info, mode=0o600)
                stack.enter_context(lock)
            except OSError as error:
                raise StoreError(
                    f"{self.root}: cannot be written ({error.strerror}); the version before still serves. Check the folder and "
                    "the free space"
                ) from error
            yield

    def _commit(self, model: PlatformModel) -> int:
        number = max(self.versions(), default=0) + 1
        try:
            unfinished = self._versions / f".{number:06d}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(mode=0o700)
            _write(unfinished, model)
            sync_folder(unfinished)
            unfinished.rename(self._versions / f"{number:06d}")
            sync_folder(self._versions)
        except (OSError, StoreError) as error:
            shutil.rmtree(self._versions / f".{number:06d}.unfinished", ignore_errors=True)
            raise StoreError(
                f"{self.root}: version {number} cannot be written ({error}); the version before still serves. "
                f"Free some space and train again"
            ) from error
        write_atomically(self.root / "CURRENT", f"{number}\n".encode())
        compared = self.experiments.current()
        for old in self.versions()[: -self._keep]:
            if compared is None or old != compared.version:
                shutil.rmtree(self._versions / f"{old:06d}")
        return number

    def serve(self, version: int) -> None:
        """Name a version as the one that serves, until the next is trained; a running service follows by itself.

        Raises:
            StoreError: it is not there or damaged, or cannot be named; what served goes on serving.
        """
        with self._writing("crossfed-client models"):
            if version not in self.versions():
                raise StoreError(f"{self.root}: there is no version {version}; crossfed-client models list shows them")
            self._read(version)
            write_atomically(self.root / "CURRENT", f"{version}\n".encode())

    def told(self, version: int) -> dict[str, Any]:
        """Return what a version's manifest says of it: ``server_round``, ``verdict``, ``written`` (seconds since 1970).

        Raises:
            StoreError: it cannot be read.
        """
        path = self._versions / f"{version:06d}" / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            return {
                "server_round": manifest["server_round"],
                "verdict": manifest["verdict"]["name"],
                "written": int(path.stat().st_mtime),
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path.parent) from error

    def load(self, version: int | None = None) -> PlatformModel:
        """Read a version; by default the first of :meth:`candidates` that is sound: the log names those before it.

        Raises:
            StoreError: it is not there or damaged.
            NewerStoreError: a newer crossfed wrote it.
        """
        if version is not None:
            return self._read(version)
        first: StoreError | None = None
        for candidate in self.candidates():
            try:
                return self._read(candidate)
            except StoreError as error:
                _log.warning("%s; the version before is looked at", error)
                first = first or error
        assert first is not None
        raise first

    def _read(self, version: int) -> PlatformModel:
        folder = self._versions / f"{version:06d}"
        manifest, arrays = self._files_of(folder)
        try:
            model = _model_of(manifest, arrays)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(folder) from error
        return self._allowed(model)

    def _files_of(self, folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if manifest["format"] > FORMAT:
                raise NewerStoreError(
                    f"{folder}: has format {manifest['format']}, this crossfed reads up to {FORMAT}; upgrade crossfed"
                )
            return manifest, read_archive(folder / "arrays.npz")
        except NewerStoreError:
            raise
        except (StoreError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(folder) from error


def _damaged(folder: Path) -> StoreError:
    return StoreError(f"{folder}: damaged; restore it from a backup, or train again")


def _without_rows(
    arrays: Mapping[str, NDArray[Any]], gone: NDArray[np.bool_], manifest: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """The arrays of a version with the rows of some users emptied, and all others where they were."""
    histories = UserItemMatrix(
        arrays["indptr"], arrays["indices"], arrays["values"], arrays["times"], manifest["n_items"]
    )
    kept = histories.select_entries(~gone[histories.entry_users()])
    found = dict(arrays) | {name: getattr(kept, name) for name in ("indptr", "indices", "values", "times")}
    for name, array in arrays.items():
        if name == "tower_profile" or name.startswith(f"{_TOWER_VALUE}{USER_ROWS}"):
            found[name] = np.where(gone[:, None], np.zeros_like(array), array)
    return found


def _stamp(path: Path) -> tuple[str, int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), status.st_ino, status.st_mtime_ns, status.st_size


def _write(folder: Path, model: PlatformModel) -> None:
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
            name: {"config": part.config.model_dump(mode="json"), "value_mean": part.value_mean}
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


def _model_of(manifest: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> PlatformModel:
    models = {
        name: FactorModel(
            item_parameters=arrays[f"{name}_parameters"],
            config=FactorizationConfig.model_validate(part["config"]),
            value_mean=part["value_mean"],
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


def _cross_verdict_of(told: dict[str, Any] | None) -> CrossVerdict | None:
    return None if told is None else CrossVerdict(**{**told, "interval": tuple(told["interval"])})


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
