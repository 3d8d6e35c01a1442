"""Defines the losses of a two-tower model. Every loss is a mean over a user's own targets, then over users."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from common.config.towers import TowerTraining


def choice_losses(
    training: TowerTraining, outputs: Any, *, targets: Any, labels: Any, candidates: Any, n_items: int
) -> tf.Tensor:
    """The configured loss of implicit feedback: what came next, among candidates.

    Args:
        training: loss, temperature; with ``negatives`` 0 the candidates are the whole catalogue.
        outputs: float32 ``[t, d]``, user vectors.
        targets: float32 ``[t, d]``, vectors of the items that came next.
        labels: int32 ``[t]``, their places among the candidates; read where these are the whole catalogue.
        candidates: float32 ``[c, d]``.
        n_items: of the catalogue that negatives are drawn from.

    Returns:
        float32 ``[t]``.
    """
    outputs = outputs / training.temperature
    if training.loss == "bpr":
        return bpr_losses(outputs, targets, candidates)
    if training.negatives == 0:
        return full_softmax_losses(outputs, labels, candidates)
    correction = tf.math.log(n_items / tf.cast(tf.shape(candidates)[0], tf.float32))
    return softmax_losses(outputs, targets, candidates, correction)


def softmax_losses(outputs: Any, targets: Any, candidates: Any, correction: float = 0.0) -> tf.Tensor:
    """Cross-entropy of each target among the candidates.

    With uniformly drawn negatives log Q is one number, by which negatives' logits are raised to stand for all items that
    were not drawn (Bengio & Senécal 2008; Yi et al. 2019, eq. 3, for a proposal that depends on nobody's data).

    Args:
        outputs: float32 ``[t, d]``, user vectors.
        targets: float32 ``[t, d]``, vectors of the items that came next.
        candidates: float32 ``[c, d]``, negatives.
        correction: log(items / c); 0 where the candidates are the whole catalogue.

    Returns:
        float32 ``[t]``.
    """
    positive = tf.reduce_sum(outputs * targets, axis=1)
    negative = tf.reduce_logsumexp(tf.matmul(outputs, candidates, transpose_b=True), axis=1) + correction
    return tf.math.softplus(negative - positive)


def full_softmax_losses(outputs: Any, labels: Any, catalogue: Any) -> tf.Tensor:
    """Cross-entropy over the whole catalogue: float32 ``[t]`` from ``labels`` int32 ``[t]``, its rows."""
    logits = tf.matmul(outputs, catalogue, transpose_b=True)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def bpr_losses(outputs: Any, targets: Any, candidates: Any) -> tf.Tensor:
    """−log σ(positive − negative), mean over the negatives (Rendle et al. 2009): float32 ``[t]``."""
    positive = tf.reduce_sum(outputs * targets, axis=1, keepdims=True)
    negative = tf.matmul(outputs, candidates, transpose_b=True)
    return tf.reduce_mean(tf.math.softplus(negative - positive), axis=1)


def squared_losses(outputs: Any, targets: Any, values: Any) -> tf.Tensor:
    """(r − ⟨u, v⟩)² for ratings minus their mean: float32 ``[t]``."""
    return tf.square(values - tf.reduce_sum(outputs * targets, axis=1))
