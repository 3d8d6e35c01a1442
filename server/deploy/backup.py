"""The aggregator's folder in one file, and back: configuration, authority, admitted platforms, runs, Flower's database.

It may be made while the aggregator runs: SQLite copies Flower's live database as of one moment, and checkpoints and statuses
are replaced as a whole. A checkpoint may come or go meanwhile: each stands by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.backup.listing import Listing, list_folder, outside
from common.backup.reading import unpack
from common.backup.writing import write_backup
from common.config.loader import load_yaml_model
from common.deploy.roles import AggregatorConfig
from common.errors import ConfigError
from server.deploy.runs import PENDING, RUNNING, RunFolder, read_runs

ROLE: Final = "aggregator"
_MADE_AGAIN: Final = ("logs", "app", "control", "caddy", "flower", "Caddyfile")
_CUT_OFF: Final = "was going on when the backup was made; crossfed-server run --resume goes on with it"


@dataclass(frozen=True)
class BackUp:
    """Holds what a backup took.

    Attributes:
        files: how many.
        outside: configured paths outside of the folder, which are not in it, by key.
        links: symbolic links, which are not in it either.
        authority_key: whether the authority's private key is in it.
    """

    files: int
    outside: dict[str, Path]
    links: tuple[Path, ...]
    authority_key: bool


@dataclass(frozen=True)
class Restored:
    """Holds what restoring brought back.

    Attributes:
        config: the restored configuration.
        made: when the backup was made.
        outside: configured paths that point outside of the restored folder, by key.
        cut_off: names of the runs that were going on then, and that nobody resumes unasked.
    """

    config: Path
    made: str
    outside: dict[str, Path]
    cut_off: list[str]


def back_up(config_path: Path, target: Path) -> BackUp:
    """Write the folder of ``config_path`` into one verified file, readable by its owner only.

    Raises:
        ConfigError: state or platforms lie outside of the folder.
        StoreError: the file cannot be written, or the database is damaged.
    """
    root = config_path.resolve().parent
    config = load_yaml_model(config_path, AggregatorConfig)
    for key, place in (("state", config.state), ("platforms", config.platforms)):
        if not place.resolve().is_relative_to(root) or place.is_symlink():
            raise ConfigError(f"{config_path}: {key}: {place} lies outside of {root}; back it up by your own means")
    state = config.state.resolve()
    again = {state / name for name in _MADE_AGAIN}

    def skip(path: Path) -> bool:
        return root / path in again or path.name == "lock"

    def may_go(path: Path) -> bool:
        return path.is_relative_to(state / "runs")

    listing: Callable[[], Listing] = lambda: list_folder(root, skip)  # noqa: E731 -- asked for anew while files change
    made = write_backup(target, root, role=ROLE, config=config_path.resolve().name, listing=listing, may_go=may_go)
    authority_key = config.tls.ca.with_suffix(".key").resolve()
    with_key = authority_key.is_relative_to(root) and authority_key.relative_to(root).as_posix() in made.files
    return BackUp(len(made.files), dict(outside(config, root)), listing().links, with_key)


def restore(source: Path, folder: Path) -> Restored:
    """Unpack into an empty folder. Runs that were going on are marked as failed: their operator resumes them, or nobody.

    Raises:
        StoreError: the folder is not empty, or the file is no backup or damaged; nothing is left of it.
    """
    manifest = unpack(source, folder, ROLE)
    config = load_yaml_model(folder / manifest.config, AggregatorConfig)
    cut_off = []
    for run in read_runs(config.state)[0]:
        status = RunFolder(config.state, run.name)
        # Read as it was written: nobody holds a run of a folder that was restored this moment.
        if status.mended().state in (RUNNING, PENDING):
            status.give_up(_CUT_OFF)
            cut_off.append(run.name)
    return Restored(folder / manifest.config, manifest.made, dict(outside(config, folder)), cut_off)
