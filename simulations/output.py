"""The folder that a command writes into: made if it is not there, locked, and, where a run replaces what is in it, owned."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.deploy.guard import check_memory_limit
from common.deploy.locks import command_name, held
from common.errors import ConfigError
from common.files import make_folder, write_atomically

MARKER = "crossfed-run.json"
"""Says that a folder is a run's own: a later run may replace what is in it."""

LOCK = "crossfed.lock"
_OWN_FILES = frozenset({MARKER, LOCK, "audit.json"})
# The checkpoints first: where removing is interrupted, nothing is left to go on from.
_OF_A_RUN = ("aggregator", "platforms", "result.json", "privacy.md", "report.html", "measured.npz")
_MEND = "wait for its end, end it, or choose another folder with --output"

Wait = Callable[[str], None]
"""Told what is waited for."""


def default_folder(name: str, suffix: str = "") -> Path:
    """Where a command writes unless ``--output`` says: below ``out``, whatever the name is."""
    safe = re.sub(r"[^\w .@+,=-]|^\.+", "-", name)[:60]
    return Path("out") / f"{safe}{suffix}"


@contextmanager
def locked_folder(folder: Path, *, wait: Wait | None = None) -> Iterator[None]:
    """Hold ``folder``, made if it is not there, against every other command of crossfed.

    Args:
        folder: where a command writes.
        wait: told of who holds it, and then it is waited for; None refuses at once.

    Raises:
        InUseError: another command writes there.
        StoreError: it cannot be made or written.
    """
    check_memory_limit()
    make_folder(folder)
    with held(folder / LOCK, command_name(), mend=_MEND, wait=wait):
        yield


@contextmanager
def own_folder(folder: Path, *, wait: Wait | None = None) -> Iterator[None]:
    """As :func:`locked_folder`, for a command that replaces what is in its folder: only of a run's own, or an empty one.

    Nothing is removed here: :func:`remove_run` does that once there is something to put in its place.

    Raises:
        ConfigError: the folder holds what no run has made.
    """
    _check_own(folder)
    with locked_folder(folder, wait=wait):
        _check_own(folder)
        if not (folder / MARKER).exists():
            write_atomically(folder / MARKER, json.dumps({"of": "a run of crossfed-simulate"}).encode(), mode=0o644)
        yield


def remove_run(folder: Path) -> None:
    """Remove what an earlier run has left in an owned folder, and nothing else.

    Raises:
        ConfigError: one of the names is a link to somewhere else.
        OSError: something cannot be removed; the new run must not begin over it.
    """
    for path in (folder / name for name in _OF_A_RUN):
        if path.is_symlink():
            raise ConfigError(f"{path}: is a link, and what it leads to is not this run's; remove the link")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _check_own(folder: Path) -> None:
    if not folder.is_dir() or (folder / MARKER).is_file():
        return
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in _OWN_FILES)
    if foreign:
        raise ConfigError(
            f"{folder}: is not empty and no run has made it (it holds {foreign[0]!r} and no {MARKER}); a run replaces what "
            "is in its folder, so choose an empty or new one with --output"
        )
