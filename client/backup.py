"""A platform's private folder in one file, and back: configuration, keys, pins, ledger, journal, models.

Ledger and journal may be in use: SQLite copies them consistently. A restored ledger is old news, and privacy that was
spent since does not come back, so restoring goes through :func:`~client.privacy_report.restore_books`, which counts what
is missing as spent.
"""

from __future__ import annotations

import os
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

from client.outbox import budget_policy
from client.privacy_report import restore_books
from client.secure_state import forget_secure_sums, is_secure_state
from common.config.deploy import PlatformConfig
from common.config.loader import load_yaml_model
from common.errors import ConfigError, StoreError

_VOLATILE = (".sock", ".lock", "-wal", "-shm", "-journal", ".log")


def back_up(config_path: Path, target: Path) -> int:
    """Write a gzipped tar, readable by its owner only; returns the number of files in it.

    Raises:
        ConfigError: the configuration lies outside of the folders that it names.
        StoreError: the file cannot be written.
    """
    root = config_path.resolve().parent
    config = load_yaml_model(config_path, PlatformConfig)
    places = (config_path, config.pins, config.keys, config.state, config.ca.parent)
    for place in places:
        if not place.resolve().is_relative_to(root):
            raise ConfigError(f"{place}: lies outside of {root}; back it up by your own means")
    count = 0
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
            for place in places:
                for path in [place] if place.is_file() else sorted(place.rglob("*")):
                    if path.is_file() and not path.is_symlink() and _wanted(path):
                        _add(archive, path, path.resolve().relative_to(root))
                        count += 1
            raw.flush()
    except FileExistsError:
        raise StoreError(f"{target}: exists; choose another name") from None
    except OSError as error:
        target.unlink(missing_ok=True)
        raise StoreError(f"{target}: cannot be written ({error.strerror})") from error
    return count


def restore(source: Path, folder: Path) -> dict[str, object]:
    """Unpack into an empty folder and bring the books up; returns what they say.

    Raises:
        StoreError: the folder is not empty, or the file is no backup.
        LedgerError: a copy was edited.
    """
    if folder.exists() and any(folder.iterdir()):
        raise StoreError(f"{folder}: is not empty; restore into a new folder")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with tarfile.open(source, "r:gz") as archive:
            archive.extractall(folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise StoreError(f"{source}: not a backup of crossfed, or damaged") from error
    configs = list(folder.glob("*.yaml"))
    if len(configs) != 1:
        raise StoreError(f"{source}: holds {len(configs)} configurations, not one")
    config = load_yaml_model(configs[0], PlatformConfig)
    forget_secure_sums(config.state)
    if not (config.state / "ledger.db").exists():
        return {"ledger_entries": 0}
    return restore_books(config.state, budget_policy(config.plan, config.budget))


def _wanted(path: Path) -> bool:
    if is_secure_state(path):
        return False
    # feedback.log is data, the other logs are not; Flower's own folder is made again.
    return path.name == "feedback.log" or not (path.name.endswith(_VOLATILE) or "flower" in path.parts)


def _add(archive: tarfile.TarFile, path: Path, name: Path) -> None:
    if path.suffix != ".db":
        archive.add(path, arcname=str(name))
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        copy = Path(folder) / path.name
        with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(copy)) as copied:
            live.backup(copied)
        copy.chmod(0o600)
        archive.add(copy, arcname=str(name))
