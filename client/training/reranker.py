"""Trains the ranking stage (:mod:`client.scoring.reranker`) at home, on a platform's own training interactions.

Its weights are one dense update of fixed shape, so that a federation would train it with the update kind of contribution
(:mod:`common.contributions.updates`), as encoder weights are; what a list looks like differs between platforms, so it
stays home.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from client.data.dataset import UserItemMatrix
from client.data.split import random_per_user
from client.scoring.reranker import RankedItems, RankedScorer, Ranker, width
from client.scoring.scorer import Scorer
from client.scoring.topk import block_rows
from common.config.ranker import RankerConfig
from common.errors import DataError

_Examples: TypeAlias = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Features ``[k, f]``, and whether the user chose the item, ``[k]``."""


def fit_ranker(
    scorers: Mapping[str, Scorer],
    train: UserItemMatrix,
    items: RankedItems,
    config: RankerConfig,
    *,
    refitted: Callable[[UserItemMatrix], Mapping[str, Scorer]] = lambda _: {},
) -> RankedScorer:
    """Train on a platform's own training interactions, validation and test left out by whoever calls.

    A share of each user's interactions is taken out of the history that the scorers see; the network learns to tell
    these from other candidates of the same user. It begins as the blend of all scorers, and stops where other users' loss
    no longer falls; on these the probabilities are then calibrated.

    Args:
        scorers: trained, by name.
        train: n × m.
        items: of the m items.
        config: of the stage.
        refitted: scorers by name, trained on the interactions it is given; they stand in for those of the same name while
            the network learns. A scorer that was trained on what is taken out looks better there than it will be.

    Raises:
        DataError: too few users have two interactions, or no scorer finds anything that was taken out.
    """
    rng = np.random.default_rng(config.seed)
    split = random_per_user(train, rng=rng, test_share=config.withheld, validation_users_share=0.0)
    history, truth = split.test.history, split.test.truth
    users = rng.permutation(np.flatnonzero(truth.row_lengths))
    n_calibration = max(1, round(config.calibration_users * len(users)))
    if len(users) <= n_calibration:
        raise DataError(f"the ranking stage needs users with two interactions, here are {len(users)}; leave it out")
    learnt_from = {**scorers, **refitted(split.train)}
    untrained = RankedScorer(_untrained(tuple(scorers), train, items, config), tuple(learnt_from[n] for n in scorers))
    examples = _examples(untrained, history, truth, users[n_calibration:], rng)
    others = _examples(untrained, history, truth, users[:n_calibration], rng)
    if not 0 < examples[1].sum() < len(examples[1]):
        raise DataError("the ranking stage: no scorer's candidates hold what users chose; leave it out")
    trained = replace(untrained, ranker=_trained(untrained.ranker, examples, others))
    slope, intercept = _calibration(trained, history, truth, users[:n_calibration])
    ranker = replace(trained.ranker, slope=slope, intercept=intercept)
    return RankedScorer(ranker, tuple(scorers.values()))


def _untrained(parts: tuple[str, ...], train: UserItemMatrix, items: RankedItems, config: RankerConfig) -> Ranker:
    f = width(len(parts), items.values.shape[1])
    times = train.times if train.nnz else np.zeros(1, dtype=np.int64)
    return Ranker(
        config=config,
        parts=parts,
        items=items,
        latest=int(times.max()),
        span=max(1, int(times.max() - times.min())),
        mean=np.zeros(f, dtype=np.float32),
        scale=np.ones(f, dtype=np.float32),
        kernels=np.zeros((config.layers, f, f), dtype=np.float32),
        biases=np.zeros((config.layers, f), dtype=np.float32),
        head=np.zeros(f, dtype=np.float32),
        head_bias=0.0,
        blend_weight=1.0,
    )


