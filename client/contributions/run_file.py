"""Keeps on disk what an agent needs to go on with a run in the middle of which it was restarted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from common.config.federation import FederationPlan
from common.errors import StoreError
from common.files import archive, file_errors, read_archive, write_atomically
from common.wire.exchange import Arrays

_log = getLogger(__name__)

VOCABULARY_FILE, TOWERS_FILE = "vocabulary.npz", "towers.npz"


class RunFile:
    """Keeps the newest arrays and facts of a run: the vocabulary that was accepted, or how far training has come.

    Args:
        path: of the file; its folder is made when something is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, run_id: str, plan: FederationPlan, facts: Mapping[str, Any], arrays: Arrays) -> None:
        """Keep ``facts`` (as JSON) and ``arrays`` of a run, under the plan that the platform compared when it joined.

        Raises:
            StoreError: it cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        header = json.dumps(_header(run_id, plan) | {"facts": facts}).encode()
        write_atomically(self._path, archive({"header": np.frombuffer(header, dtype=np.uint8), **arrays}))

    def load(self, run_id: str, plan: FederationPlan) -> tuple[dict[str, Any], Arrays] | None:
        """Facts and arrays; None unless they are of this run and this plan.

        A plan that was changed since is one that nobody has compared: the platform must join again.
        """
        kept = self.newest(plan)
        return kept[1:] if kept is not None and kept[0] == run_id else None

    def newest(self, plan: FederationPlan) -> tuple[str, dict[str, Any], Arrays] | None:
        """Run id, facts and arrays, whichever run they are of; None unless they are of this plan."""
        try:
            kept = self._read()
        except StoreError as error:
            _log.warning("%s", error)
            return None
        if kept is None:
            return None
        header, facts, arrays = kept
        run_id = str(header.get("run_id"))
        return (run_id, facts, arrays) if _plan_in(header) == plan else None

    def forget(self, run_id: str) -> None:
        """Delete what is kept, if it is of this run; what cannot be read is left as it is.

        Raises:
            StoreError: it cannot be deleted.
        """
        try:
            kept = self._read()
        except StoreError:
            return
        if kept is None or kept[0].get("run_id") != run_id:
            return
        with file_errors(self._path):
            self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises: StoreError when the file is there and cannot be used; the message says what becomes of its run."""
        self._read()

    def _read(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, NDArray[Any]]] | None:
        if not self._path.exists():
            return None
        try:
            arrays = read_archive(self._path)
            header = json.loads(arrays.pop("header").tobytes())
            return header, dict(header.pop("facts")), arrays
        except (StoreError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{self._path} is damaged, or of another version: what it kept of the run under way is made anew when the "
                "aggregator takes the run up again (crossfed-server run --resume); a new run needs nothing of it"
            ) from error


def _plan_in(header: Mapping[str, Any]) -> FederationPlan | None:
    """The plan of a file, which an earlier version may have written: settings that came later are as they were without."""
    try:
        return FederationPlan.model_validate(header.get("plan"))
    except ValidationError:
        return None


def _header(run_id: str, plan: FederationPlan) -> dict[str, object]:
    return {"run_id": run_id, "plan": plan.model_dump(mode="json")}
