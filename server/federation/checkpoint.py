"""Every round's state on disk, whole or not at all; a run resumes from the newest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from common.catalogue import Vocabulary
from common.config.federation import FederationPlan
from common.contributions.run_plan import read_plan
from common.errors import FederationError, NewerStoreError, StoreError
from common.files import archive, make_folder, read_archive, write_atomically
from server.federation.state import FederationState, ModelChoice, RoundRecord, TransferWeights

_log = getLogger(__name__)
_FORMAT = 1
_TOWERS, _SLOTS, _RESULT = "towers_", "slots_", "result/"
_CHOICE = TypeAdapter(ModelChoice)
_EASE_FILE = "linear.npz"
"""Kept beside the rounds and not in each: it can be hundreds of megabytes, and stays as it is."""


class CheckpointStore:
    """Checkpoints of one run in one folder, a file a round.

    Args:
        folder: made when it is not there.
        keep: how many of the newest rounds stay.
        origin: what the run is started with besides its plan, as JSON; kept in every round.

    Raises:
        StoreError: the folder cannot be made.
    """

    def __init__(self, folder: Path, *, keep: int = 3, origin: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self._origin = origin
        self._keep = keep
        self._linear: Mapping[str, TransferWeights] | None = None
        make_folder(folder)

    def save(self, state: FederationState, plan: FederationPlan) -> Path:
        """Write the state of a completed round durably.

        Raises:
            StoreError: the disk is full or the folder not writable; earlier rounds stay.
        """
        header = {
            "format": _FORMAT,
            "run_id": state.run_id,
            "server_round": state.server_round,
            "plan": plan.model_dump(mode="json"),
            "platforms": list(state.vocabulary.owners),
            "user_counts": state.user_counts,
            "value_mean": state.value_mean,
            "tower_round": state.tower_round,
            "race_steps": state.race_steps,
            "choice": None if state.choice is None else _CHOICE.dump_python(state.choice, mode="json"),
            "linear": state.linear is not None,
            "history": [record.as_dict() for record in state.history],
            "origin": self._origin,
        }
        arrays: dict[str, NDArray[Any]] = {
            "header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
            "digests": state.vocabulary.digests,
            "item_parameters": state.item_parameters,
            "item_counts": state.item_counts,
            **{f"owners_{index}": rows for index, rows in enumerate(state.vocabulary.owners.values())},
            **{f"{_TOWERS}{name}": value for name, value in state.towers.items()},
            **{f"{_SLOTS}{name}": value for name, value in state.tower_slots.items()},
            **{f"{_RESULT}{kind}/{name}": a for kind, result in state.results.items() for name, a in result.items()},
        }
        if state.linear is not None and state.linear is not self._linear:
            # Before the round that names it.
            write_atomically(self.folder / _EASE_FILE, archive(_ease_arrays(state.run_id, state.linear)))
            self._linear = state.linear
        path = self.folder / f"round-{state.steps:06d}.npz"
        write_atomically(path, archive(arrays))
        # Later rounds that could not be read are no reason to drop this one.
        for old in [file for file in self._files() if file <= path][: -self._keep]:
            old.unlink()
        return path

    def latest(self, plan: FederationPlan) -> FederationState | None:
        """The newest checkpoint that can be read, or None in an empty folder; the log names those that are skipped.

        Raises:
            FederationError: it belongs to another plan.
            NewerStoreError: a newer crossfed wrote the newest, and none can be read.
            StoreError: none can be read, or the linear weights cannot.
        """
        first: StoreError | None = None
        for path in reversed(self._files()):
            try:
                started_with, state, with_linear = self._read(path)
            except StoreError as error:
                _log.warning("%s; the round before is looked at", error)
                first = first or error
                continue
            if with_linear:
                state = replace(state, linear=self._load_ease(state.run_id))
            _check_plan(path, plan, started_with)
            return state
        if first is not None:
            raise first
        return None

    def origin(self) -> Mapping[str, Any] | None:
        """Return what the newest checkpoint's run was started with; None where there is none, or it was not noted.

        Raises:
            StoreError: it cannot be read.
        """
        files = self._files()
        if not files:
            return None
        try:
            header = json.loads(read_archive(files[-1])["header"].tobytes())
            origin: Mapping[str, Any] | None = header.get("origin")
        except (ValueError, KeyError, AttributeError) as error:
            raise StoreError(f"{files[-1]}: cannot be read; move it away to resume from the round before") from error
        return origin

    def _load_ease(self, run_id: str) -> Mapping[str, TransferWeights]:
        path = self.folder / _EASE_FILE
        try:
            self._linear = _ease_of(read_archive(path), run_id)
        except (StoreError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}: cannot be read; restore it from a backup, or start a new run") from error
        return self._linear

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("round-*.npz"))

    def _read(self, path: Path) -> tuple[FederationPlan, FederationState, bool]:
        """Plan and state of a round, and whether its linear weights lie beside it. Raises: StoreError, NewerStoreError."""
        try:
            arrays = read_archive(path)
            header = json.loads(arrays["header"].tobytes())
            if header["format"] > _FORMAT:
                raise NewerStoreError(f"{path}: written by a newer crossfed; upgrade this one to resume the run")
            return *_plan_and_state(header, arrays), bool(header.get("linear", False))
        except NewerStoreError:
            raise
        except (StoreError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{path}: damaged; restore it, or move it away") from error


def _check_plan(path: Path, plan: FederationPlan, started_with: FederationPlan) -> None:
    differences = plan.differences(started_with)
    if differences:
        raise FederationError(
            f"{path}: this run was started with another plan (differs in {', '.join(differences)}); "
            f"restore the plan, or use a new folder"
        )


def _plan_and_state(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> tuple[FederationPlan, FederationState]:
    owners = {name: arrays[f"owners_{index}"] for index, name in enumerate(header["platforms"])}
    state = FederationState(
        run_id=header["run_id"],
        server_round=header["server_round"],
        vocabulary=Vocabulary(arrays["digests"], owners),
        item_parameters=arrays["item_parameters"],
        item_counts=arrays["item_counts"],
        user_counts=header["user_counts"],
        value_mean=header["value_mean"],
        history=tuple(_record(entry) for entry in header["history"]),
        towers=_of_prefix(arrays, _TOWERS),
        tower_slots=_of_prefix(arrays, _SLOTS),
        tower_round=header.get("tower_round", 0),
        race_steps=header.get("race_steps", 0),
        choice=None if header.get("choice") is None else _CHOICE.validate_python(header["choice"]),
        results=_results(arrays),
    )
    return read_plan(header["plan"]), state


def _ease_arrays(run_id: str, linear: Mapping[str, TransferWeights]) -> dict[str, NDArray[Any]]:
    header = json.dumps({"run_id": run_id, "platforms": list(linear)}).encode()
    arrays: dict[str, NDArray[Any]] = {"header": np.frombuffer(header, dtype=np.uint8)}
    for index, part in enumerate(linear.values()):
        arrays |= {f"inputs_{index}": part.inputs, f"targets_{index}": part.targets, f"weights_{index}": part.weights}
    return arrays


def _ease_of(arrays: dict[str, NDArray[Any]], run_id: str) -> dict[str, TransferWeights]:
    header = json.loads(arrays["header"].tobytes())
    if header["run_id"] != run_id:
        raise ValueError(f"{_EASE_FILE} is of another run")
    return {
        name: TransferWeights(arrays[f"inputs_{index}"], arrays[f"targets_{index}"], arrays[f"weights_{index}"])
        for index, name in enumerate(header["platforms"])
    }


def _of_prefix(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _results(arrays: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, NDArray[Any]]]:
    """By kind of contribution, and by name."""
    results: dict[str, dict[str, NDArray[Any]]] = {}
    for place, array in arrays.items():
        if place.startswith(_RESULT):
            kind, _, name = place.removeprefix(_RESULT).partition("/")
            results.setdefault(kind, {})[name] = array
    return results


def _record(entry: dict[str, object]) -> RoundRecord:
    return RoundRecord(**{**entry, "platforms": tuple(entry["platforms"])})  # type: ignore[arg-type]
