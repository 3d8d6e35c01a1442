"""The ranking stage: a small cross network that orders the candidates of several scorers, with calibrated probabilities.

A blend weighs scorers alike for everybody. Here each layer multiplies features with one another (DCN v2, Wang et al. 2021,
eq. 1: x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l), so that one scorer may count for long histories, another for some genre.
Features are of no item id and no user id. It is trained at home; its weights are one dense update of fixed shape, so that
a federation would train it with the update kind of contribution (:mod:`common.privacy.updates`), as encoder weights are.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from client.data.dataset import UserItemMatrix
from client.data.split import random_per_user
from client.recommend.scorer import Scorer, z
from client.recommend.topk import block_rows, top_k
from common.config.ranker import RankerConfig
from common.errors import ContractError, DataError
from common.files import archive, read_archive, write_atomically

# log popularity, genre affinity, log history length, recency.
_FURTHER = 4


@dataclass(frozen=True, eq=False)
class RankedItems:
    """What the ranker knows of the m items.

    Attributes:
        log_popularity: float32 ``[m]``: log(1 + users who have the item).
        genres: float32 ``[m, buckets]``: hashed genres, 0 or 1.
    """

    log_popularity: NDArray[np.float32]
    genres: NDArray[np.float32]

    @classmethod
    def of(cls, counts: NDArray[np.number], genres: Sequence[Sequence[str]], buckets: int) -> RankedItems:
        """Hash ``genres`` (one sequence an item) and take logarithms of ``counts`` ``[m]``; noisy ones below 0 count 0."""
        hashed = np.zeros((len(genres), buckets), dtype=np.float32)
        for row, own in enumerate(genres):
            for name in own:
                hashed[row, zlib.crc32(name.strip().casefold().encode()) % buckets] = 1.0
        return cls(np.log1p(np.maximum(counts.astype(np.float64), 0)).astype(np.float32), hashed)


@dataclass(frozen=True, eq=False)
class _Block:
    """Some users' candidates: items int32 ``[k, c]`` (−1 pads), features float32 ``[k, c, f]``, base float32 ``[k, m]``."""

    items: NDArray[np.int32]
    features: NDArray[np.float32]
    base: NDArray[np.float32]


