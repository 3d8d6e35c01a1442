"""Erases a person from a platform, or honours an objection, in steps that survive a crash at any point.

    STATE/persons/ID.job.json        what was asked and which steps are done; gone once the receipt is there
    STATE/persons/ID.receipt.json    signed; for the person and for the platform's records

Each step may be taken again, and finds the person by the exclusion list's HMAC: neither job nor receipt holds the id. From
the first step on nothing reads the person's data any more; the others take away what is stored. A run under way ends with what
it began with, as after any change of data: its noised sums are those that were charged, and the aggregator sees neither that
nor when somebody was erased. The next run is made without the person.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from logging import getLogger
from pathlib import Path
from typing import Any, Final

from client.data.reading.exclusions import Why, read_list
from client.keys import KeyFolder
from client.person.places import Places
from client.person.receipt import PersonReceipt
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError, DataError, StoreError
from common.files import make_folder, write_atomically

_log = getLogger(__name__)

PERSONS_FOLDER: Final = "persons"
_JOB, _RECEIPT = ".job.json", ".receipt.json"
_POLL_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 60.0
"""How long a running recommender is waited for, which looks at the list every ``serving.poll_seconds``."""

NOT_UNDONE: Final = (
    "Sums over users that have left the platform before, with noise, within the ε of the plan (or exact, where the plan says "
    "mode: none): they are nobody's data alone, and cannot be called back.",
    "Item parameters learned of all users together, here and at the aggregator, until the next training; what is trained from "
    "now on is made without the person. A run that was under way ends with what it began with, and until then keeps its "
    "rows of numbers, without ids, on disk.",
    "The platform's own files named under own_files: crossfed leaves the person out when it reads them; the platform itself "
    "must delete the rows, and write lists for everybody that it keeps anew.",
    "Backups made before: after restoring one, run `crossfed-client person reapply` with the exclusion list kept beside the "
    "newest backup (state/store/exclusions.json); until then the restored platform knows the person again.",
    "Passports that the person has carried to other platforms: those platforms erase what they redeemed, on request.",
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of an erasure.

    Attributes:
        name: in the job.
        said: in the receipt.
        take: does it, and may be repeated; False: it is not done yet.
    """

    name: str
    said: str
    take: Callable[[Places, Mapping[str, Any]], bool | None]


STEPS: Final = (
    Step(
        name="list",
        said="on the exclusion list: rows in files and recorded events of the person are used nowhere from here on",
        take=lambda places, job: places.book.add({job["person"]: job["act"]}),
    ),
    Step(name="passports", said="passports: receipts and contents", take=lambda places, _: places.forget_passports()),
    Step(
        name="versions",
        said="all versions of the model: id, history, embedding and profile",
        take=lambda places, _: places.forget_versions(),
    ),
    Step(
        name="shards",
        said="copies of rows and recorded events in shards, where the platform keeps users so",
        take=lambda places, _: places.forget_shards(),
    ),
    Step(
        name="lists",
        said="parts of lists for everybody that a command which was cut short had left",
        take=lambda places, _: places.lists.forget_parts(),
    ),
    Step(
        name="progress",
        said="what an ended run had left of its training",
        take=lambda places, _: places.forget_progress(),
    ),
    Step(
        name="feedback",
        said="recorded feedback, that set aside too",
        take=lambda places, _: places.forget_feedback(),
    ),
    Step(
        name="shown",
        said="the note that an experiment between versions had shown the person a list",
        take=lambda places, job: places.forget_shown(job["shown"]),
    ),
    Step(
        name="checked",
        said="looked for again in all of these, and not found",
        take=lambda places, _: not places.still_held(),
    ),
)


