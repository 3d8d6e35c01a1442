"""Defines an audit's checks: exact ones, which sound code cannot fail, and statistical ones, of which chance can fail each.

All statistical checks of one audit share one false-alarm rate (Bonferroni): each flags below :data:`FALSE_ALARM` divided by
their number, so that the whole audit flags sound code with at most that probability, whatever depends on what.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FALSE_ALARM = 1e-4
"""Probability with which an audit of sound code flags anything at all, at most."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        p_value: of what was seen if the code is sound; None for an exact check.
        problem: what is wrong if this check fails; of an exact check that holds, empty.
    """

    name: str
    p_value: float | None
    problem: str


def exact(name: str, problem: str = "") -> Check:
    """A check that sound code always passes; it holds unless there is a ``problem``."""
    return Check(name=name, p_value=None, problem=problem)


def statistical(name: str, p_value: float, problem: str) -> Check:
    """A check that sound code fails with the probability at which it is flagged."""
    return Check(name=name, p_value=p_value, problem=problem)


def flags_of(checks: Iterable[Check], *, false_alarm: float = FALSE_ALARM) -> tuple[str, ...]:
    """The problems of all checks that fail, at a false-alarm rate of ``false_alarm`` for all of them together."""
    checks = list(checks)
    by_chance = sum(check.p_value is not None for check in checks)
    return tuple(check.problem for check in checks if _fails(check, false_alarm / max(by_chance, 1)))


def _fails(check: Check, level: float) -> bool:
    return bool(check.problem) if check.p_value is None else check.p_value < level


def noise_p_value(standardised: NDArray[np.float64]) -> float:
    """Kolmogorov–Smirnov test of standardised noise against the normal distribution."""
    return float(stats.kstest(standardised, "norm").pvalue)


def row_p_value(standardised: NDArray[np.float64]) -> float:
    """Whether every row has noise of the declared size: the smallest of the rows' two-sided χ² tests, times their number.

    Args:
        standardised: ``[rows, values]``; noise in units of its declared standard deviation.
    """
    squares = np.square(standardised).sum(axis=1)
    below = stats.chi2.cdf(squares, standardised.shape[1])
    above = stats.chi2.sf(squares, standardised.shape[1])
    return float(min(1.0, 2 * np.minimum(below, above).min() * len(squares)))
