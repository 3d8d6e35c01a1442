"""Lists what a backup takes of a role's folder, and which of its configured paths lie elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from common.errors import StoreError

_DATABASE_COMPANIONS: Final = ("-wal", "-shm", "-journal")
# What write_atomically, the store and the ledger call a file that is not finished.
_UNFINISHED: Final = re.compile(r"\..+\.([a-z0-9_]{8}|unfinished|part)")


@dataclass(frozen=True)
class Listing:
    """The files and folders of a role's folder that a backup takes; and the symbolic links, which it does not."""

    files: tuple[Path, ...]
    folders: tuple[Path, ...]
    links: tuple[Path, ...]


def list_folder(root: Path, skip: Callable[[Path], bool]) -> Listing:
    """Walk ``root``.

    Args:
        root: the role's folder.
        skip: whether to leave a file or a folder out, asked with its path relative to ``root``.

    Raises:
        StoreError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise StoreError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    files, folders, links = [], [root], []
    for place, below, names in os.walk(root, onerror=refuse):
        here = Path(place)
        below[:] = [name for name in below if not skip((here / name).relative_to(root))]
        for path in (here / name for name in (*below, *names)):
            if path.is_symlink():
                links.append(path)
            elif path.is_dir():
                folders.append(path)
            elif path.is_file() and not _passing(path) and not skip(path.relative_to(root)):
                files.append(path)
    return Listing(tuple(sorted(files)), tuple(sorted(folders)), tuple(sorted(links)))


def paths_of(config: BaseModel) -> Iterator[tuple[str, Path]]:
    """Every path of a configuration, with its key."""
    for name in type(config).model_fields:
        yield from _paths_in(name, getattr(config, name))


def outside(config: BaseModel, folder: Path) -> list[tuple[str, Path]]:
    """The configured paths that lie outside of ``folder``, with their keys."""
    root = folder.resolve()
    return [(key, path) for key, path in paths_of(config) if not path.resolve().is_relative_to(root)]


def _paths_in(key: str, value: object) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path):
        yield key, value
    elif isinstance(value, BaseModel):
        for name, path in paths_of(value):
            yield f"{key}.{name}", path
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from _paths_in(f"{key}.{place}", part)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _paths_in(f"{key}.{name}", part)


def _passing(path: Path) -> bool:
    """Whether a file is half written, or a database's own and useless without the moment it was made in."""
    if _UNFINISHED.fullmatch(path.name) or path.name.endswith(".lock"):
        return True
    return any(
        path.name.endswith(end) and path.with_name(path.name.removesuffix(end)).exists() for end in _DATABASE_COMPANIONS
    )
