"""Notes what a run was started with: every setting that its result depends on, and a digest of each platform's data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from client.data.dataset import UserItemMatrix
from common.config.federation import FederationPlan
from common.errors import ConfigError
from common.wire.exchange import Json
from server.federation.checkpoint import CheckpointStore
from simulations.engine.datasets import SimulatedPlatform
from simulations.scenarios.scenario import Scenario

Origin = dict[str, Json]
_SETTINGS = {"seed", "partition", "platforms", "split", "personalization", "cross"}
_NO_MATTER = ("cross.ceiling", "partition.data", "platforms.data")
_DATA = "data of "


def origin_of(scenario: Scenario, platforms: Sequence[SimulatedPlatform]) -> Origin:
    """The settings by dotted key, and a digest of the data by platform.

    The plan is compared by itself; where the data lie, and how their files are written, does not matter.
    """
    settings = dict(_flat("", scenario.model_dump(mode="json", include=_SETTINGS)))
    kept = {key: value for key, value in settings.items() if not _without_numbers(key).startswith(_NO_MATTER)}
    return kept | {f"{_DATA}{platform.name}": _digest(platform) for platform in platforms}


def check_resumable(folder: Path, plan: FederationPlan, origin: Origin) -> bool:
    """Whether ``folder`` holds a checkpoint to go on from.

    Args:
        folder: of the checkpoints.
        plan: of the run that would go on.
        origin: what that run is started with.

    Raises:
        ConfigError: the checkpoint's run was started with something else; names what.
        FederationError: with another plan.
        StoreError: the checkpoint cannot be read.
    """
    if not folder.is_dir():
        return False
    checkpoints = CheckpointStore(folder)
    if checkpoints.latest(plan) is None:
        return False
    earlier = checkpoints.origin()
    if earlier is None:
        raise ConfigError(
            f"--resume: {folder} was written by an older crossfed, which did not note the data and settings of its run; "
            "leave --resume out to begin anew"
        )
    if different := _differences(earlier, origin):
        raise ConfigError(
            f"--resume: the run in {folder} was started with other {'; '.join(different)}. Give what it was started with, or "
            "leave --resume out to begin anew"
        )
    return True


def _differences(earlier: Mapping[str, Json], now: Mapping[str, Json]) -> list[str]:
    """Return what differs, in words; data only where no setting does that would change them."""
    differing = [key for key in sorted(earlier.keys() | now.keys()) if earlier.get(key) != now.get(key)]
    settings = [key for key in differing if not key.startswith(_DATA)]
    names = [[key.removeprefix(_DATA) for key in part if key.startswith(_DATA)] for part in (earlier, now)]
    found = [f"{key} ({_said(earlier.get(key))}, now {_said(now.get(key))})" for key in settings]
    if names[0] != names[1]:
        return [*found, f"platforms ({', '.join(names[0])}; now {', '.join(names[1])})"]
    return found or differing


def _said(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _flat(prefix: str, value: Json) -> Iterator[tuple[str, Json]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(f"{prefix}{key}.", part)
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for number, part in enumerate(value):
            yield from _flat(f"{prefix}{number}.", part)
    else:
        yield prefix.rstrip("."), value


def _without_numbers(key: str) -> str:
    return ".".join(part for part in key.split(".") if not part.isdecimal())


def _digest(platform: SimulatedPlatform) -> str:
    """Of everything that training and measuring read of a platform; of ids and interactions no trace is left in it."""
    found = hashlib.blake2b(digest_size=16)
    training, hidden = platform.training, platform.hidden
    texts = (training.user_ids, training.items.keys, training.items.titles, training.items.genres)
    found.update(json.dumps([*texts, None if hidden is None else hidden.keys]).encode())
    matrices = [training.train, training.validation.history, training.validation.truth, platform.test.truth]
    for matrix in (*matrices, *([] if hidden is None else [hidden.interactions])):
        _add(found, matrix)
    found.update(np.ascontiguousarray(training.shared).tobytes())
    for table in (training.items.attributes, training.users):
        found.update(b"" if table is None else table.hash_rows(seed=0).to_numpy().tobytes())
    return found.hexdigest()


def _add(found: hashlib.blake2b, matrix: UserItemMatrix) -> None:
    for array in (matrix.indptr, matrix.indices, matrix.values, matrix.times):
        found.update(np.ascontiguousarray(array).tobytes())
