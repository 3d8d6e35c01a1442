"""A platform's private folder in one file, and back: configuration, keys, pins, registration, books, models, feedback.

A restored ledger is old news, and privacy that was spent since does not come back, so restoring goes through
:func:`~client.privacy.report.restore_logs`, which counts what is missing as spent. The state of a secure sum is in no
backup: put back, it could be asked for a second survivor list.
"""

from __future__ import annotations

import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.keys import KeyFolder, registration_of
from client.passport.book_file import LEFT_OUT_OF_BACKUPS, PASSPORTS_FILE, RESTORED_NOTE, restored_passports
from client.privacy.report import restore_logs
from client.privacy.secure_sum.state import forget_secure_sums, is_secure_state
from client.text.cache import CACHE_FOLDER
from common.backup.listing import Listing, list_folder, outside
from common.backup.reading import MANIFEST, require_empty, unpack, unpack_without_manifest
from common.backup.writing import write_backup
from common.config.loader import load_yaml_model
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError, StoreError
from common.privacy.lifetime import budget_policy

ROLE = "platform"
_PERSONS_NOTE = (
    "persons who were erased or have objected since it was made are in it again: crossfed-client person reapply, with the "
    "exclusion list that you kept (state/store/exclusions.json)"
)
_MADE_AGAIN = ("flower", "programs", "logs")
"""Folders of the courier's that Flower and crossfed make again."""


@dataclass(frozen=True)
class BackUp:
    """Holds what a backup took.

    Attributes:
        files: how many.
        outside: configured paths that lie outside of the folder and are not in it, by key.
        links: symbolic links, which are not in it either.
    """

    files: int
    outside: dict[str, Path]
    links: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Restored:
    """Holds what restoring brought back.

    Attributes:
        config: the restored configuration.
        made: when the backup was made; empty where it does not say.
        ledger: what ledger and journal say (:func:`~client.privacy.report.restore_logs`).
        outside: configured paths that point outside of the restored folder, by key.
        notes: what the operator should know.
    """

    config: Path
    made: str
    ledger: dict[str, Any]
    outside: dict[str, Path]
    notes: list[str] = field(default_factory=list)


def back_up(config_path: Path, target: Path) -> BackUp:
    """Write the folder of ``config_path`` into one verified file, readable by its owner only.

    Raises:
        ConfigError: state, keys or pins lie outside of the folder.
        StoreError: the file cannot be written, or there is no platform in the folder.
    """
    root = config_path.resolve().parent
    config = load_yaml_model(config_path, PlatformConfig)
    for key, place in (("state", config.state), ("keys", config.keys), ("pins", config.pins)):
        if not _lies_in(place, config_path.parent):
            raise ConfigError(
                f"{config_path}: {key}: {place} lies outside of {root}, or behind a symbolic link; "
                "back it up by your own means"
            )
    if not any(path.exists() for path in (KeyFolder(config.keys).identity_path, config.supernode.private_key)):
        raise StoreError(f"{root}: holds neither this platform's identity nor its node key; nothing to back up")
    skip = _skipped(config, root)
    listing: Callable[[], Listing] = lambda: list_folder(root, skip)  # noqa: E731 -- asked for anew while files change
    made = write_backup(
        target,
        root,
        role=ROLE,
        config=config_path.resolve().name,
        listing=listing,
        left_out=lambda path: LEFT_OUT_OF_BACKUPS if path.name == PASSPORTS_FILE else (),
    )
    return BackUp(len(made.files), dict(outside(config, root)), listing().links)


def restore(source: Path, folder: Path) -> Restored:
    """Unpack into an empty folder and bring the books up.

    Raises:
        StoreError: the folder is not empty, or the file is no backup or damaged; nothing is left of it.
        ConfigError: the restored configuration cannot be read; the message says how to go on.
        LedgerError: a copy was edited.
    """
    require_empty(folder)
    notes: list[str] = []
    if _has_manifest(source):
        manifest = unpack(source, folder, ROLE)
        config_path, made = folder / manifest.config, manifest.made
    else:
        config_path, made = _unpack_unverified(source, folder), ""
        notes.append("made by crossfed 0.1, which kept no digests: what is in it could not be compared")
    try:
        config = load_yaml_model(config_path, PlatformConfig)
    except ConfigError as error:
        raise ConfigError(
            f"{error}\n{folder} is restored, its books are not yet: mend this, then run crossfed-client privacy restore"
        ) from error
    forget_secure_sums(config.state)
    if restored_passports(config.state, time.time):
        notes.append(RESTORED_NOTE)
    notes.append(_PERSONS_NOTE)
    if _renew_registration(config, config_path):
        notes.append(f"{config.name}.registration.json was not in it and is made again from the keys")
    ledger: dict[str, Any] = {"ledger_entries": 0}
    if (config.state / "ledger.db").exists():
        ledger = restore_logs(config.state, budget_policy(config.plan, config.budget))
    return Restored(config_path, made, ledger, dict(outside(config, folder)), notes)


def _lies_in(place: Path, folder: Path) -> bool:
    """Whether ``place`` is below ``folder`` without a symbolic link on the way, which no backup follows."""
    root = folder.resolve()
    given, real = place.absolute(), place.resolve()
    below = folder.absolute()
    return given.is_relative_to(below) and real == root / given.relative_to(below)


def _skipped(config: PlatformConfig, root: Path) -> Callable[[Path], bool]:
    """Return what to leave out, by its path in the folder: whatever the folder itself is called."""
    courier = config.supernode.superexec_secret.resolve().parent
    state = config.state.resolve()
    again = {courier / name for name in _MADE_AGAIN} | {state / "logs", state / CACHE_FOLDER}

    def skip(path: Path) -> bool:
        place = root / path
        of_a_role = place.is_relative_to(courier) or place.is_relative_to(state)
        a_log = of_a_role and place.suffix == ".log" and place.name != "feedback.log"
        return place in again or a_log or is_secure_state(place)

    return skip


def _renew_registration(config: PlatformConfig, config_path: Path) -> bool:
    """Make the registration again where a backup lacks it: it is the platform's public keys, signed; whether it did."""
    path = config_path.parent / f"{config.name}.registration.json"
    keys = KeyFolder(config.keys)
    needed = (keys.identity_path, keys.sealing_path, config.supernode.private_key)
    if path.exists() or not all(key.exists() for key in needed):
        return False
    registration_of(config.name, config.plan.federation, keys, config.supernode.private_key).write(path)
    return True


def _has_manifest(source: Path) -> bool:
    try:
        with tarfile.open(source, "r:gz") as archive:
            names = [name.removeprefix("./") for name in archive.getnames()]
    except (OSError, EOFError, tarfile.TarError) as error:
        raise StoreError(f"{source}: not a backup of crossfed, or damaged") from error
    return MANIFEST in names or not any(name.endswith(".yaml") and "/" not in name for name in names)


def _unpack_unverified(source: Path, folder: Path) -> Path:
    """A backup of version 0.1; its folders become private. Returns the configuration."""
    unpack_without_manifest(source, folder)
    configs = list(folder.glob("*.yaml"))
    if len(configs) != 1:
        shutil.rmtree(folder)
        raise StoreError(f"{source}: holds {len(configs)} configurations, not one")
    return configs[0]
