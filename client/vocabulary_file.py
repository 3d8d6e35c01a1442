"""The vocabulary of the run on disk, so that an agent that is restarted in the middle of it goes on."""

from __future__ import annotations

import json
from logging import getLogger
from pathlib import Path

import numpy as np

from common.config.federation import FederationPlan
from common.errors import StoreError
from common.exchange import Arrays
from common.files import archive, read_archive, write_atomically

_log = getLogger(__name__)


class VocabularyFile:
    """Keeps the newest vocabulary message that the platform has accepted.

    Args:
        path: of the file; its folder is made when something is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, run_id: str, plan: FederationPlan, platforms: tuple[str, ...], arrays: Arrays) -> None:
        """Keep the message of a run, under the plan that the platform compared when it joined.

        Raises:
            StoreError: it cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        header = json.dumps(_header(run_id, plan) | {"platforms": platforms}).encode()
        write_atomically(self._path, archive({"header": np.frombuffer(header, dtype=np.uint8), **arrays}))

    def load(self, run_id: str, plan: FederationPlan) -> tuple[tuple[str, ...], Arrays] | None:
        """Platforms and arrays of the message; None unless it is of this run and this plan.

        A plan that was changed since is one that nobody has compared: the platform must join again.
        """
        if not self._path.exists():
            return None
        try:
            arrays = read_archive(self._path)
            header = json.loads(arrays.pop("header").tobytes())
            platforms = tuple(header.pop("platforms"))
        except (StoreError, ValueError, KeyError) as error:
            _log.warning(
                "%s cannot be used (%s); the platform goes on when it is told the vocabulary anew", self._path, error
            )
            return None
        return (platforms, arrays) if header == _header(run_id, plan) else None


def _header(run_id: str, plan: FederationPlan) -> dict[str, object]:
    return {"run_id": run_id, "plan": plan.model_dump(mode="json")}
