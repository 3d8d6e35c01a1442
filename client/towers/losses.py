"""Defines the losses of a two-tower model. Every loss is a mean over a user's own targets, then over users."""

from __future__ import annotations

from typing import Any

from keras import ops

from common.config.towers import TowerTraining


def choice_losses(
    training: TowerTraining, outputs: Any, *, targets: Any, labels: Any, candidates: Any, n_items: int
) -> Any:
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
    correction = ops.log(n_items / ops.cast(ops.shape(candidates)[0], "float32"))
    return softmax_losses(outputs, targets, candidates, correction)


def softmax_losses(outputs: Any, targets: Any, candidates: Any, correction: float = 0.0) -> Any:
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
    positive = ops.sum(outputs * targets, axis=1)
    negative = ops.logsumexp(ops.einsum("td,cd->tc", outputs, candidates), axis=1) + correction
    return ops.softplus(negative - positive)


def full_softmax_losses(outputs: Any, labels: Any, catalogue: Any) -> Any:
    """Cross-entropy over the whole catalogue: float32 ``[t]`` from ``labels`` int32 ``[t]``, its rows."""
    logits = ops.einsum("td,cd->tc", outputs, catalogue)
    return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def bpr_losses(outputs: Any, targets: Any, candidates: Any) -> Any:
    """−log σ(positive − negative), mean over the negatives (Rendle et al. 2009): float32 ``[t]``."""
    positive = ops.sum(outputs * targets, axis=1, keepdims=True)
    negative = ops.einsum("td,cd->tc", outputs, candidates)
    return ops.mean(ops.softplus(negative - positive), axis=1)


def squared_losses(outputs: Any, targets: Any, values: Any) -> Any:
    """(r − ⟨u, v⟩)² for ratings minus their mean: float32 ``[t]``."""
    return ops.square(values - ops.sum(outputs * targets, axis=1))
