"""Reads what a platform's console shows, read anew for each page from the platform's own files; nothing of a single user.

What is shown obeys the rules of logs: counts, names of files, settings and messages, and never a user, an item of somebody's
history or a row of data. The one page about a person, :mod:`client.console.trying`, is asked for by the operator.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from client.data.recorded import DAY_SECONDS, EventRules
from client.deploy.agent_process import listeners
from client.personalization.store import PlatformStore
from client.privacy.report import egress_dicts, privacy_dict
from client.recommend.feedback_file import FEEDBACK_LOG, event_times
from client.versions.experiment import Kind
from client.versions.outcomes import read_shown, told_outcomes
from common.deploy.roles import PlatformConfig
from common.errors import CrossfedError

DAYS: Final = 7
MESSAGES: Final = 100
"""How many of what left are shown on a page."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of the platform's model.

    Attributes:
        number: of the version.
        serves: whether it is the one that serves.
        written, server_round, verdict: seconds since 1970, and what it is; None where its manifest cannot be read.
        cross: what ranks the others' items; None where configured weights do.
        bytes: on disk.
        compared, share: kind of the experiment in which it is compared with the one that serves, and share of the users who
            are shown it; or None.
    """

    number: int
    serves: bool
    written: float | None
    server_round: int | None
    verdict: str | None
    cross: str | None
    bytes: int
    compared: Kind | None
    share: float | None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the newest run has come on this platform.

    Attributes:
        run: its name.
        closed: whether it is over.
        done, planned: rounds that this platform has contributed to, and rounds of the plan.
        last: when its newest message left, ISO 8601.
        kinds: messages by kind.
    """

    run: str
    closed: bool
    done: int
    planned: int
    last: str | None
    kinds: Mapping[str, int]


def health(config: PlatformConfig) -> list[tuple[str, bool]]:
    """Return what a running platform listens on, and whether it answers."""
    return [(each.what, each.answers()) for each in listeners(config, "all")]


def versions(config: PlatformConfig) -> list[Version]:
    """All versions on disk, newest first."""
    store = PlatformStore(config.state / "store")
    numbers = store.versions()
    serving = store.current() if numbers else None
    compared = store.experiments.current()
    found = []
    for number in numbers[::-1]:
        manifest, _ = told(store.told, number)
        experiment = compared if compared is not None and compared.version == number else None
        found.append(
            Version(
                number=number,
                written=None if manifest is None else manifest["written"],
                serves=number == serving,
                server_round=None if manifest is None else manifest["server_round"],
                verdict=None if manifest is None else manifest["verdict"],
                cross=None if manifest is None or manifest["cross"] is None else manifest["cross"]["name"],
                bytes=sum(path.stat().st_size for path in store.folder_of(number).glob("*")),
                compared=None if experiment is None else experiment.kind,
                share=None if experiment is None else experiment.share,
            )
        )
    return found


def budget(config: PlatformConfig) -> dict[str, Any] | None:
    """Spend and what is left, as ``crossfed-client privacy --json``; None before the first run.

    Raises:
        LedgerError: the ledger is damaged.
    """
    return privacy_dict(config.state, config.plan) if (config.state / "ledger.db").exists() else None


def messages(
    config: PlatformConfig, before: int | None = None, *, most: int = MESSAGES
) -> tuple[list[dict[str, Any]], bool]:
    """Return what left, newest first, and whether there is more.

    Args:
        config: the platform's.
        before: only entries with a smaller number; None: the newest.
        most: how many at most.
    """
    found = [entry for entry in _entries(config) if before is None or entry["number"] < before]
    return found[::-1][:most], len(found) > most


def progress(config: PlatformConfig) -> Progress | None:
    """The newest run; None before the first."""
    spent = budget(config)
    if spent is None or not spent["runs"]:
        return None
    newest = spent["runs"][-1]
    of_run = [entry for entry in _entries(config) if entry.get("run_id") == newest["run_id"]]
    kinds: dict[str, int] = {}
    for entry in of_run:
        kinds[entry["kind"]] = kinds.get(entry["kind"], 0) + 1
    towers = config.plan.federated_towers
    deep = 0 if towers is None else towers.training.rounds
    rounds = {(entry["kind"], entry["round"]) for entry in of_run if "receipt" in entry and entry.get("round", 0) > 0}
    planned = config.plan.server_rounds + deep
    return Progress(
        run=newest["run_id"],
        closed=newest["closed"],
        done=min(len(rounds), planned),
        planned=planned,
        last=of_run[-1]["time"] if of_run else None,
        kinds=kinds,
    )


def outcomes(config: PlatformConfig) -> dict[str, Any] | None:
    """Return what came of the split that is going on, as ``crossfed-client models outcomes --json``; None without one."""
    store = PlatformStore(config.state / "store")
    experiment = store.experiments.current()
    if experiment is None or experiment.kind != "split":
        return None
    events = event_times(store.root / FEEDBACK_LOG, EventRules.of(config.data))
    return told_outcomes(experiment, store.current(), read_shown(store.experiments.shown_path), events)


def feedback(config: PlatformConfig, now: float | None = None) -> list[tuple[float, int]]:
    """Events by day, the oldest of :data:`DAYS` days first: the day's beginning (UTC, seconds since 1970) and how many.

    Only what is in the log counts, which loses what is erased or older than ``data.retention_days``.
    """
    today = int((time.time() if now is None else now) // DAY_SECONDS)
    days = dict.fromkeys(range(today - DAYS + 1, today + 1), 0)
    for _, at in event_times(config.state / "store" / FEEDBACK_LOG, EventRules.of(config.data)):
        if at // DAY_SECONDS in days:
            days[at // DAY_SECONDS] += 1
    return [(day * float(DAY_SECONDS), count) for day, count in days.items()]


def _entries(config: PlatformConfig) -> list[dict[str, Any]]:
    """Messages that left, oldest first."""
    if not (config.state / "egress.db").exists():
        return []
    return [entry for entry in egress_dicts(config.state) if entry["event"] in ("sent", "replied")]


def told(read: Any, *given: Any) -> tuple[Any, str | None]:
    """Return what a reader gives, or what is wrong: one damaged file must not hide all else."""
    try:
        return read(*given), None
    except CrossfedError as error:
        return None, str(error)
