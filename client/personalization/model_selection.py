"""Which model ranks a platform's own items: candidates are compared with the local model on validation users, never on test.

A silo trusts itself, so its local model needs no noise and is the baseline that counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.data.split import EvaluationSlice
from client.scoring.evaluation import PerUserMetrics, evaluate
from client.scoring.fold_in import Recency
from client.scoring.scorer import Scorer
from client.scoring.topk import block_rows
from common.config.platform import PersonalizationConfig
from common.errors import ContractError
from common.metrics import PairedInterval, paired_bootstrap

RATING_METRIC = "-rmse"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A way to rank, as the verdict sees it: its name, its blend weight if it has one, and its validation metrics."""

    name: str
    weight: float | None
    metrics: PerUserMetrics


@dataclass(frozen=True)
class Verdict:
    """Which ranking a platform serves, and why.

    Attributes:
        name: ``local`` or the name of the candidate chosen.
        weight: the candidate's blend weight; None without one.
        metric: what was compared.
        local_mean: mean of the metric over validation users, local.
        chosen_mean: the same of the chosen ranking.
        interval: paired bootstrap of chosen − local; all zero for ``local``.
    """

    name: str
    weight: float | None
    metric: str
    local_mean: float
    chosen_mean: float
    interval: PairedInterval


def choose_verdict(
    local: PerUserMetrics,
    candidates: Sequence[Candidate],
    *,
    metric: str,
    rng: np.random.Generator,
    level: float = 0.95,
) -> Verdict:
    """The candidate with the highest mean among those whose gain over local is sure; ``local`` where there is none.

    A gain is sure where the lower end of the paired bootstrap interval of candidate − local exceeds 0. The shared model
    needs a reason: in doubt, and without validation users, the platform keeps its own.

    Args:
        local: the platform's own model on the validation slice.
        candidates: other rankings on the same slice; of equal means the first is taken.
        metric: a name in all of them, such as ``ndcg@10``.
        rng: where the resampled users come from.
        level: coverage of the two-sided interval.

    Raises:
        ContractError: the metric is missing or the users are not the same.
    """
    for name, other in [("local", local), *((c.name, c.metrics) for c in candidates)]:
        if metric not in other.values:
            raise ContractError(f"{name} has no {metric}; evaluate every candidate with the verdict's metric")
        if not np.array_equal(other.users, local.users):
            raise ContractError(f"{name} was evaluated on other users than local; use one validation slice for all")
    own = local.values[metric]
    own_mean = float(own.mean()) if len(own) else 0.0
    verdict = Verdict("local", None, metric, own_mean, own_mean, PairedInterval(0.0, 0.0, 0.0))
    if len(own) == 0:
        return verdict
    for candidate in candidates:
        values = candidate.metrics.values[metric]
        interval = paired_bootstrap(values, own, rng, level=level)
        if interval.lower > 0 and interval.mean > verdict.interval.mean:
            mean = float(values.mean())
            verdict = Verdict(candidate.name, candidate.weight, metric, own_mean, mean, interval)
    return verdict


def cross_fitted(values: NDArray[np.float64], rng: np.random.Generator, folds: int = 10) -> NDArray[np.float64]:
    """float64 ``[k]`` of ``[candidates, k]``: each user's value under the candidate that is best for the other folds' users."""
    fold = rng.permutation(values.shape[1]) % folds
    chosen = np.empty(values.shape[1])
    for number in np.unique(fold):
        others = values[:, fold != number]
        best = int(np.argmax(others.mean(axis=1))) if others.shape[1] else 0
        chosen[fold == number] = values[best, fold == number]
    return chosen


RECENCIES: Final = tuple(
    Recency(boost=boost, span=span) for boost, span in itertools.product((4.0, 40.0), (1.0, 3.0, 10.0))
)
"""Tried where a user's latest entries may weigh more. Wide apart: what is between them gains little over the nearer one."""


