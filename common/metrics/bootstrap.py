"""Means over users with bootstrap intervals.

Users, not interactions, are resampled: they are the independent units. Intervals are percentile intervals (Efron &
Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13; for ranking metrics Sakai 2006, "Evaluating evaluation
metrics based on the bootstrap"). All results are a function of the values and of the generator's state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from common.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MetricBlock: TypeAlias = dict[str, Any]
"""``{METRIC: mean, …, "users": n, "ci95": {METRIC: [lower, upper], …}}``: the block M of ``result.json``."""

RESAMPLES = 1000
_DRAWS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class PairedInterval:
    """The mean over users of a difference and its bootstrap interval.

    Attributes:
        mean: mean of a − b.
        lower: lower end of the interval.
        upper: upper end.
    """

    mean: float
    lower: float
    upper: float


def summarise(
    per_user: Mapping[str, NDArray[np.float64]],
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    draws_at_once: int = _DRAWS_AT_ONCE,
) -> MetricBlock:
    """Mean and 95 % interval of each metric over users; every metric sees the same resampled users.

    Args:
        per_user: float64 ``[n]`` per metric name, all of the same users. Users without truth were left out before.
        rng: where the resampled users come from.
        resamples: bootstrap resamples.
        draws_at_once: drawn users held in memory at a time.

    Returns:
        A block that ``json.dumps`` takes. Without any user the means are None and ``ci95`` is empty.

    Raises:
        ContractError: the metrics are not of the same users, or a value is not finite.
    """
    names = list(per_user)
    values = _columns([per_user[name] for name in names], names)
    n_users = len(values)
    block: MetricBlock = {}
    intervals: dict[str, list[float]] = {}
    if n_users == 0:
        block.update(dict.fromkeys(names))
    else:
        lower, upper = _interval(_resampled_means(values, rng, resamples, draws_at_once), 0.95)
        for column, name in enumerate(names):
            block[name] = float(values[:, column].mean())
            intervals[name] = [float(lower[column]), float(upper[column])]
    return block | {"users": n_users, "ci95": intervals}


def paired_bootstrap(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> PairedInterval:
    """The mean of a − b over users, with its two-sided interval.

    Args:
        a: float64 ``[n]``; one metric of one ranking, per user.
        b: float64 ``[n]``; the same metric of another ranking, of the same users in the same order.
        rng: where the resampled users come from.
        resamples: bootstrap resamples.
        level: coverage of the interval.

    Raises:
        ContractError: the two have no or not the same users, or a value is not finite.
    """
    pair = _columns([a, b], ["a", "b"])
    if len(pair) == 0:
        raise ContractError("a paired bootstrap needs at least one user; the two metrics have none")
    difference = pair[:, :1] - pair[:, 1:]
    lower, upper = _interval(_resampled_means(difference, rng, resamples), level)
    return PairedInterval(float(difference.mean()), float(lower[0]), float(upper[0]))


def rating_intervals(
    squared: NDArray[np.float64],
    absolute: NDArray[np.float64],
    ratings: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
) -> dict[str, list[float]]:
    """95 % intervals of RMSE and MAE over all ratings, users resampled with all of theirs (a ratio of two sums).

    Args:
        squared: float64 ``[n]``; a user's Σ (r̂ − r)².
        absolute: float64 ``[n]``; a user's Σ |r̂ − r|.
        ratings: int64 ``[n]``; how many ratings these sums are over, one at least.
        rng: where the resampled users come from.
        resamples: bootstrap resamples.

    Returns:
        ``{"rmse": [lower, upper], "mae": [lower, upper]}``; empty without users.

    Raises:
        ContractError: the three are not of the same users, or a value is not finite.
    """
    values = _columns([squared, absolute, ratings.astype(np.float64)], ["squared", "absolute", "ratings"])
    if len(values) == 0:
        return {}
    means = _resampled_means(values, rng, resamples)
    errors = np.column_stack([np.sqrt(means[:, 0] / means[:, 2]), means[:, 1] / means[:, 2]])
    lower, upper = _interval(errors, 0.95)
    return {name: [float(lower[column]), float(upper[column])] for column, name in enumerate(("rmse", "mae"))}


def _columns(columns: list[NDArray[np.float64]], names: list[str]) -> NDArray[np.float64]:
    if len({len(column) for column in columns}) > 1:
        raise ContractError(f"metrics of different numbers of users: {', '.join(names)}; use one slice for all")
    values = np.column_stack(columns) if columns else np.empty((0, 0))
    if not np.isfinite(values).all():
        bad = [name for name, column in zip(names, columns, strict=True) if not np.isfinite(column).all()]
        raise ContractError(f"not finite for some users: {', '.join(bad)}; leave users without truth out first")
    return values


def _resampled_means(
    values: NDArray[np.float64], rng: np.random.Generator, resamples: int, draws_at_once: int = _DRAWS_AT_ONCE
) -> NDArray[np.float64]:
    """float64 ``[resamples, q]``: means of the columns of ``values`` (``[n, q]``) over n users drawn with replacement.

    How often each user was drawn is a row of a weight matrix, so that all means are one matrix product; the matrix is
    made in pieces to bound memory by a constant.
    """
    n_users = len(values)
    means = np.empty((resamples, values.shape[1]))
    step = max(1, draws_at_once // n_users)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(n_users, size=(rows, n_users)) + n_users * np.arange(rows)[:, None]
        times_drawn = np.bincount(drawn.ravel(), minlength=rows * n_users).reshape(rows, n_users)
        means[start : start + rows] = times_drawn @ values / n_users
    return means


def _interval(means: NDArray[np.float64], level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    tail = (1.0 - level) / 2
    lower, upper = np.quantile(means, [tail, 1.0 - tail], axis=0)
    return lower, upper
