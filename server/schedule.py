"""When the next run begins, and what to do with one whose process was lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from common.config.deploy import ScheduleConfig
from server.runs import INTERRUPTED, RunStatus

_RESUMES = 5
"""A run whose process dies that often without finishing a round in between is left for the operator."""
HOPELESS = (
    f"its process was lost {_RESUMES} times without a round in between; state/logs/superexec.log says more, and "
    "crossfed-server run --resume goes on with it"
)


def next_start(config: ScheduleConfig, last: datetime | None, began: datetime) -> datetime | None:
    """When the next scheduled run is due; None where there is no schedule.

    Args:
        config: the schedule.
        last: start of the newest run.
        began: when this aggregator process began.

    >>> noon = datetime(2026, 10, 9, 12, tzinfo=UTC)
    >>> next_start(ScheduleConfig(at="03:30"), None, noon).isoformat()
    '2026-10-10T03:30:00+00:00'
    >>> next_start(ScheduleConfig(every=3600), noon, noon).isoformat()
    '2026-10-09T13:00:00+00:00'
    """
    if config.every is not None:
        return began if last is None else last + timedelta(seconds=config.every)
    if config.at is None:
        return None
    after = max(began, last or began)
    hour, minute = (int(part) for part in config.at.split(":"))
    today = after.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today if today > after else today + timedelta(days=1)


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
