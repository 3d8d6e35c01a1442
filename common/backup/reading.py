"""Reading a backup: every digest compared with the manifest, then all of it put in place, or nothing."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import NewerStoreError, StoreError
from common.files import sync_folder

FORMAT: Final = 1
MANIFEST: Final = "backup.json"
_PIECE: Final = 1 << 20
_PERMISSIONS: Final = 0o777
_DAMAGED: Final = (tarfile.TarError, EOFError, zlib.error, ValueError, KeyError, OSError)


class KeptFile(BaseModel):
    """A file in a backup: SHA-256 in hex, size in bytes, permission bits."""

    model_config = ConfigDict(frozen=True)

    digest: str
    size: int
    mode: int


class Manifest(BaseModel):
    """Lists a backup's contents.

    Attributes:
        format: of the backup.
        role: ``platform`` or ``aggregator``.
        config: the configuration's name in the folder.
        made: when, ISO 8601 in UTC.
        files: by path relative to the folder.
        folders: permission bits by path; ``.`` is the folder itself.
    """

    model_config = ConfigDict(frozen=True)

    format: int
    role: str
    config: str
    made: str
    files: dict[str, KeptFile]
    folders: dict[str, int]


def verify_backup(source: Path) -> Manifest:
    """Read a backup to its end and compare all that is in it with its manifest.

    Raises:
        StoreError: it is not a backup, or damaged.
        NewerStoreError: a newer crossfed made it.
    """
    found: dict[str, tuple[str, int]] = {}
    manifest = None
    try:
        with gzip.open(source) as raw:
            with tarfile.open(fileobj=raw, mode="r|") as archive:
                for member in archive:
                    if not member.isfile():
                        continue
                    content = archive.extractfile(member)
                    assert content is not None
                    if member.name == MANIFEST:
                        manifest = _manifest_of(content.read(), source)
                    else:
                        digest = hashlib.sha256()
                        size = _copy(content, digest.update)
                        found[member.name] = (digest.hexdigest(), size)
            # To the end, so that gzip's own checksum is compared, too.
            _copy(raw, len)
    except _DAMAGED as error:
        raise StoreError(f"{source}: not a backup of crossfed, or damaged") from error
    if manifest is None:
        raise StoreError(f"{source}: has no {MANIFEST}: cut short, or made by a crossfed that could not verify it")
    expected = {name: (kept.digest, kept.size) for name, kept in manifest.files.items()}
    differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if differing:
        raise StoreError(f"{source}: damaged: {', '.join(differing[:5])} is not what was backed up")
    return manifest


def unpack(source: Path, folder: Path, role: str) -> Manifest:
    """Put a backup's files into an empty folder, with the permissions that they had; all of them, or none.

    Raises:
        StoreError: the folder is not empty, the file is damaged or of another role, or the disk is full.
    """
    require_empty(folder)
    manifest = verify_backup(source)
    if manifest.role != role:
        raise StoreError(f"{source}: is a backup of a role {manifest.role!r}, and this command restores a {role}")
    for name in (*manifest.files, *manifest.folders, manifest.config):
        _check_lies_inside(name, source)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        for name in sorted(manifest.folders):
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        with tarfile.open(source, "r:gz") as archive:
            for member in archive:
                if member.isfile() and member.name in manifest.files:
                    _place_member(archive, member, folder / member.name, manifest.files[member.name].mode)
        for name, mode in manifest.folders.items():
            (folder / name).chmod(mode & _PERMISSIONS)
            sync_folder(folder / name)
    except _DAMAGED as error:
        empty(folder)
        raise StoreError(f"{folder}: cannot be restored ({error}); nothing of it was kept") from error
    return manifest


def unpack_without_manifest(source: Path, folder: Path) -> None:
    """Put the files of an archive of version 0.1 into an empty folder whose folders are the owner's alone; all, or none.

    Files and folders are made one by one, and no link is: through a chain of links an archive reaches out of the folder in
    spite of tarfile's own filter (CVE-2025-4517), which Python has mended in some versions only.

    Raises:
        StoreError: the archive is damaged, names what lies outside of the folder, or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with tarfile.open(source, "r:gz") as archive:
            for member in archive:
                _check_lies_inside(member.name, source)
                if member.isdir():
                    (folder / member.name).mkdir(parents=True, exist_ok=True, mode=0o700)
                elif member.isfile():
                    _place_member(archive, member, folder / member.name, member.mode)
        for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            path.chmod(0o700)
    except StoreError:
        empty(folder)
        raise
    except _DAMAGED as error:
        empty(folder)
        raise StoreError(f"{source}: damaged, or cannot be unpacked ({error}); nothing of it was kept") from error


def require_empty(folder: Path) -> None:
    """Raises: StoreError when there is something in ``folder``."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder}: is not empty; restore into a new folder")


def empty(folder: Path) -> None:
    """Remove what is in ``folder``."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _manifest_of(text: bytes, source: Path) -> Manifest:
    content: dict[str, Any] = json.loads(text)
    if isinstance(content.get("format"), int) and content["format"] > FORMAT:
        raise NewerStoreError(
            f"{source}: has format {content['format']}, this crossfed reads {FORMAT}; upgrade crossfed"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError:
        raise ValueError("the manifest does not fit") from None


def _check_lies_inside(name: str, source: Path) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise StoreError(f"{source}: names {name!r}, which lies outside of the folder; not restored")


def _copy(content: IO[bytes] | gzip.GzipFile, take: Callable[[bytes], object]) -> int:
    size = 0
    while piece := content.read(_PIECE):
        take(piece)
        size += len(piece)
    return size


def _place_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, mode: int) -> None:
    content = archive.extractfile(member)
    assert content is not None
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        _copy(content, file.write)
        os.fchmod(file.fileno(), mode & _PERMISSIONS)
        file.flush()
        os.fsync(file.fileno())