def _lists(
    scorer: RankedScorer, history: UserItemMatrix, truth: UserItemMatrix, users: NDArray[np.integer]
) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Of each user: features float32 ``[c, f]`` of the candidates, and which of them the user chose."""
    lists = []
    for start in range(0, len(users), step := block_rows(history.n_items)):
        some = users[start : start + step]
        found = scorer.candidates(history, some)
        for row, user in enumerate(some):
            kept = found.items[row] >= 0
            lists.append((found.features[row][kept], np.isin(found.items[row][kept], truth.row(int(user)))))
    return lists


def _examples(
    scorer: RankedScorer,
    history: UserItemMatrix,
    truth: UserItemMatrix,
    users: NDArray[np.integer],
    rng: np.random.Generator,
) -> _Examples:
    """Chosen candidates, and for each some of the same user's others."""
    features, labels = [], []
    for of_items, chosen in _lists(scorer, history, truth, users):
        others = np.flatnonzero(~chosen)
        drawn = rng.permutation(others)[: scorer.ranker.config.negatives * int(chosen.sum())]
        rows = np.concatenate([np.flatnonzero(chosen), drawn])
        features.append(of_items[rows])
        labels.append(chosen[rows])
    return np.concatenate(features), np.concatenate(labels)


def _trained(ranker: Ranker, examples: _Examples, others: _Examples) -> Ranker:
    import keras

    features, labels = examples
    deviation = features.std(axis=0)
    scaled = replace(
        ranker,
        mean=features.mean(axis=0),
        scale=np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32),
    )
    slope, intercept = _platt(ranker.blend(features).astype(np.float64), labels)
    config, network = ranker.config, _Network(features.shape[1], ranker.config, slope, intercept)
    network.model.fit(
        _inputs(scaled, features),
        labels.astype(np.float32),
        batch_size=config.batch,
        epochs=config.epochs,
        validation_data=(_inputs(scaled, others[0]), others[1].astype(np.float32)),
        callbacks=[keras.callbacks.EarlyStopping(patience=config.patience, restore_best_weights=True)],
        verbose=0,
    )
    return network.into(scaled)


def _inputs(ranker: Ranker, features: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The network's: standardised features ``[k, f]``, and the blend ``[k, 1]``."""
    return [(features - ranker.mean) / ranker.scale, ranker.blend(features)[:, None]]


class _Network:
    """The Keras model: w·blend + head(cross layers).

    It begins as the calibrated blend, a head of zeros beside it. Not calibrated, the first steps would bring the odds down
    by whatever weight there is, and lose the blend's order.
    """

    def __init__(self, features: int, config: RankerConfig, slope: float, intercept: float) -> None:
        import keras
        import keras_rs

        keras.utils.set_random_seed(config.seed)
        first, blend = keras.Input((features,)), keras.Input((1,))
        self._crosses = [
            keras_rs.layers.FeatureCross(kernel_initializer="glorot_uniform") for _ in range(config.layers)
        ]
        self._head = keras.layers.Dense(
            1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(intercept)
        )
        self._blend = keras.layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(slope))
        x = first
        for cross in self._crosses:
            x = cross(first, x)
        self.model = keras.Model([first, blend], keras.layers.Add()([self._head(x), self._blend(blend)]))
        optimizer = keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay)
        self.model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))

    def into(self, ranker: Ranker) -> Ranker:
        """``ranker`` with the weights of this."""
        weights = [cross.get_weights() for cross in self._crosses]
        kernel, bias = self._head.get_weights()
        return replace(
            ranker,
            kernels=np.stack([w for w, _ in weights]),
            biases=np.stack([b for _, b in weights]),
            head=kernel[:, 0],
            head_bias=float(bias[0]),
            blend_weight=float(self._blend.get_weights()[0][0, 0]),
        )


def _calibration(
    scorer: RankedScorer, history: UserItemMatrix, truth: UserItemMatrix, users: NDArray[np.integer]
) -> tuple[float, float]:
    """On whole lists: training drew negatives, which shifts the odds."""
    lists = _lists(scorer, history, truth, users)
    labels = np.concatenate([chosen for _, chosen in lists])
    return _platt(scorer.ranker.raw(np.concatenate([of_items for of_items, _ in lists])), labels)


def _platt(raw: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[float, float]:
    """a, b that make a·raw + b log-odds (Platt 1999)."""
    # Platt's targets, without which a few perfectly ordered lists would send a to infinity.
    positives, negatives = int(labels.sum()), int((~labels).sum())
    target = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(ab: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = ab[0] * raw + ab[1]
        error = expit(odds) - target
        value = -np.mean(target * log_expit(odds) + (1 - target) * log_expit(-odds))
        return float(value), np.array([np.mean(error * raw), np.mean(error)])

    # a stays above 0: calibration must not turn the order around.
    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(1e-3, 100.0), (None, None)])
    return float(found.x[0]), float(found.x[1])
