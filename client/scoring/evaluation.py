"""Scores of held-out interactions on one platform.

Nothing here trains or tunes: scorers come in ready, held-out slices are looked at only to judge them. Verdict and blend
weights (:mod:`client.personalization.model_selection`) belong on a validation slice, the figures that are reported on
another that neither saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from client.scoring.topk import SCORES_AT_ONCE, block_rows, top_k
from common.errors import ConfigError, ContractError
from common.metrics import METRICS, Judgement, judge, mae, per_user_metrics, rmse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from client.data.dataset import UserItemMatrix
    from client.data.split import EvaluationSlice
    from client.scoring.scorer import Scorer

EvaluationProtocol: TypeAlias = Literal["full", "sampled-99"]

_SAMPLED_NEGATIVES = 99


@dataclass(frozen=True, eq=False)
class PerUserMetrics:
    """Holds what one scorer reached on one slice.

    Attributes:
        users: int64 ``[k]``; the rows that had something to find, in the order of the slice.
        values: float64 ``[k]`` per metric name.
        ranked: int32 ``[k, depth]``, −1 pads; the lists of the full protocol (for coverage and novelty), else None.
    """

    users: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]
    ranked: NDArray[np.int32] | None


def evaluate(
    scorer: Scorer,
    held_out: EvaluationSlice,
    *,
    metrics: Sequence[str] = METRICS,
    depth: int = 100,
    candidates: NDArray[np.bool_] | None = None,
    protocol: EvaluationProtocol = "full",
    rng: np.random.Generator | None = None,
    draws: int = 1,
    scores_at_once: int = SCORES_AT_ONCE,
) -> PerUserMetrics:
    """Rank items for each user of a slice and compare with what the user held back.

    ``full`` ranks every candidate that is not in the user's history. ``sampled-99`` is for comparison with papers only
    (Krichene & Rendle 2020, "On sampled metrics for item recommendation"): it ranks the one held-back item among 99
    others, drawn uniformly without replacement from the candidates that are neither in the user's history nor held back
    (He et al. 2017, "Neural collaborative filtering", §4.1). That draw knows the held-back item; it is made here, after
    training and tuning, and never used for them. What other slices hold back is unknown here and may be drawn.

    Ties are resolved against the scorer: an item held back comes after all others of the same score.

    Args:
        scorer: what is judged.
        held_out: users, their histories and truth, all over the same m items.
        metrics: names as in :func:`common.metrics.per_user_metrics`.
        depth: ranks looked at; a first hit below them counts 0 in ``mrr``. At least the largest k of ``metrics``.
        candidates: bool ``[m]``; only these are ranked and only these count as truth. All items by default.
        protocol: ``full`` or ``sampled-99``.
        rng: where sampled negatives come from; ``sampled-99`` needs it.
        draws: sets of negatives per user whose metrics are averaged; 1 in the papers.
        scores_at_once: how many scores are held in memory, about.

    Raises:
        ConfigError: no such protocol or metric, ``sampled-99`` without ``rng`` or with draws < 1.
        ContractError: scores are NaN or misshapen, an item is both history and truth, a list is shorter than a metric's
            k, or for ``sampled-99`` a user holds back more than one item or has fewer than 99 negatives.
    """
    truth = held_out.truth
    if candidates is not None:
        truth = truth.select_entries(candidates[truth.indices])
    users = held_out.users[truth.row_lengths[held_out.users] > 0]
    step = block_rows(truth.n_items, scores_at_once)
    blocks = _score_blocks(scorer, held_out.history, truth, users, step)
    if protocol == "full":
        ranked = np.full((len(users), depth), -1, dtype=np.int32)
        for block in blocks:
            ranked[block.rows], _ = top_k(
                block.scores, depth, block.history, candidates=candidates, last_among_equals=block.truth
            )
        found = truth.select_users(users)
        values = per_user_metrics(judge(ranked, found.indptr, found.indices), metrics)
        return PerUserMetrics(users, values, ranked)
    if protocol != "sampled-99":
        raise ConfigError(f"no evaluation protocol {protocol!r}; write full or sampled-99")
    if rng is None or draws < 1:
        raise ConfigError("sampled-99 needs a random generator and at least one draw of negatives")
    ranks = np.empty((draws, len(users)), dtype=np.int64)
    for block in blocks:
        for draw in range(draws):
            ranks[draw, block.rows] = _sampled_ranks(block, candidates, rng)
    return PerUserMetrics(users, _metrics_of_ranks(ranks, depth, metrics), None)


@dataclass(frozen=True, eq=False)
class RatingErrors:
    """Errors of predicted ratings, in the unit of the ratings.

    Attributes:
        rmse: over all ratings; None where the slice has none.
        mae: likewise.
        squared: float64 ``[k]``; Σ (r̂ − r)² of each user who has a rating.
        absolute: float64 ``[k]``; Σ |r̂ − r|.
        ratings: int64 ``[k]``; how many ratings of each.
    """

    rmse: float | None
    mae: float | None
    squared: NDArray[np.float64]
    absolute: NDArray[np.float64]
    ratings: NDArray[np.int64]


def evaluate_ratings(scorer: Scorer, held_out: EvaluationSlice) -> RatingErrors:
    """RMSE and MAE over all held-out ratings of explicit feedback.

    Args:
        scorer: predicts ratings on their own scale, all biases included.
        held_out: the truth's values are the ratings.

    Raises:
        ContractError: scores are NaN or misshapen, or an item is both history and truth.
    """
    users = held_out.users[held_out.truth.row_lengths[held_out.users] > 0]
    predicted, actual = [np.zeros(0, dtype=np.float32)], [np.zeros(0, dtype=np.float32)]
    for block in _score_blocks(scorer, held_out.history, held_out.truth, users, block_rows(held_out.truth.n_items)):
        predicted.append(block.scores[block.truth.entry_users(), block.truth.indices])
        actual.append(block.truth.values)
    guesses, ratings = np.concatenate(predicted), np.concatenate(actual)
    counts = held_out.truth.row_lengths[users]
    whose = np.repeat(np.arange(len(users)), counts)
    error = np.abs(guesses.astype(np.float64) - ratings)
    return RatingErrors(
        rmse=rmse(guesses, ratings) if len(ratings) else None,
        mae=mae(guesses, ratings) if len(ratings) else None,
        squared=np.bincount(whose, error**2, len(users)).astype(np.float64),
        absolute=np.bincount(whose, error, len(users)).astype(np.float64),
        ratings=counts,
    )


def gap_closed(cross: float | None, popularity: float | None, ceiling: float | None) -> float | None:
    """(cross − popularity) / (ceiling − popularity), the share of the possible gain that the federation brought.

    All three are of the same metric on the same held-back interactions. None where one is missing or where the ceiling
    does not exceed popularity, so that there is no gap. Below 0 popularity was better, above 1 the ceiling was beaten.
    """
    if cross is None or popularity is None or ceiling is None or ceiling <= popularity:
        return None
    return (cross - popularity) / (ceiling - popularity)


@dataclass(frozen=True, eq=False)
class _Block:
    """Some users' scores ``[b, m]`` with their history and truth (b × m); ``rows`` are their places among all users."""

    rows: slice
    scores: NDArray[np.float32]
    history: UserItemMatrix
    truth: UserItemMatrix


