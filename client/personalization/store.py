"""The platform's versioned model store: what is in each version, written, read, and taken out again.

    STORE/versions/000001/     manifest.json and arrays.npz

A version is written beside the others, made durable, and only then named in ``CURRENT``: a crash or a full disk at any point
leaves the old version serving. Where the one that is named is damaged, the newest sound one serves. Which versions there are,
and in which order they are to serve, :mod:`client.versions.folder` says.

Whom the exclusion list (:mod:`client.data.reading.exclusions`) names is in no version that is written or loaded; one who is
erased is taken out of those that are there (:meth:`PlatformStore.forget_excluded`).
"""

from __future__ import annotations

import json
import shutil
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import client.scoring.described  # noqa: F401 -- its parts are stored
from client.data.reading.exclusions import ExclusionBook
from client.personalization.platform_model import PlatformModel
from client.personalization.stored_model import FORMAT, model_of, without_older, without_rows, write_model
from client.versions.experiment import ExperimentFile
from client.versions.folder import VersionFolder
from common.errors import NewerStoreError, StoreError
from common.files import archive, read_archive, sync_folder, write_atomically

_log = getLogger(__name__)


class PlatformStore(VersionFolder):
    """Writes and reads versions of a platform's model in one folder, readable by its owner only.

    Args:
        root: the folder; made when it is not there.
        keep: how many of the newest versions stay.
    """

    def __init__(self, root: Path, *, keep: int = 3) -> None:
        super().__init__(root)
        self._keep = keep
        self._exclusions = ExclusionBook(root)
        self.experiments = ExperimentFile(root)

    def signature(self) -> tuple[object, ...]:
        """Changes whenever a file of the store does."""
        return *self.stamps(), self.exclusions_stamp(), self.experiments.stamp()

    def exclusions_stamp(self) -> tuple[object, ...]:
        """Changes whenever somebody more, or less, is left out."""
        return self._exclusions.stamp()

    def commit(self, model: PlatformModel) -> int:
        """Write ``model`` as the next version and serve it; returns its number.

        Raises:
            StoreError: it cannot be written; the version before still serves.
        """
        with self.writing("crossfed, writing a model"):
            return self._commit(self._allowed(model))

    def forget_excluded(self) -> int:
        """Take whoever is left out of all versions on disk; how many versions had somebody. Safe to repeat.

        What a version has learned of all users together stays: it is not any one's.

        Raises:
            StoreError: a version cannot be read or written; those before it are done.
        """
        if not self.all_versions.is_dir():
            return 0
        changed = 0
        with self.writing("crossfed-client person"):
            for left_over in self.all_versions.glob(".*"):
                shutil.rmtree(left_over)
            for version in self.versions():
                changed += self._forget_in(self.folder_of(version))
        return changed

    def forget_older(self, oldest: int) -> int:
        """Take interactions before ``oldest`` (seconds since 1970) out of all versions; how many had any. Safe to repeat.

        What a version has learned of all users together stays: it is not any one's.

        Raises:
            StoreError: a version cannot be read or written; all others are done.
        """
        changed, problem = 0, None
        if not self.versions():
            return 0
        with self.writing("crossfed, keeping within retention_days"):
            for folder in (self.folder_of(version) for version in self.versions()):
                try:
                    manifest, arrays = self._files_of(folder)
                    kept = without_older(arrays, oldest, manifest)
                    if kept is not None:
                        write_atomically(folder / "arrays.npz", archive(kept))
                        changed += 1
                except StoreError as error:
                    problem = error
        if problem is not None:
            raise problem
        return changed

    def stored_ids(self, version: int) -> tuple[str, ...]:
        """Ids of the users whom a version's files name, empty where one was taken out.

        Raises:
            StoreError: it cannot be read.
        """
        manifest, _ = self._files_of(self.folder_of(version))
        return tuple(user for user in manifest["user_ids"] if user)

    def _forget_in(self, folder: Path) -> bool:
        """Empty the rows of who is left out: first their arrays, then their ids, so that a crash leaves a whole version."""
        for left_over in folder.glob(".*"):
            left_over.unlink()
        manifest, arrays = self._files_of(folder)
        gone = self._exclusions.current().mask(manifest["user_ids"])
        if not gone.any():
            return False
        write_atomically(folder / "arrays.npz", archive(without_rows(arrays, gone, manifest)))
        ids = ["" if gone[row] else user for row, user in enumerate(manifest["user_ids"])]
        write_atomically(
            folder / "manifest.json", json.dumps(manifest | {"user_ids": ids}, ensure_ascii=False).encode()
        )
        return True

    def _allowed(self, model: PlatformModel) -> PlatformModel:
        """The model without whoever is left out now, and without rows that were emptied."""
        gone = self._exclusions.current().mask(model.user_ids)
        return model.without(gone | np.array([not user for user in model.user_ids], dtype=np.bool_))

    def _commit(self, model: PlatformModel) -> int:
        number = max(self.versions(), default=0) + 1
        try:
            unfinished = self.all_versions / f".{number:06d}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(mode=0o700)
            write_model(unfinished, model)
            sync_folder(unfinished)
            unfinished.rename(self.folder_of(number))
            sync_folder(self.all_versions)
        except (OSError, StoreError) as error:
            shutil.rmtree(self.all_versions / f".{number:06d}.unfinished", ignore_errors=True)
            raise StoreError(
                f"{self.root}: version {number} cannot be written ({error}); the version before still serves. "
                f"Free some space and train again"
            ) from error
        self.name(number)
        compared = self.experiments.current()
        for old in self.versions()[: -self._keep]:
            if compared is None or old != compared.version:
                shutil.rmtree(self.folder_of(old))
        return number

    def serve(self, version: int) -> None:
        """Name a version as the one that serves, until the next is trained; a running service follows by itself.

        Raises:
            StoreError: it is not there or damaged, or cannot be named; what served goes on serving.
        """
        with self.writing("crossfed-client models"):
            if version not in self.versions():
                raise StoreError(f"{self.root}: there is no version {version}; crossfed-client models list shows them")
            self._read(version)
            self.name(version)

    def told(self, version: int) -> dict[str, Any]:
        """Return what a version's manifest says of it: ``server_round``, ``verdict``, ``written`` (seconds since 1970).

        And ``cross``: what ranks the others' items, and why (:class:`~client.personalization.platform_model.CrossVerdict`);
        None where nothing was validated. And ``recency``: by model, how much more a user's latest interactions weigh
        (:class:`~client.scoring.fold_in.Recency`), where they do.

        Raises:
            StoreError: it cannot be read.
        """
        path = self.folder_of(version) / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            return {
                "server_round": manifest["server_round"],
                "verdict": manifest["verdict"]["name"],
                "cross": manifest.get("cross_verdict"),
                "recency": {name: one["recency"] for name, one in manifest["models"].items() if one.get("recency")},
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
        folder = self.folder_of(version)
        manifest, arrays = self._files_of(folder)
        try:
            model = model_of(manifest, arrays)
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