@dataclass(frozen=True, eq=False)
class RecencyChoice:
    """How a model's users are folded in, and why.

    Attributes:
        recency: chosen; None: as in training.
        interval: paired bootstrap of what users gain by what the others chose, whether that is served or not.
        gain: float64 ``[k]``: that gain of each validation user, where something is served; else 0.
        flattery: float64 ``[k]``: how much more each gains by what is served, which all have chosen together.
    """

    recency: Recency | None = None
    interval: tuple[float, float] = (0.0, 0.0)
    gain: NDArray[np.float64] | float = 0.0
    flattery: NDArray[np.float64] | float = 0.0


def choose_recency(
    reached: Callable[[Recency | None], NDArray[np.float64]], rng: np.random.Generator, *, level: float
) -> RecencyChoice:
    """The best of :data:`RECENCIES` on validation users, where what it gains is sure; else None.

    Users judge what was chosen without their say, so that trying several flatters none.

    Args:
        reached: each validation user's value, float64 ``[k]``, with users folded in so.
        rng: deals users to folds and resamples them.
        level: coverage of the two-sided interval whose lower end must exceed 0.
    """
    plain = reached(None)
    if len(plain) == 0:
        return RecencyChoice()
    values = np.stack([plain, *(reached(recency) for recency in RECENCIES)])
    gain = cross_fitted(values, rng) - plain
    sure = paired_bootstrap(gain, np.zeros_like(gain), rng, level=level)
    interval = sure.lower, sure.upper
    best = int(np.argmax(values.mean(axis=1)))
    if best == 0 or sure.lower <= 0:
        return RecencyChoice(interval=interval)
    return RecencyChoice(RECENCIES[best - 1], interval, gain, values[best] - plain - gain)


class ValidationUsers:
    """Measures scorers on a platform's validation users, by the one metric that tuning and verdict maximise.

    Args:
        held_out: users, their histories and truth; rows are all of the platform's users.
        config: names the metric of implicit feedback.
        explicit: whether feedback is; it minimises the rating error instead.
    """

    def __init__(self, held_out: EvaluationSlice, config: PersonalizationConfig, *, explicit: bool) -> None:
        self._held_out, self._explicit = held_out, explicit
        self.metric: str = RATING_METRIC if explicit else config.metric
        self.alone = only_users(held_out)
        """The slice without anybody else: what tuning solves factors for."""

    def values(self, scorer: Scorer, *, alone: bool = False) -> NDArray[np.float64]:
        """float64 ``[k]``: of each validation user with something to find; ``alone`` where the scorer has no other rows."""
        held_out = self.alone if alone else self._held_out
        if self._explicit:
            return rating_accuracy(scorer, held_out).values[RATING_METRIC]
        depth = int(self.metric.partition("@")[2])
        return evaluate(scorer, held_out, metrics=(self.metric,), depth=depth).values[self.metric]

    def of_users(self, values: NDArray[np.float64]) -> PerUserMetrics:
        """``values`` float64 ``[k]`` with the users that they are of."""
        users = self._held_out.users[self._held_out.truth.row_lengths[self._held_out.users] > 0]
        return PerUserMetrics(users, {self.metric: values}, None)


def rating_accuracy(scorer: Scorer, held_out: EvaluationSlice) -> PerUserMetrics:
    """−RMSE of each user's held-out ratings, so that higher is better as for every other metric."""
    users = held_out.users[held_out.truth.row_lengths[held_out.users] > 0]
    errors = np.zeros(len(users))
    step = block_rows(held_out.truth.n_items)
    for start in range(0, len(users), step):
        some = users[start : start + step]
        truth = held_out.truth.select_users(some)
        rows = truth.entry_users()
        predicted = scorer.scores(held_out.history, some)[rows, truth.indices]
        squares = np.square(predicted.astype(np.float64) - truth.values)
        errors[start : start + step] = np.sqrt(np.bincount(rows, squares, minlength=len(some)) / truth.row_lengths)
    return PerUserMetrics(users, {RATING_METRIC: -errors}, None)


def only_users(held_out: EvaluationSlice) -> EvaluationSlice:
    """The slice with its users' rows alone: nobody else's factor need be solved to look at it."""
    rows = np.arange(len(held_out.users))
    return EvaluationSlice(
        rows, held_out.history.select_users(held_out.users), held_out.truth.select_users(held_out.users)
    )
