"""A role's folder in one file, checked when it is made.

    FILE…          each file as it was
    backup.json    last: the role, its configuration, and of each file its digest, size and mode

The folder may be in use. SQLite copies its databases as of one moment; every other file is replaced as a whole when it
changes, or only grows; and a folder whose files came or went while it was read is read again.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import IO, Final

from common.backup.listing import Listing
from common.backup.reading import FORMAT, MANIFEST, KeptFile, Manifest, verify_backup
from common.errors import StoreError
from common.files import sync_folder

_ATTEMPTS: Final = 5
_BUSY_SECONDS: Final = 60.0
_SQLITE: Final = b"SQLite format 3\0"


class _ChangedError(Exception):
    """A file went, or became shorter, while it was read."""


def write_backup(
    target: Path,
    root: Path,
    *,
    role: str,
    config: str,
    listing: Callable[[], Listing],
    may_go: Callable[[Path], bool] = lambda path: False,
    left_out: Callable[[Path], Sequence[str]] = lambda path: (),
) -> Manifest:
    """Write a gzipped tar, readable by its owner only, open it again and compare every digest.

    Args:
        target: a new file, outside of ``root``.
        root: the role's folder.
        role: who can restore it.
        config: name of the configuration in ``root``.
        listing: lists what to keep.
        may_go: whether a file stands by itself, so that it may come or go meanwhile.
        left_out: SQL statements that delete from the copy of a database what is to be in no backup.

    Raises:
        StoreError: it cannot be written or does not hold what was read, a database is damaged, or files keep changing.
    """
    if target.resolve().is_relative_to(root.resolve()):
        raise StoreError(f"{target}: lies in the folder that is backed up; choose a place outside of {root}")
    if target.exists():
        raise StoreError(f"{target}: exists; choose another name")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            part = Path(folder) / "backup"
            for _ in range(_ATTEMPTS):
                before = listing()
                try:
                    _write(part, root, role, config, before, may_go, left_out)
                except _ChangedError:
                    continue
                if _lasting(before, may_go) == _lasting(listing(), may_go):
                    break
            else:
                raise StoreError(f"{root}: its files kept changing while they were read; try again in a quiet minute")
            manifest = verify_backup(part)
            _give_name(part, target)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written ({error.strerror or error})") from error
    return manifest


def _lasting(listing: Listing, may_go: Callable[[Path], bool]) -> list[Path]:
    return [path for path in listing.files if not may_go(path)]


def _write(
    part: Path,
    root: Path,
    role: str,
    config: str,
    listing: Listing,
    may_go: Callable[[Path], bool],
    left_out: Callable[[Path], Sequence[str]],
) -> None:
    files: dict[str, KeptFile] = {}
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as raw:
        with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=3) as archive:
            for path in listing.files:
                name = path.relative_to(root).as_posix()
                try:
                    files[name] = _add(archive, path, name, part.parent, left_out(path))
                except (FileNotFoundError, _ChangedError):
                    if not may_go(path):
                        raise _ChangedError from None
            folders = {_name(path, root): path.stat().st_mode & 0o777 for path in listing.folders if path.exists()}
            made = datetime.now(UTC).isoformat(timespec="seconds")
            manifest = Manifest(format=FORMAT, role=role, config=config, made=made, files=files, folders=folders)
            _add_bytes(archive, MANIFEST, manifest.model_dump_json().encode())
        raw.flush()
        os.fsync(raw.fileno())


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _add(archive: tarfile.TarFile, path: Path, name: str, scratch: Path, left_out: Sequence[str]) -> KeptFile:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        mode = status.st_mode & 0o777
        if file.read(len(_SQLITE)) != _SQLITE:
            file.seek(0)
            return _add_stream(archive, file, name, status.st_size, mode)
    copy = scratch / "database"
    _copy_database(path, copy, left_out)
    try:
        with copy.open("rb") as file:
            return _add_stream(archive, file, name, copy.stat().st_size, mode)
    finally:
        copy.unlink()


def _add_stream(archive: tarfile.TarFile, file: IO[bytes], name: str, size: int, mode: int) -> KeptFile:
    # As many bytes as there were: a log may grow meanwhile.
    reader = _Digesting(file, size)
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, mode
    archive.addfile(member, reader)
    return KeptFile(digest=reader.digest.hexdigest(), size=size, mode=mode)


class _Digesting(RawIOBase):
    """Hands a file's bytes on and digests them."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__()
        self.digest = hashlib.sha256()
        self._file = file
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        piece = self._file.read(wanted)
        if len(piece) < wanted:
            raise _ChangedError
        self._left -= len(piece)
        self.digest.update(piece)
        return piece


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o600
    archive.addfile(member, BytesIO(content))


def _copy_database(path: Path, copy: Path, left_out: Sequence[str]) -> None:
    """The database as of one moment, whoever writes to it; checked, and without what is left out."""
    try:
        with (
            closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_SECONDS)) as live,
            closing(sqlite3.connect(copy)) as copied,
        ):
            live.backup(copied)
            problem = str(copied.execute("PRAGMA integrity_check(1)").fetchone()[0])
            for statement in left_out if problem == "ok" else ():
                copied.execute(statement)
            copied.commit()
            if left_out:
                # What was deleted stands in free pages until then.
                copied.execute("VACUUM")
    except sqlite3.Error as error:
        problem = str(error)
    if problem != "ok":
        raise StoreError(f"{path}: the database is damaged ({problem}); nothing was backed up")
    copy.chmod(0o600)


def _give_name(part: Path, target: Path) -> None:
    """Never over what is there; a disk without hard links (a memory stick) takes the short race."""
    try:
        target.hardlink_to(part)
    except FileExistsError:
        raise StoreError(f"{target}: exists; choose another name") from None
    except OSError:
        part.rename(target)
    sync_folder(target.parent)
