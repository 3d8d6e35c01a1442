"""The ranking stage: a small cross network that orders the candidates of several scorers, with calibrated probabilities.

A blend weighs scorers alike for everybody. Here each layer multiplies features with one another (DCN v2, Wang et al. 2021,
eq. 1: x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l), so that one scorer may count for long histories, another for some genre.
What it says is added to the blend, so that with little to learn from it is the blend.
Features are of no item id and no user id. The network is trained in :mod:`client.training.reranker` and evaluated here in
numpy, so that a service that ranks needs no TensorFlow.

The stage changes the order of a list, not the scale of its scores: the candidate in place r gets the r-th highest of the
blend's scores. So a list may be merged with another whose scores are standardised in the same way.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from client.data.dataset import UserItemMatrix
from client.scoring.scorer import Scorer, z
from client.scoring.topk import top_k
from common.config.ranker import RankerConfig
from common.errors import ContractError

# log popularity, genre affinity, log history length, staleness.
_FURTHER = 4


@dataclass(frozen=True, eq=False)
class RankedItems:
    """Holds what the ranker knows of the m items.

    Attributes:
        log_popularity: float32 ``[m]``: log(1 + users who have the item).
        values: float32 ``[m, buckets + c]``: hashed genres and other categories, 0 or 1; behind them columns of numbers,
            vectors and texts, rows of length 1 at most.
    """

    log_popularity: NDArray[np.float32]
    values: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        counts: NDArray[np.number],
        values: Sequence[Sequence[str]],
        buckets: int,
        columns: NDArray[np.floating] | None = None,
    ) -> RankedItems:
        """Hash ``values`` (one sequence an item) and take logarithms of ``counts`` ``[m]``; noisy ones below 0 count 0.

        ``columns`` ``[m, c]`` are what else describes the items.
        """
        hashed = np.zeros((len(values), buckets), dtype=np.float32)
        for row, own in enumerate(values):
            for name in own:
                hashed[row, zlib.crc32(name.strip().casefold().encode()) % buckets] = 1.0
        if columns is not None:
            hashed = np.column_stack([hashed, columns.astype(np.float32)])
        return cls(np.log1p(np.maximum(counts.astype(np.float64), 0)).astype(np.float32), hashed)


@dataclass(frozen=True, eq=False)
class UserContext:
    """Holds what the ranker knows of k users.

    Attributes:
        taste: float32 ``[k, buckets + c]``: values of the history, of length 1.
        lengths: int ``[k]``: of the histories.
        newest: float64 ``[k]``: time of each one's newest interaction; NaN where nobody knows it.
    """

    taste: NDArray[np.float32]
    lengths: NDArray[np.int64]
    newest: NDArray[np.float64]

    @classmethod
    def of(cls, histories: UserItemMatrix, items: RankedItems) -> UserContext:
        """Of all rows of ``histories``, whose entries are in order of time."""
        taste = np.asarray(histories.csr() @ items.values)
        taste /= np.maximum(np.linalg.norm(taste, axis=1, keepdims=True), 1e-9)
        lengths = histories.row_lengths
        newest = np.full(len(lengths), np.nan)
        some = lengths > 0
        newest[some] = histories.times[histories.indptr[1:][some] - 1]
        return cls(taste.astype(np.float32), lengths, newest)


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranker:
    """A trained ranking stage, f features wide.

    Attributes:
        config: of the stage.
        parts: names of the scorers whose candidates it orders, in order of their features.
        items: of the catalogue.
        latest, span: time of the newest training interaction, and between it and the oldest (at least 1).
        mean, scale: float32 ``[f]``: standardise the features.
        kernels, biases: float32 ``[layers, f, f]``, ``[layers, f]``: W_l (inputs × outputs) and b_l.
        head, head_bias: float32 ``[f]``, and a number: the last, dense layer.
        blend_weight: of the scorers' mean standardised score, which is added.
        slope, intercept: a and b of Platt's calibration.
    """

    config: RankerConfig
    parts: tuple[str, ...]
    items: RankedItems
    latest: int
    span: int
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    kernels: NDArray[np.float32]
    biases: NDArray[np.float32]
    head: NDArray[np.float32]
    head_bias: float
    blend_weight: float
    slope: float = 1.0
    intercept: float = 0.0

    def raw(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64 ``[…]``: uncalibrated log-odds of ``features`` ``[…, f]``."""
        first = ((features - self.mean) / self.scale).astype(np.float32)
        x = first
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            x = first * (x @ kernel + bias) + x
        return (x @ self.head).astype(np.float64) + self.head_bias + self.blend_weight * self.blend(features)

    def blend(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 ``[…]``: the mean standardised score of all parts, from ``features`` ``[…, f]``."""
        blended: NDArray[np.float32] = features[..., : len(self.parts)].mean(axis=-1)
        return blended

    def log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64 ``[…]``: log-odds that the user chooses the item; they order alike as :meth:`raw` does."""
        return self.slope * self.raw(features) + self.intercept

    def features(
        self, context: UserContext, items: NDArray[np.integer], standard: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        """float32 ``[k, c, f]`` of each user's candidates.

        Args:
            context: of the k users.
            items: int ``[k, c]``.
            standard: float ``[k, c, P]``: each part's standardised score of each.
        """
        values = self.items.values[items]
        affinity = np.einsum("kcb,kb->kc", values, context.taste)
        # Whoever comes without times is here now.
        staleness = np.clip((self.latest - np.nan_to_num(context.newest, nan=self.latest)) / self.span, 0.0, 1.0)
        staleness = np.where(context.lengths > 0, staleness, 1.0)
        of_users = np.stack([np.log1p(context.lengths), staleness], axis=1)
        parts = [
            standard,
            self.items.log_popularity[items][:, :, None],
            affinity[:, :, None],
            np.broadcast_to(of_users[:, None], (*items.shape, 2)),
            values,
        ]
        return np.concatenate(parts, axis=2).astype(np.float32)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it by name, as a store keeps it; :meth:`of_arrays` is the way back."""
        found: dict[str, NDArray[Any]] = {name: np.asarray(getattr(self, name)) for name in _PLAIN}
        return found | {
            "config": np.array(self.config.model_dump_json()),
            "log_popularity": self.items.log_popularity,
            "genres": self.items.values,
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Ranker:
        """Raises KeyError or ValueError where something is missing or damaged."""
        plain: dict[str, Any] = {name: arrays[name] for name in _PLAIN}
        plain |= {name: int(arrays[name]) for name in ("latest", "span")}
        plain |= {name: float(arrays[name]) for name in ("head_bias", "blend_weight", "slope", "intercept")}
        return cls(
            **plain | {"parts": tuple(str(name) for name in arrays["parts"])},
            config=RankerConfig.model_validate_json(str(arrays["config"])),
            items=RankedItems(arrays["log_popularity"], arrays["genres"]),
        )


_PLAIN = tuple(field.name for field in fields(Ranker) if field.name not in ("config", "items"))


def width(n_parts: int, n_values: int) -> int:
    """f: features of a candidate of ``n_parts`` scorers, ``n_values`` of them the item's own."""
    return n_parts + _FURTHER + n_values


def candidate_order(tops: Sequence[NDArray[np.integer]], blended: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """int64 ``[≤ count]``: the best of every scorer, filled up with the blend's best; in no order.

    Args:
        tops: of each scorer, its best items, ``count`` over their number of each.
        blended: the blend's best ``count``, best first.
        count: candidates wanted.
    """
    best = np.unique(np.concatenate(tops))
    further = blended[~np.isin(blended, best)]
    return np.concatenate([best, further[: max(0, count - len(best))]]).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Of k users: items int32 ``[k, c]`` (−1 pads), features float32 ``[k, c, f]``, the blend's scores float32 ``[k, m]``."""

    items: NDArray[np.int32]
    features: NDArray[np.float32]
    blend: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RankedScorer:
    """Scores of a catalogue in which a user's best candidates are ordered by the ranker.

    Attributes:
        ranker: trained over these scorers.
        scorers: in the order of ``ranker.parts``; all over the same m items.
    """

    ranker: Ranker
    scorers: tuple[Scorer, ...]

    def __post_init__(self) -> None:
        if len(self.scorers) != len(self.ranker.parts):
            raise ContractError(
                f"the ranking stage orders candidates of {len(self.ranker.parts)} scorers, here are {len(self.scorers)}"
            )

    def candidates(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> Candidates:
        """Each scorer's best items, filled up with the blend's; none of a user's own history."""
        own = histories.select_users(np.asarray(users))
        standard = np.stack([z(scorer.scores(histories, users)) for scorer in self.scorers], axis=-1)
        blend = standard.mean(axis=-1)
        count = min(self.ranker.config.candidates, histories.n_items)
        each = max(1, count // len(self.scorers))
        tops = [top_k(np.ascontiguousarray(part), each, own)[0] for part in np.moveaxis(standard, -1, 0)]
        blended, _ = top_k(blend, count, own)
        items = np.full((len(own.row_lengths), count), -1, dtype=np.int32)
        for row, best in enumerate(blended):
            found = candidate_order([top[row][top[row] >= 0] for top in tops], best[best >= 0], count)
            items[row, : len(found)] = found
        safe = np.maximum(items, 0)
        features = self.ranker.features(
            UserContext.of(own, self.ranker.items), safe, np.take_along_axis(standard, safe[:, :, None], axis=1)
        )
        return Candidates(items, features, blend)

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]``: the blend's, given to the candidates anew in the ranker's order; other items below them."""
        found = self.candidates(histories, users)
        odds = self.ranker.log_odds(found.features)
        scores = found.blend.copy()
        for row, items in enumerate(found.items):
            kept = items[items >= 0]
            others = np.ones(scores.shape[1], dtype=np.bool_)
            others[kept] = False
            scores[row, kept] = in_order(odds[row, : len(kept)], found.blend[row, kept])
            if len(kept) and others.any():
                # A scorer's own favourite may stand below others in the blend.
                scores[row, others] -= max(0.0, found.blend[row, others].max() - found.blend[row, kept].min()) + 1.0
        return scores

    def probabilities(
        self, histories: UserItemMatrix, users: NDArray[np.integer]
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Candidates int32 ``[k, c]`` (−1 pads) and the probability float64 ``[k, c]`` that the user chooses each."""
        found = self.candidates(histories, users)
        return found.items, np.where(found.items >= 0, expit(self.ranker.log_odds(found.features)), 0.0)


def in_order(odds: NDArray[np.floating], scores: NDArray[np.floating]) -> NDArray[np.float32]:
    """float32 ``[c]``: ``scores`` dealt out anew, the highest to the item with the highest odds."""
    dealt = np.empty(len(scores), dtype=np.float32)
    dealt[np.argsort(-odds, kind="stable")] = np.sort(scores)[::-1]
    return dealt
