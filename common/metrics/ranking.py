"""Metrics of ranked lists against binary relevance, and of predicted ratings.

Notation: h_j = 1 where the item at rank j (from 1) is one that the user held back, T the set of those items. Every
per-user function returns float64 ``[n]`` with NaN where T is empty: such a user says nothing about a ranking. Values
agree with TREC's and ranx's definitions (Bassani 2022, "ranx: a blazing-fast Python library for ranking evaluation"),
except ``recall``: as in the field's papers it is divided by min(k, |T|), and TREC's is called ``plain_recall``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import ArrayLike, NDArray

METRICS = ("recall@20", "ndcg@10", "hr@10", "precision@10", "f1@10", "mrr", "map@10")
"""The metrics that every report carries, in its order."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """Ranked lists after each item was looked up in its user's truth.

    Attributes:
        hits: bool ``[n, K]``; h_j of the K ranks.
        relevant: int64 ``[n]``; |T|.
    """

    hits: NDArray[np.bool_]
    relevant: NDArray[np.int64]


def judge(ranked: NDArray[np.integer], indptr: NDArray[np.integer], indices: NDArray[np.integer]) -> Judgement:
    """Look ranked items up in the truth.

    Args:
        ranked: int ``[n, K]``; item indices, best first, unique within a row; −1 pads a list that ran out of items.
        indptr: int ``[n + 1]``; user ``u`` holds back ``indices[indptr[u]:indptr[u + 1]]``, unique, in any order.
        indices: int ``[nnz]``.

    Raises:
        ContractError: the two do not have the same number of users.
    """
    if ranked.ndim != 2 or len(ranked) != len(indptr) - 1:
        raise ContractError(f"ranked lists of shape {ranked.shape} do not fit a truth of {len(indptr) - 1} users")
    relevant = np.diff(indptr).astype(np.int64)
    stride = 1 + int(max(ranked.max(initial=0), indices.max(initial=0)))
    rows = np.arange(len(ranked), dtype=np.int64)
    truth = np.sort(np.repeat(rows, relevant) * stride + indices)
    if len(truth) == 0:
        return Judgement(np.zeros(ranked.shape, dtype=np.bool_), relevant)
    asked = rows[:, None] * stride + ranked
    nearest = np.minimum(np.searchsorted(truth, asked), len(truth) - 1)
    return Judgement((truth[nearest] == asked) & (ranked >= 0), relevant)


def recall(judgement: Judgement, k: int) -> NDArray[np.float64]:
    """Recall@k = Σ_{j≤k} h_j / min(k, |T|), so that every user can reach 1 (Liang et al. 2018, section 4.2).

    What "Variational autoencoders for collaborative filtering" and the papers on implicit feedback that share its
    splits print as Recall@k (iALS of Rendle et al. 2021 and EASE of Steck 2019 among them). For users who hold back
    more than k items it exceeds :func:`plain_recall`; the two must not be compared. For all others they agree.
    """
    return _divide(_hits_within(judgement, k), np.minimum(judgement.relevant, k))


def plain_recall(judgement: Judgement, k: int) -> NDArray[np.float64]:
    """Σ_{j≤k} h_j / |T|, information retrieval's recall (Manning, Raghavan & Schütze 2008, eq. 8.2), as ranx has it.

    A user who holds back more than k items cannot reach 1: see :func:`recall`.
    """
    return _divide(_hits_within(judgement, k), judgement.relevant)


def precision(judgement: Judgement, k: int) -> NDArray[np.float64]:
    """Precision@k = Σ_{j≤k} h_j / k (Manning et al. 2008, eq. 8.1); a list shorter than k still counts as k."""
    return np.where(judgement.relevant > 0, _hits_within(judgement, k) / k, np.nan)


def f1(judgement: Judgement, k: int) -> NDArray[np.float64]:
    """F1@k = 2·P·R / (P + R) per user, R the :func:`plain_recall`, 0 where both are 0 (van Rijsbergen 1979, ch. 7)."""
    found, asked = precision(judgement, k), plain_recall(judgement, k)
    total = found + asked
    return np.divide(2 * found * asked, total, out=np.where(np.isnan(total), np.nan, 0.0), where=total > 0)


def ndcg(judgement: Judgement, k: int) -> NDArray[np.float64]:
    """NDCG@k = DCG / IDCG, DCG = Σ_{j≤k} h_j / log₂(j + 1), IDCG = Σ_{j≤min(k,|T|)} 1 / log₂(j + 1).

    Järvelin & Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques", with binary gains.
    """
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    gain = _within(judgement, k) @ discount
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(judgement.relevant, k)]
    return _divide(gain, ideal)


def hit_rate(judgement: Judgement, k: int) -> NDArray[np.float64]:
    """HR@k = 1 where any of the first k items is a hit, else 0 (Deshpande & Karypis 2004)."""
    return np.where(judgement.relevant > 0, _within(judgement, k).any(axis=1).astype(np.float64), np.nan)


def reciprocal_rank(judgement: Judgement) -> NDArray[np.float64]:
    """RR = 1 / min{j : h_j = 1}, 0 without a hit among all K ranks; its mean over users is MRR (Voorhees 1999)."""
    if judgement.hits.shape[1] == 0:
        return np.where(judgement.relevant > 0, 0.0, np.nan)
    first = judgement.hits.argmax(axis=1)
    value = np.where(judgement.hits.any(axis=1), 1.0 / (first + 1), 0.0)
    return np.where(judgement.relevant > 0, value, np.nan)


def average_precision(judgement: Judgement, k: int) -> NDArray[np.float64]:
    """AP@k = Σ_{j≤k} h_j·P@j / |T|; its mean over users is MAP@k (Manning et al. 2008, eq. 8.8, cut at k).

    The divisor is |T| and not min(k, |T|), as for :func:`plain_recall`.
    """
    hits = _within(judgement, k)
    ranks = np.arange(1, k + 1)
    return _divide((hits * np.cumsum(hits, axis=1) / ranks).sum(axis=1), judgement.relevant)


_AT_K: dict[str, Callable[[Judgement, int], NDArray[np.float64]]] = {
    "recall": recall,
    "plain_recall": plain_recall,
    "precision": precision,
    "f1": f1,
    "ndcg": ndcg,
    "hr": hit_rate,
    "map": average_precision,
}


def per_user_metrics(judgement: Judgement, names: Iterable[str] = METRICS) -> dict[str, NDArray[np.float64]]:
    """One float64 ``[n]`` per metric name: ``NAME@k`` with a name of ``_AT_K``, or ``mrr`` over all K ranks.

    Raises:
        ConfigError: no such metric.
        ContractError: a list is shorter than the k that a name asks for.
    """
    values = {}
    for name in names:
        kind, _, k = name.partition("@")
        if name == "mrr":
            values[name] = reciprocal_rank(judgement)
        elif kind in _AT_K and k.isdecimal() and int(k) > 0:
            values[name] = _AT_K[kind](judgement, int(k))
        else:
            raise ConfigError(f"no metric {name!r}; write mrr or one of {', '.join(_AT_K)} with @k, such as ndcg@10")
    return values


def coverage(ranked: NDArray[np.integer], k: int, n_items: int) -> float:
    """Catalogue coverage@k = |∪_u {first k items of u}| / m (Ge, Delgado-Battenfeld & Jannach 2010, eq. 2).

    Args:
        ranked: int ``[n, K]``, −1 pads.
        k: ranks that are looked at.
        n_items: m, the items that could have been recommended.
    """
    return len(np.unique(_shown(ranked, k))) / n_items if n_items else 0.0


def novelty(ranked: NDArray[np.integer], k: int, counts: NDArray[np.number], n_users: float) -> float:
    """Novelty@k in bits = mean over all recommended items of −log₂(c_i / n) (Zhou et al. 2010, PNAS 107(10)).

    Args:
        ranked: int ``[n, K]``, −1 pads.
        k: ranks that are looked at.
        counts: ``[m]``; c_i, users who have item i. Clamped to [1, n], so that unseen items and noisy counts work.
        n_users: n, the users counted.

    Returns:
        0 where everyone has every recommended item; NaN where nothing is recommended.
    """
    shown = _shown(ranked, k)
    share = np.clip(counts[shown].astype(np.float64), 1.0, n_users) / n_users
    return float(-np.log2(share).mean()) if len(shown) else float("nan")


def rmse(predicted: ArrayLike, actual: ArrayLike) -> float:
    """√(mean (r̂ − r)²) over all ratings, in the unit of the ratings; NaN without any (Herlocker et al. 2004)."""
    error = np.asarray(predicted, dtype=np.float64) - np.asarray(actual, dtype=np.float64)
    return float(np.sqrt(np.mean(error**2))) if error.size else float("nan")


def mae(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Mean |r̂ − r| over all ratings, in the unit of the ratings; NaN without any (Herlocker et al. 2004)."""
    error = np.asarray(predicted, dtype=np.float64) - np.asarray(actual, dtype=np.float64)
    return float(np.mean(np.abs(error))) if error.size else float("nan")


def _within(judgement: Judgement, k: int) -> NDArray[np.bool_]:
    depth = judgement.hits.shape[1]
    if depth < k:
        raise ContractError(f"a metric at {k} needs lists of at least {k} ranks and got {depth}; rank deeper")
    return judgement.hits[:, :k]


def _hits_within(judgement: Judgement, k: int) -> NDArray[np.int64]:
    hits: NDArray[np.int64] = _within(judgement, k).sum(axis=1, dtype=np.int64)
    return hits


def _divide(numerator: NDArray[np.number], divisor: NDArray[np.number]) -> NDArray[np.float64]:
    quotient: NDArray[np.float64] = np.divide(numerator, divisor, out=np.full(len(divisor), np.nan), where=divisor > 0)
    return quotient


def _shown(ranked: NDArray[np.integer], k: int) -> NDArray[np.integer]:
    first = ranked[:, :k]
    return first[first >= 0]
