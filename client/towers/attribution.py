"""Why the deep model gives an item its score: integrated gradients over the history's items and the item's attributes.

For inputs x and a baseline x′, the attribution of input i is (x_i − x′_i) · ∫₀¹ ∂f(x′ + α(x − x′))/∂x_i dα (Sundararajan et al.
2017, eq. 1). Attributions sum up to f(x) − f(x′) (completeness, ibid. prop. 1), which is checked on every explanation. The
integral is a Gauss-Legendre sum: scores are smooth along the path, so that few nodes do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from client.towers.backends.functions import input_gradients
from client.towers.features import ItemFeatures
from client.towers.two_tower import TwoTower

Scores = Callable[[Sequence[Any]], Any]

ID_ROW = "id"
"""The part of an item's vector that is its own, beside those of its attributes."""

_AT_ONCE = 64
_MOST_NODES = 1024


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegratedGradients:
    """Attributions of all inputs.

    Attributes:
        parts: float64 per input, of the input's shape.
        value: f(x).
        baseline: f(x′).
        nodes: of the quadrature.
    """

    parts: list[NDArray[np.float64]]
    value: float
    baseline: float
    nodes: int

    @property
    def gap(self) -> float:
        """By how much the attributions miss value − baseline: the error of the quadrature."""
        return float(sum(part.sum() for part in self.parts)) - (self.value - self.baseline)


@dataclass(frozen=True, eq=False, kw_only=True)
class Attribution:
    """Holds what one score is made of: ``score = baseline + history.sum() + Σ attributes − gap``.

    Attributes:
        score: of the item for the user.
        baseline: what an empty history gives an item without any vector.
        history: float64 ``[n]``: contribution of each item of the history, oldest first; 0 of those that are too old to be
            read or that the model does not have.
        attributes: contribution of each encoder by attribute, and of the item's own row under ``id``; 0 where missing.
        gap: error of the quadrature.
    """

    score: float
    baseline: float
    history: NDArray[np.float64]
    attributes: dict[str, float]
    gap: float


def integrated_gradients(
    scores: Scores,
    inputs: Sequence[NDArray[np.floating]],
    baselines: Sequence[NDArray[np.floating]] | None = None,
    *,
    nodes: int = 32,
    tolerance: float = 1e-3,
) -> IntegratedGradients:
    """Attribute ``scores(inputs)``; nodes are doubled until completeness holds to ``tolerance``, up to 1024.

    Args:
        scores: differentiable; from float32 inputs with a leading axis ``[s, …]`` to float32 ``[s]``, each row by itself.
        inputs: x, without the leading axis.
        baselines: x′ of the same shapes; zeros unless given.
        nodes: of the first try.
        tolerance: of the gap, relative to |value − baseline| or, where that is smaller, to the sum of |attributions|.
    """
    x = [np.asarray(one, dtype=np.float32) for one in inputs]
    start = [np.zeros_like(one) for one in x] if baselines is None else [np.asarray(b, np.float32) for b in baselines]
    ends = scores([ops.convert_to_tensor(np.stack([b, one])) for b, one in zip(start, x, strict=True)])
    baseline, value = (float(one) for one in ops.convert_to_numpy(ends))
    while True:
        found = IntegratedGradients(
            parts=_integrate(scores, x, start, nodes), value=value, baseline=baseline, nodes=nodes
        )
        size = max(abs(value - baseline), float(sum(np.abs(part).sum() for part in found.parts)))
        if abs(found.gap) <= tolerance * size or nodes >= _MOST_NODES:
            return found
        nodes *= 2


