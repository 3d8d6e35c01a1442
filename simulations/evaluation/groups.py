"""Results for some users and for some items apart: means hide whom a model serves well and what it never shows.

Groups are made by rules from training data alone. *Cold* users are the third of the measured users with the shortest
histories, *active* ones the third with the longest. *Popular* items are the fewest that together have half of all
interactions, *rare* ones all others; so both halves of the truth weigh about the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice
from client.scoring.evaluation import PerUserMetrics
from common.metrics import coverage, judge, novelty, per_user_metrics, summarise

Block = dict[str, Any]
METRICS = ("recall@20", "ndcg@10")
"""What groups are compared by."""


def group_blocks(
    measured: Mapping[str, PerUserMetrics],
    held_out: EvaluationSlice,
    counts: NDArray[np.number],
    rng_seed: tuple[int, ...],
    candidates: NDArray[np.bool_] | None = None,
) -> Block:
    """One block a scorer for cold and for active users, and for rare and popular items.

    Args:
        measured: by scorer; all of the same users.
        held_out: what they were measured on.
        counts: ``[m]``; how often each item was had, in training or elsewhere.
        rng_seed: of the bootstrap; the same resamples for every scorer.
        candidates: bool ``[m]``: the items that were ranked; all unless given.

    Returns:
        ``{GROUP: {"at_most" | "at_least" | "items": number, SCORER: M}}``, M as of :func:`common.metrics.summarise`. Of items
        M is over the users who held back one of the group, on unchanged lists; None where lists are not known.
    """
    users = next(iter(measured.values())).users
    lengths = held_out.history.row_lengths[users]
    low, high = _thirds(lengths)
    blocks: Block = {"cold": {"at_most": low}, "active": {"at_least": high}}
    for name, chosen in (("cold", lengths <= low), ("active", lengths >= high)):
        for scorer, one in measured.items():
            some = {metric: one.values[metric][chosen] for metric in METRICS}
            blocks[name][scorer] = summarise(some, np.random.default_rng(rng_seed))
    ranked = np.ones(len(counts), dtype=np.bool_) if candidates is None else candidates
    popular = popular_items(np.where(ranked, counts, 0)) & ranked
    for name, chosen in (("rare", ranked & ~popular), ("popular", popular)):
        blocks[name] = {"items": int(chosen.sum())}
        truth = held_out.truth.select_entries(chosen[held_out.truth.indices]).select_users(users)
        for scorer, one in measured.items():
            blocks[name][scorer] = None if one.ranked is None else _of_items(one.ranked, truth, rng_seed)
    return blocks


def popular_items(counts: NDArray[np.number]) -> NDArray[np.bool_]:
    """Bool ``[m]``: the fewest items that together have at least half of ``counts``, which may be noisy."""
    kept = np.maximum(counts.astype(np.float64), 0.0)
    order = np.argsort(-kept, kind="stable")
    before = np.cumsum(kept[order]) - kept[order]
    popular = np.zeros(len(kept), dtype=np.bool_)
    popular[order] = (before < kept.sum() / 2) & (kept[order] > 0)
    return popular


def beyond_accuracy(
    measured: PerUserMetrics, counts: NDArray[np.number], n_users: float, candidates: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """Coverage@20 of the ranked items and novelty@20 in bits; empty where lists are not known.

    Args:
        measured: of one scorer.
        counts: ``[m]``; how many of ``n_users`` had each item.
        n_users: among whom they were counted.
        candidates: bool ``[m]``: the items that were ranked; all unless given.
    """
    if measured.ranked is None or not len(measured.ranked):
        return {}
    items = len(counts) if candidates is None else int(candidates.sum())
    return {
        "coverage@20": coverage(measured.ranked, 20, items),
        "novelty@20": novelty(measured.ranked, 20, np.maximum(counts, 1), max(n_users, 1.0)),
    }


def _thirds(lengths: NDArray[np.int64]) -> tuple[int, int]:
    """The longest history of a cold user and the shortest of an active one; nobody is both."""
    if not len(lengths):
        return 0, 0
    low = int(np.quantile(lengths, 1 / 3, method="lower"))
    return low, max(int(np.quantile(lengths, 2 / 3, method="higher")), low + 1)


def _of_items(ranked: NDArray[np.int32], truth: UserItemMatrix, rng_seed: tuple[int, ...]) -> Block:
    found = per_user_metrics(judge(ranked, truth.indptr, truth.indices), METRICS)
    some = truth.row_lengths > 0
    kept = {metric: values[some] for metric, values in found.items()}
    return dict(summarise(kept, np.random.default_rng(rng_seed)))