class Ranker:
    """Scores of a catalogue in which a user's best candidates are ordered by the cross network.

    Args:
        scorers: whose candidates are ordered; all over the same m items.
        items: of the catalogue.
        config: of the stage.
        latest: time of the newest training interaction.
        span: between it and the oldest, at least 1.
    """

    def __init__(
        self, scorers: Sequence[Scorer], items: RankedItems, config: RankerConfig, *, latest: int = 0, span: int = 1
    ) -> None:
        self._scorers, self._items, self._config = tuple(scorers), items, config
        self._latest, self._span = latest, span
        width = len(self._scorers) + _FURTHER + items.genres.shape[1]
        self._mean, self._scale = np.zeros(width, dtype=np.float32), np.ones(width, dtype=np.float32)
        self._network = _network(width, config)
        self._slope, self._intercept = 1.0, 0.0

    @classmethod
    def fit(cls, scorers: Sequence[Scorer], train: UserItemMatrix, items: RankedItems, config: RankerConfig) -> Ranker:
        """Train on a platform's own training interactions, validation and test left out by whoever calls.

        A share of each user's interactions is taken out of the history that the scorers see; the network learns to tell
        these from other candidates of the same user. The probabilities are then calibrated on other users.

        Args:
            scorers: trained.
            train: n × m.
            items: of the m items.
            config: of the stage.

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
        times = train.times if train.nnz else np.zeros(1, dtype=np.int64)
        latest, span = int(times.max()), max(1, int(times.max() - times.min()))
        ranker = cls(scorers, items, config, latest=latest, span=span)
        features, labels = ranker._examples(history, truth, users[n_calibration:], rng)
        if not 0 < labels.sum() < len(labels):
            raise DataError("the ranking stage: no scorer's candidates hold what users chose; leave it out")
        ranker._train(features, labels)
        ranker._calibrate(history, truth, users[:n_calibration])
        return ranker

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]``: calibrated log-odds of the candidates; the other items below them, in the blend's order."""
        block = self._block(histories, users)
        logits = self._log_odds(block.features)
        kept = block.items >= 0
        lowest = np.where(kept, logits, np.inf).min(axis=1, initial=np.inf, keepdims=True)
        lowest = np.where(np.isfinite(lowest), lowest, 0.0)
        scores = block.base - block.base.max(axis=1, keepdims=True) + (lowest - 1.0)
        rows, columns = np.nonzero(kept)
        scores[rows, block.items[rows, columns]] = logits[rows, columns]
        ranked: NDArray[np.float32] = scores.astype(np.float32)
        return ranked

    def probabilities(
        self, histories: UserItemMatrix, users: NDArray[np.integer]
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Candidates int32 ``[k, c]`` (−1 pads) and the probability float64 ``[k, c]`` that the user chooses each."""
        block = self._block(histories, users)
        return block.items, np.where(block.items >= 0, expit(self._log_odds(block.features)), 0.0)

    def save(self, path: Path) -> None:
        """Write weights and item features; the scorers are saved by whoever made them.

        Raises:
            StoreError: it cannot be written.
        """
        arrays: dict[str, NDArray[Any]] = {f"weight_{i}": w for i, w in enumerate(self._network.get_weights())}
        arrays |= {"log_popularity": self._items.log_popularity, "genres": self._items.genres}
        arrays |= {"mean": self._mean, "scale": self._scale, "times": np.array([self._latest, self._span])}
        arrays |= {
            "platt": np.array([self._slope, self._intercept]),
            "config": np.array(self._config.model_dump_json()),
        }
        write_atomically(path, archive(arrays))

    @classmethod
    def load(cls, path: Path, scorers: Sequence[Scorer]) -> Ranker:
        """Read what :meth:`save` wrote, over the same scorers in the same order.

        Raises:
            StoreError: the file is not there, or damaged.
            ContractError: it was trained over another number of scorers.
        """
        arrays = read_archive(path)
        config = RankerConfig.model_validate_json(str(arrays["config"]))
        latest, span = (int(value) for value in arrays["times"])
        items = RankedItems(arrays["log_popularity"], arrays["genres"])
        ranker = cls(scorers, items, config, latest=latest, span=span)
        if len(arrays["mean"]) != len(ranker._mean):
            known = len(arrays["mean"]) - _FURTHER - items.genres.shape[1]
            raise ContractError(f"{path}: orders candidates of {known} scorers, here are {len(ranker._scorers)}")
        ranker._network.set_weights([arrays[f"weight_{i}"] for i in range(len(ranker._network.get_weights()))])
        ranker._mean, ranker._scale = arrays["mean"], arrays["scale"]
        ranker._slope, ranker._intercept = (float(value) for value in arrays["platt"])
        return ranker

    def _block(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> _Block:
        """Candidates are each scorer's best, filled up with the blend's."""
        own = histories.select_users(np.asarray(users))
        standard = np.stack([z(scorer.scores(histories, users)) for scorer in self._scorers], axis=-1)
        base = standard.mean(axis=-1)
        count = min(self._config.candidates, histories.n_items)
        first = base - base.min(axis=1, keepdims=True)
        above = first.max(axis=1, keepdims=True) + 1.0
        best = np.zeros(base.shape, dtype=np.bool_)
        for place in range(len(self._scorers)):
            top, _ = top_k(np.ascontiguousarray(standard[:, :, place]), max(1, count // len(self._scorers)), own)
            rows, columns = np.nonzero(top >= 0)
            best[rows, top[rows, columns]] = True
        items, _ = top_k((first + best * above).astype(np.float32), count, own)
        return _Block(items, self._features(own, np.maximum(items, 0), standard), base)

    def _features(
        self, own: UserItemMatrix, items: NDArray[np.int32], standard: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """float32 ``[k, c, f]``: z scores, log popularity, genre affinity, history length, recency, genres."""
        genres = self._items.genres[items]
        profile = np.asarray(own.csr() @ self._items.genres)
        profile /= np.maximum(np.linalg.norm(profile, axis=1, keepdims=True), 1e-9)
        affinity = np.einsum("kcb,kb->kc", genres, profile)
        lengths = own.row_lengths
        last = np.full(len(items), self._latest - self._span, dtype=np.int64)
        some = lengths > 0
        last[some] = own.times[own.indptr[1:][some] - 1]
        of_users = np.stack([np.log1p(lengths), np.clip((self._latest - last) / self._span, 0.0, 1.0)], axis=1)
        parts = [
            np.take_along_axis(standard, items[:, :, None], axis=1),
            self._items.log_popularity[items][:, :, None],
            affinity[:, :, None],
            np.broadcast_to(of_users[:, None], (*items.shape, 2)),
            genres,
        ]
        return np.concatenate(parts, axis=2).astype(np.float32)

    def _lists(
        self, history: UserItemMatrix, truth: UserItemMatrix, users: NDArray[np.integer]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Of each user: features float32 ``[c, f]`` of the candidates, and which of them the user chose."""
        lists = []
        for start in range(0, len(users), step := block_rows(history.n_items)):
            some = users[start : start + step]
            block = self._block(history, some)
            for row, user in enumerate(some):
                kept = block.items[row] >= 0
                lists.append((block.features[row][kept], np.isin(block.items[row][kept], truth.row(int(user)))))
        return lists

    def _examples(
        self, history: UserItemMatrix, truth: UserItemMatrix, users: NDArray[np.integer], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Chosen candidates, and for each some of the same user's others."""
        features, labels = [], []
        for of_items, chosen in self._lists(history, truth, users):
            others = np.flatnonzero(~chosen)
            drawn = rng.permutation(others)[: self._config.negatives * int(chosen.sum())]
            rows = np.concatenate([np.flatnonzero(chosen), drawn])
            features.append(of_items[rows])
            labels.append(chosen[rows])
        return np.concatenate(features), np.concatenate(labels)

    def _train(self, features: NDArray[np.float32], labels: NDArray[np.bool_]) -> None:
        self._mean = features.mean(axis=0)
        deviation = features.std(axis=0)
        self._scale = np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)
        standard = (features - self._mean) / self._scale
        self._network.fit(
            standard, labels.astype(np.float32), batch_size=self._config.batch, epochs=self._config.epochs, verbose=0
        )

    def _calibrate(self, history: UserItemMatrix, truth: UserItemMatrix, users: NDArray[np.integer]) -> None:
        """Platt's a, b (Platt 1999) on whole lists: training drew negatives, which shifts the odds."""
        lists = self._lists(history, truth, users)
        labels = np.concatenate([chosen for _, chosen in lists])
        raw = self._raw(np.concatenate([of_items for of_items, _ in lists]))
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
        self._slope, self._intercept = (float(value) for value in found.x)

    def _raw(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64 ``[…]``: the network's uncalibrated log-odds of ``features`` ``[…, f]``."""
        flat = ((features - self._mean) / self._scale).reshape(-1, features.shape[-1])
        out = np.asarray(self._network(flat), dtype=np.float64) if len(flat) else np.zeros(0)
        return out.reshape(features.shape[:-1])

    def _log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._slope * self._raw(features) + self._intercept


def _network(width: int, config: RankerConfig) -> Any:
    import keras
    import keras_rs

    keras.utils.set_random_seed(config.seed)
    first = keras.Input((width,))
    x = first
    for _ in range(config.layers):
        x = keras_rs.layers.FeatureCross(kernel_initializer="glorot_uniform")(first, x)
    network = keras.Model(first, keras.layers.Dense(1)(x))
    optimizer = keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay)
    network.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))
    return network