def attribute_product(
    model: TwoTower, read: NDArray[np.floating], parts: Mapping[str, NDArray[np.floating]], *, user: int = -1
) -> Attribution:
    """Return what ⟨user vector, Σ parts⟩ is made of.

    Both sides grow together from nothing: the baseline is a history of zero vectors and an item of zero vector. The user
    embedding and profile, where there are any, stay as they are: they are not explained, and never named.

    Args:
        model: trained.
        read: float ``[n, d]``: vectors of the history's items, oldest first.
        parts: float ``[d]`` by name: what the item's vector is the sum of.
        user: the user's row, for what is private of them; −1 is somebody unknown.
    """
    # Without a sequence encoder the history says nothing.
    length = max(model.config.sequence.length, 2) if model.config.sequence.kind != "none" else 0
    n = min(len(read), length)
    width = max(n, 2)
    embedded = np.zeros((width, model.config.dimension), dtype=np.float32)
    embedded[:n] = read[len(read) - n :]

    def scores(inputs: Sequence[Any]) -> Any:
        of_history, of_item = inputs
        batch = int(of_history.shape[0])
        places = np.where(np.arange(width) < n, np.arange(width) + width * np.arange(batch)[:, None], -1)
        users = model.user_vectors(
            ops.full((batch,), user, dtype="int32"),
            ops.convert_to_tensor(places, dtype="int32"),
            ops.full((batch,), n, dtype="int32"),
            ops.reshape(of_history, (batch * width, -1)),
        )
        return ops.sum(users * ops.sum(of_item, axis=1), axis=1)

    found = integrated_gradients(scores, [embedded, np.stack([*parts.values()])])
    history = np.zeros(len(read))
    history[len(read) - n :] = found.parts[0].sum(axis=1)[:n]
    shares = found.parts[1].sum(axis=1)
    return Attribution(
        score=found.value,
        baseline=found.baseline,
        history=history,
        attributes={name: float(share) for name, share in zip(parts, shares, strict=True)},
        gap=found.gap,
    )


def explain_score(
    model: TwoTower, features: ItemFeatures, history: NDArray[np.integer], item: int, *, user: int = -1
) -> Attribution:
    """Contributions of the history's items and of the item's attributes to score(user, item).

    Args:
        model: trained, with its encoders.
        features: that it was made with.
        history: int ``[n]``, oldest first: the model's row of each item, −1 for one that it does not have.
        item: the model's row of the scored item.
        user: as in :func:`attribute_product`.
    """
    known = np.flatnonzero(np.asarray(history) >= 0)
    vectors = ops.convert_to_numpy(model.item_vectors())
    names, parts = _item_parts(model, features, item, vectors[item])
    found = attribute_product(
        model, vectors[np.asarray(history)[known]], dict(zip(names, parts, strict=True)), user=user
    )
    of_history = np.zeros(len(history))
    of_history[known] = found.history
    return replace(found, history=of_history)


def _item_parts(
    model: TwoTower, features: ItemFeatures, item: int, whole: NDArray[np.float32]
) -> tuple[list[str], NDArray[np.float32]]:
    """Names of the parts of an item's vector, and the parts float32 ``[parts, d]``, which add up to ``whole``."""
    names, parts = [], []
    for feature, reader in zip(features.features, model.content.readers, strict=True):
        encoded = ops.convert_to_numpy(reader(ops.convert_to_tensor(feature.values[item : item + 1])))[0]
        names.append(feature.config.attribute)
        parts.append(encoded if feature.present[item] else np.zeros_like(whole))
    rest = whole - np.sum(parts, axis=0) if parts else whole
    return [*names, ID_ROW], np.stack([*parts, rest])


def _integrate(
    scores: Scores, x: Sequence[NDArray[np.float32]], start: Sequence[NDArray[np.float32]], nodes: int
) -> list[NDArray[np.float64]]:
    """(x − x′) times the mean gradient along the path, per input."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    alphas, weights = (places + 1) / 2, weights / 2
    means = [np.zeros(one.shape) for one in x]
    for first in range(0, nodes, _AT_ONCE):
        some, of_some = alphas[first : first + _AT_ONCE], weights[first : first + _AT_ONCE]
        path = [
            (b + some.reshape(-1, *[1] * one.ndim) * (one - b)).astype(np.float32)
            for b, one in zip(start, x, strict=True)
        ]
        for place, gradient in enumerate(input_gradients(scores, path)):
            means[place] += np.tensordot(of_some, gradient.astype(np.float64), axes=1)
    return [(one.astype(np.float64) - b) * mean for one, b, mean in zip(x, start, means, strict=True)]
