"""When the next run begins, and what to do with one whose process was lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from common.deploy.roles import ScheduleConfig
from server.deploy.runs import FINISHED, INTERRUPTED, RunStatus

_FREE = ("join", "vocabulary")
_RESUMES = 5
"""A run whose process dies that often without finishing a round in between is left for the operator."""
HOPELESS = (
    f"its process was lost {_RESUMES} times without a round in between; state/logs/superexec.log says more, and "
    "crossfed-server run --resume goes on with it"
)


def next_start(config: ScheduleConfig, runs: Sequence[RunStatus], began: datetime) -> datetime | None:
    """When the next scheduled run is due; None where there is no schedule, or where it has made all its runs.

    Args:
        config: the schedule.
        runs: so far, the oldest first.
        began: when this aggregator process began.

    >>> noon = datetime(2026, 10, 9, 12, tzinfo=UTC)
    >>> next_start(ScheduleConfig(at="03:30"), [], noon).isoformat()
    '2026-10-10T03:30:00+00:00'
    >>> done = RunStatus(name="a", state=FINISHED, started=noon.isoformat())
    >>> next_start(ScheduleConfig(every=3600), [done], noon).isoformat()
    '2026-10-09T13:00:00+00:00'
    >>> next_start(ScheduleConfig(every=3600, runs=1), [done], noon) is None
    True
    """
    if config.runs is not None and sum(map(_has_released, runs)) >= config.runs:
        return None
    last = started_at(runs[-1]) if runs else None
    if config.every is not None:
        return began if last is None else last + timedelta(seconds=config.every)
    if config.at is None:
        return None
    after = max(began, last or began)
    hour, minute = (int(part) for part in config.at.split(":"))
    today = after.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today if today > after else today + timedelta(days=1)


def _has_released(run: RunStatus) -> bool:
    """Whether platforms paid for it; one that failed while they joined has cost nothing."""
    return (
        run.state == FINISHED or any(answer["kind"] not in _FREE for answer in run.answers.values()) or bool(run.rounds)
    )


class Resumer:
    """Decides which lost run to take up again."""

    def __init__(self) -> None:
        self._attempts: dict[str, tuple[int, int]] = {}

    def to_resume(self, runs: Sequence[RunStatus]) -> str | None:
        """The newest run, if its process is gone and resuming it has not been in vain too often."""
        if not runs or runs[-1].state != INTERRUPTED:
            return None
        run = runs[-1]
        rounds, attempts = self._attempts.get(run.name, (run.server_round, 0))
        attempts = attempts if rounds == run.server_round else 0
        if attempts >= _RESUMES:
            return None
        self._attempts[run.name] = (run.server_round, attempts + 1)
        return run.name

    def not_begun(self, name: str) -> None:
        """Resuming ``name`` could not even begin, which is not the run's fault: it does not count."""
        rounds, attempts = self._attempts.get(name, (0, 1))
        self._attempts[name] = (rounds, attempts - 1)


def started_at(run: RunStatus) -> datetime:
    """Its start, in UTC."""
    return datetime.fromisoformat(run.started).astimezone(UTC)
