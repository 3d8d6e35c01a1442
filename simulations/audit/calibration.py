"""How often the audit flags sound code: its statistical checks, repeated.

The exact checks cannot fail by chance. Each repeat takes the statistical ones from new noise, at the suite's size or another,
and so measures both the rate of flags and, more sharply, whether p-values are what they say: at a false-alarm rate of 5 % for
all checks together, at most about one repeat in twenty may be flagged.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from scipy import stats

from common.files import write_atomically
from simulations.audit.audited.files import population
from simulations.audit.audited.plan import audit_plan
from simulations.audit.audited.platforms import audit_folder, make_identities, one_thread, quiet
from simulations.audit.canary.releases import canary_test
from simulations.audit.path.neighbours import USERS, NoisePlacement, World
from simulations.audit.path.noise import noise_checks
from simulations.audit.statistics.checks import FALSE_ALARM, Check, flags_of

LOOSE = 0.05
_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class FalseAlarms:
    """Flags of sound code.

    Attributes:
        repeats: audits.
        runs: of each one's canary test, in each world.
        statistical: checks of each audit.
        flagged: audits with a flag, at :data:`~simulations.audit.statistics.checks.FALSE_ALARM`.
        upper: 95 % upper confidence bound of their share (Clopper & Pearson).
        flagged_loosely: audits that a false-alarm rate of 5 % would flag.
    """

    repeats: int
    runs: int
    statistical: int
    flagged: int
    upper: float
    flagged_loosely: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"false_alarm": FALSE_ALARM, "loose": LOOSE}


def count_false_alarms(
    epsilon: float,
    *,
    repeats: int,
    runs: int,
    on_repeat: Callable[[int], None] = lambda done: None,
    audit: Callable[[int], list[Check]] | None = None,
) -> FalseAlarms:
    """Audit the code that ships ``repeats`` times, without the deep model, and count flags.

    Args:
        epsilon: the claim.
        repeats: how often.
        runs: of the canary test in each world.
        on_repeat: told how many are done.
        audit: makes the statistical checks of one repeat; those of the code that ships unless given.
    """
    flagged = loosely = statistical = 0
    for repeat in range(repeats):
        checks = _statistical_checks(epsilon, runs, seed=repeat) if audit is None else audit(repeat)
        statistical = len(checks)
        flagged += bool(flags_of(checks))
        loosely += bool(flags_of(checks, false_alarm=LOOSE))
        on_repeat(repeat + 1)
    upper = float(stats.beta.ppf(_CONFIDENCE, flagged + 1, repeats - flagged)) if flagged < repeats else 1.0
    return FalseAlarms(
        repeats=repeats, runs=runs, statistical=statistical, flagged=flagged, upper=upper, flagged_loosely=loosely
    )


def write_false_alarms(found: FalseAlarms, folder: Path) -> Path:
    """``false_alarms.json`` in ``folder``."""
    path = folder / "false_alarms.json"
    write_atomically(path, json.dumps(found.as_dict(), indent=1).encode(), mode=0o644)
    return path


def _statistical_checks(epsilon: float, runs: int, *, seed: int) -> list[Check]:
    found = list(canary_test(epsilon, runs=runs, seed=seed).checks)
    with one_thread(), quiet(), audit_folder() as folder:
        for placement in get_args(NoisePlacement):
            at: Path = folder / placement
            plan = audit_plan(epsilon, 1e-3, noise=placement)
            found += noise_checks(World.of(at, plan, population(seed, USERS), make_identities(at / "identities")))
    return [check for check in found if check.p_value is not None]