class Erasures:
    """The erasures of one platform.

    Args:
        config: the platform's.
        patience: seconds for which a step is waited for that a running recommender takes.
        steps: of an erasure.
    """

    def __init__(
        self, config: PlatformConfig, *, patience: float = _PATIENCE_SECONDS, steps: Sequence[Step] = STEPS
    ) -> None:
        self._config = config
        self._steps = tuple(steps)
        self._places = Places(config)
        self._folder = config.state / PERSONS_FOLDER
        self._patience = patience

    def begin(self, user_id: str, why: Why) -> Path:
        """Note durably that a person is to be erased, or has objected; the job, for :meth:`complete`.

        Args:
            user_id: in the form in which ids are compared.
            why: which of the two.

        Raises:
            StoreError: it cannot be noted, and nothing was done.
        """
        return self._note(self._places.book.tag(user_id), why, shown=self._places.shown_tag(user_id))

    def complete(self, job: Path) -> PersonReceipt:
        """Take all steps that are not done yet; the receipt, which is on disk.

        Raises:
            StoreError: a step could not be taken. The job stays: `crossfed-client person resume` goes on.
        """
        content = _read_job(job)
        for step in self._steps:
            if step.name not in content["done"]:
                try:
                    self._take(step, content)
                except StoreError:
                    # A process that had begun before may have written after the step that looked for it.
                    content["done"] = []
                    write_atomically(job, json.dumps(content).encode())
                    raise
                content["done"].append(step.name)
                write_atomically(job, json.dumps(content).encode())
        receipt = self._receipt(content)
        receipt.write(self._folder / f"{receipt.receipt}{_RECEIPT}")
        job.unlink()
        _log.info("receipt %s: a person was left out from here on (%s)", receipt.receipt, receipt.act)
        return receipt

    def unfinished(self) -> list[Path]:
        """Jobs that were begun and not completed."""
        return sorted(self._folder.glob(f"*{_JOB}"))

    def resume(self) -> list[PersonReceipt]:
        """Complete all that was begun.

        Raises:
            StoreError: one could not be completed.
        """
        return [self.complete(job) for job in self.unfinished()]

    def take_back(self, user_id: str) -> bool:
        """Use a person's data again, from the next reading on, who had objected; whether there was an objection."""
        excluded = self._places.book.current()
        return bool(len(excluded)) and self._places.book.take_back(excluded.tag(user_id))

    def reapply(self, path: Path) -> list[PersonReceipt]:
        """After a backup was restored: leave out, and erase again, whoever was left out on a list that was kept.

        Raises:
            StoreError: it is no list, or one under another key than the restored one.
        """
        kept = read_list(path)
        self._places.book.take_over(kept)
        return [self.complete(self._note(tag, entry.why)) for tag, entry in kept.entries.items()]

    def _note(self, tag: str, why: Why, *, shown: str = "") -> Path:
        make_folder(self._folder, mode=0o700)
        content = {
            "receipt": secrets.token_hex(8),
            "act": why,
            "person": tag,
            "shown": shown,
            "asked": _now(),
            "done": [],
        }
        job = self._folder / f"{content['receipt']}{_JOB}"
        write_atomically(job, json.dumps(content).encode())
        return job

    def _take(self, step: Step, content: Mapping[str, Any]) -> None:
        deadline = time.monotonic() + self._patience
        while step.take(self._places, content) is False:
            if time.monotonic() > deadline:
                held = ", ".join(self._places.still_held()) or "nothing any more"
                raise StoreError(
                    f"{self._config.state}: the person is left out already, but not all is erased: {held}. A running "
                    "recommender, or `crossfed-client recommend`, writes there and has not looked at the list yet; run "
                    "`crossfed-client person resume` later, or stop the platform first"
                )
            time.sleep(_POLL_SECONDS)

    def _receipt(self, content: dict[str, Any]) -> PersonReceipt:
        identity = KeyFolder(self._config.keys).identity()
        files: tuple[str, ...] = ("could not be read at this time",)
        with suppress(DataError, ConfigError):
            files = tuple(self._places.files_that_hold(content["person"]))
        return PersonReceipt(
            receipt=content["receipt"],
            platform=self._config.name,
            federation=self._config.plan.federation,
            act=content["act"],
            person=content["person"],
            asked=content["asked"],
            completed=_now(),
            done=tuple(step.said for step in self._steps),
            own_files=files,
            not_undone=NOT_UNDONE,
            identity=identity.public.hex(),
        ).signed(identity)


def _read_job(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        return {"done": list(content["done"])} | {
            name: str(content[name]) for name in ("receipt", "act", "person", "shown", "asked")
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: is damaged; delete it and ask for the erasure again") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
