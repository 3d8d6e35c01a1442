"""How well a ranked list fits what users held back, and how sure that figure is.

:mod:`common.metrics.ranking` has one value per user and metric, :mod:`common.metrics.bootstrap` means and intervals over users,
:mod:`common.metrics.two_way` over users and items.
"""

from __future__ import annotations

from common.metrics.bootstrap import MetricBlock, PairedInterval, paired_bootstrap, rating_intervals, summarise
from common.metrics.ranking import (
    METRICS,
    Judgement,
    average_precision,
    coverage,
    f1,
    hit_rate,
    judge,
    mae,
    ndcg,
    novelty,
    per_user_metrics,
    plain_recall,
    precision,
    recall,
    reciprocal_rank,
    rmse,
)
from common.metrics.two_way import two_way_interval

__all__ = [
    "METRICS",
    "Judgement",
    "MetricBlock",
    "PairedInterval",
    "average_precision",
    "coverage",
    "f1",
    "hit_rate",
    "judge",
    "mae",
    "ndcg",
    "novelty",
    "paired_bootstrap",
    "per_user_metrics",
    "plain_recall",
    "precision",
    "rating_intervals",
    "recall",
    "reciprocal_rank",
    "rmse",
    "summarise",
    "two_way_interval",
]