def _score_blocks(
    scorer: Scorer, history: UserItemMatrix, truth: UserItemMatrix, users: NDArray[np.int64], step: int
) -> Iterator[_Block]:
    for start in range(0, len(users), step):
        some = users[start : start + step]
        scores = scorer.scores(history, some)
        if scores.shape != (len(some), history.n_items):
            raise ContractError(f"a scorer gave {scores.shape} scores for {len(some)} users × {history.n_items} items")
        if np.isnan(scores).any():
            raise ContractError("a score is NaN: the model behind it diverged; train again with more regularisation")
        block = _Block(slice(start, start + len(some)), scores, history.select_users(some), truth.select_users(some))
        if _mask(block.history)[block.truth.entry_users(), block.truth.indices].any():
            raise ContractError("an item is in a user's history and truth at once: mend the split, it leaks")
        yield block


def _mask(entries: UserItemMatrix) -> NDArray[np.bool_]:
    mask = np.zeros((entries.n_users, entries.n_items), dtype=np.bool_)
    mask[entries.entry_users(), entries.indices] = True
    return mask


def _sampled_ranks(block: _Block, candidates: NDArray[np.bool_] | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """int64 ``[b]``: rank from 0 of each user's held-back item among 99 negatives; equal scores go before it."""
    if (block.truth.row_lengths != 1).any():
        raise ContractError("sampled-99 ranks one held-back item per user; use a leave-one-out split or protocol full")
    negatives = sampled_negatives(_mask(block.history) | _mask(block.truth), candidates, rng)
    held_back = np.take_along_axis(block.scores, block.truth.indices[:, None], axis=1)
    against = np.take_along_axis(block.scores, negatives, axis=1)
    ahead: NDArray[np.int64] = (against >= held_back).sum(axis=1, dtype=np.int64)
    return ahead


def sampled_negatives(
    known: NDArray[np.bool_], candidates: NDArray[np.bool_] | None, rng: np.random.Generator
) -> NDArray[np.int32]:
    """int32 ``[b, 99]``: items drawn uniformly without replacement for each of b users.

    Args:
        known: bool ``[b, m]``: what is never drawn for a user.
        candidates: bool ``[m]``; only these are drawn; None: all.
        rng: where they come from.

    Raises:
        ContractError: a user has fewer than 99 items left.
    """
    # The 99 items with the highest of independent uniform numbers are a uniform sample without replacement.
    lottery = rng.random(known.shape, dtype=np.float32)
    lottery[known] = -np.inf
    negatives, _ = top_k(lottery, _SAMPLED_NEGATIVES, candidates=candidates)
    if (negatives < 0).any():
        raise ContractError("a user has fewer than 99 items left to sample as negatives; use protocol full")
    return negatives


def _metrics_of_ranks(ranks: NDArray[np.int64], depth: int, metrics: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Metrics of one held-back item per user at ``ranks`` (from 0, ``[draws, k]``), averaged over the draws."""
    one = np.ones(ranks.shape[1], dtype=np.int64)
    per_draw = [per_user_metrics(Judgement(rank[:, None] == np.arange(depth), one), metrics) for rank in ranks]
    return {name: np.mean([values[name] for values in per_draw], axis=0) for name in metrics}
