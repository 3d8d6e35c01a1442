"""After the last round: the platform's own models, and the verdict which of them ranks its own items.

A silo trusts itself, so its local model needs no noise and is the baseline that counts. It is tuned on the validation
users with the same search and the same number of candidates as the anchored model that competes with it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice
from client.data.training import TrainingData
from client.elsewhere import Elsewhere
from client.evaluation import Candidate, PerUserMetrics, choose_verdict, evaluate
from client.platform_model import FactorModel, ItemDescriptions, OwnVerdict, PlatformModel
from client.recommend.scorer import BlendScorer, Scorer, SolvedFactorScorer
from client.recommend.topk import block_rows
from client.tower_model import TowerModel
from client.training.als import rating_sum_and_count
from client.training.fit import fit
from client.training.local import fit_anchored
from client.training.tuning import SearchSpace, tune_anchored, tune_local
from common.config.model import AnchoredConfig, FactorizationConfig
from common.config.platform import PersonalizationConfig, shipped_weights

if TYPE_CHECKING:
    from client.models.scorer import TowerScorer

RATING_METRIC = "-rmse"


@dataclass(frozen=True, eq=False, kw_only=True)
class FederationView:
    """What the federation has told this platform: everything of a :class:`PlatformModel` that is not its own."""

    server_round: int
    private: bool
    platforms: tuple[str, ...]
    vocabulary: ItemDescriptions
    cards: ItemDescriptions
    owners: NDArray[np.bool_]
    own_positions: NDArray[np.int32]
    shared: FactorModel
    elsewhere: NDArray[np.float64]
    towers: TowerModel | None = None


class Personalizer:
    """Builds a platform's model from its own data and what the federation learned.

    Args:
        platform: its name.
        data: training interactions and the validation slice.
        model: feedback, solver and backend of local training; its other hyperparameters are tuned.
        config: what to try.
    """

    def __init__(
        self, platform: str, data: TrainingData, model: FactorizationConfig, config: PersonalizationConfig
    ) -> None:
        self._platform = platform
        self._data = data
        self._base = model
        self._config = config
        self._held_out = _only_users(data.validation)
        self._local: _Tuned | None = None

    def build(self, view: FederationView) -> PlatformModel:
        """Train the platform's own models, choose between them and the shared one, and put it all together."""
        local = self._tuned_local()
        anchored = self._anchored(view) if self._config.anchored and (view.own_positions >= 0).any() else None
        elsewhere = self._elsewhere(view)
        beta, attribute_weight = shipped_weights(self._config, private=view.private)
        undecided = OwnVerdict(
            name="local", weight=None, metric=self._config.metric, local_mean=0.0, chosen_mean=0.0, interval=(0.0, 0.0)
        )
        model = PlatformModel(
            platform=self._platform,
            server_round=view.server_round,
            platforms=view.platforms,
            vocabulary=view.vocabulary,
            owners=view.owners,
            shared=view.shared,
            elsewhere=elsewhere.demand(self._data),
            own=describe(self._data),
            own_positions=view.own_positions,
            local=local.model,
            anchored=None if anchored is None else anchored.model,
            verdict=undecided,
            beta=beta,
            user_ids=self._data.user_ids,
            histories=self._data.known,
            towers=view.towers,
            tower_weight=self._config.tower_weight if view.towers is not None else 0.0,
            attributes=elsewhere.attributes(self._data) if self._config.attributes else None,
            attribute_weight=attribute_weight,
        )
        return replace(model, verdict=self._judge(model, local, anchored))

    def _elsewhere(self, view: FederationView) -> Elsewhere:
        others = [column for column, name in enumerate(view.platforms) if name != self._platform]
        return Elsewhere(
            own_positions=view.own_positions,
            others=np.any(view.owners[:, others], axis=1),
            cards=view.cards,
            item_counts=view.elsewhere,
            private=view.private,
        )

    def local(self) -> FactorModel:
        """The local model, tuned and trained once: it does not depend on the federation."""
        return self._tuned_local().model

    def _tuned_local(self) -> _Tuned:
        if self._local is None:
            train, trials = self._data.train, _Trials(self._measure)
            tuned = tune_local(
                train,
                self._held_out.history,
                trials,
                self._rng("tune local"),
                budget=self._config.tuning_candidates,
                base=_frugal(self._base),
                space=_space(train),
            )
            fitted = fit(train, tuned.config, self._rng("local"))
            model = FactorModel(item_parameters=fitted.item_factors, config=tuned.config, value_mean=self._value_mean())
            self._local = _Tuned(model, trials.cross_fitted(self._rng("folds")))
        return self._local

    def _anchored(self, view: FederationView) -> _Tuned:
        prior = np.zeros((self._data.train.n_items, view.shared.item_parameters.shape[1]), dtype=np.float32)
        known = np.flatnonzero(view.own_positions >= 0)
        prior[known] = view.shared.item_parameters[view.own_positions[known]]
        base = AnchoredConfig(**_frugal(view.shared.config).model_dump())
        train, trials = self._data.train, _Trials(self._measure)
        tuned = tune_anchored(
            train,
            self._held_out.history,
            trials,
            self._rng("tune anchored"),
            prior,
            budget=self._config.tuning_candidates,
            base=base,
            space=_space(train),
        )
        assert isinstance(tuned.config, AnchoredConfig)
        fitted = fit_anchored(train, prior, tuned.config, self._rng("anchored"))
        width = tuned.config.dimension + tuned.config.free_dimensions
        plain = tuned.config.model_dump(include=set(FactorizationConfig.model_fields)) | {"dimension": width}
        model = FactorModel(
            item_parameters=fitted.item_factors,
            config=FactorizationConfig.model_validate(plain),
            value_mean=self._value_mean(),
        )
        return _Tuned(model, trials.cross_fitted(self._rng("folds")))

    def _judge(self, model: PlatformModel, local: _Tuned, anchored: _Tuned | None) -> OwnVerdict:
        """Compare all candidates with the local model on the validation users (never on test).

        A model that was tuned on these users looks better on them than it is; the shared one was not. So tuned models
        count with what they reach on users who had no say in their tuning. A blend has the local model in it: its gain
        over that, as it is, is added to what the local model counts.
        """
        candidates: list[Candidate] = []
        if (model.own_positions >= 0).any():
            scorer, shared = model.own_scorer("local"), model.own_scorer("shared")
            candidates.append(Candidate("shared", None, self._measure(shared)))
            if self._base.feedback == "implicit":
                plain = self._values(self._measure(scorer))
                for w in self._config.blend_weights:
                    gain = self._values(self._measure(BlendScorer(scorer, shared, w))) - plain
                    candidates.append(Candidate("blend", w, self._of_users(local.values + gain)))
        if model.towers is not None:
            candidates += self._tower_candidates(model, local)
        if anchored is not None:
            candidates.append(Candidate("anchored", None, self._of_users(anchored.values)))
        verdict = choose_verdict(
            self._of_users(local.values),
            candidates,
            metric=self._metric,
            rng=self._rng("verdict"),
            level=self._config.verdict_level,
        )
        return OwnVerdict(
            name=verdict.name,
            weight=verdict.weight,
            metric=verdict.metric,
            local_mean=verdict.local_mean,
            chosen_mean=verdict.chosen_mean,
            interval=(verdict.interval.lower, verdict.interval.upper),
        )

    def _tower_candidates(self, model: PlatformModel, local: _Tuned) -> list[Candidate]:
        """The deep model alone, and blended into the local one. Nothing of it was tuned on the validation users."""
        assert model.towers is not None
        own, deep = model.own_scorer("local"), _RowwiseScorer(model.towers.on_own(), self._data.validation.users)
        candidates = [Candidate("towers", None, self._measure(deep))]
        if self._base.feedback == "implicit":
            plain = self._values(self._measure(own))
            for w in self._config.blend_weights:
                gain = self._values(self._measure(BlendScorer(own, deep, w))) - plain
                candidates.append(Candidate("tower_blend", w, self._of_users(local.values + gain)))
        return candidates

    @property
    def _metric(self) -> str:
        return self._config.metric if self._base.feedback == "implicit" else RATING_METRIC

    def _measure(self, scorer: Scorer) -> PerUserMetrics:
        if self._base.feedback == "explicit":
            return rating_accuracy(scorer, self._held_out)
        return evaluate(scorer, self._held_out, metrics=(self._metric,), depth=20)

    def _values(self, measured: PerUserMetrics) -> NDArray[np.float64]:
        return measured.values[self._metric]

    def _of_users(self, values: NDArray[np.float64]) -> PerUserMetrics:
        users = self._held_out.users
        return PerUserMetrics(users[self._held_out.truth.row_lengths[users] > 0], {self._metric: values}, None)

    def _value_mean(self) -> float:
        total, count = rating_sum_and_count(self._data.train)
        return total / count if count and self._base.feedback == "explicit" else 0.0

    def _rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self._config.seed, zlib.crc32(f"{self._platform}/{purpose}".encode())])


@dataclass(frozen=True, eq=False)
class _Tuned:
    """A tuned model, and what its tuning reaches on each validation user without that user's say: float64 ``[k]``."""

    model: FactorModel
    values: NDArray[np.float64]


class _Trials:
    """Scores candidates on the validation users and remembers every user's value."""

    def __init__(self, measure: Callable[[Scorer], PerUserMetrics]) -> None:
        self._measure = measure
        self._values: list[NDArray[np.float64]] = []

    def __call__(self, user_factors: NDArray[np.float32], item_factors: NDArray[np.float32]) -> float:
        (values,) = self._measure(SolvedFactorScorer(user_factors, item_factors)).values.values()
        self._values.append(values)
        return float(values.mean()) if len(values) else 0.0

    def cross_fitted(self, rng: np.random.Generator, folds: int = 10) -> NDArray[np.float64]:
        """float64 ``[k]``: each user's value under the candidate that is best for the users of the other folds."""
        values = np.stack(self._values)
        fold = rng.permutation(values.shape[1]) % folds
        chosen = np.empty(values.shape[1])
        for number in np.unique(fold):
            others = values[:, fold != number]
            best = int(np.argmax(others.mean(axis=1))) if others.shape[1] else 0
            chosen[fold == number] = values[best, fold == number]
        return chosen


def _only_users(held_out: EvaluationSlice) -> EvaluationSlice:
    """The slice with its users' rows alone: nobody else's factor need be solved to look at it."""
    rows = np.arange(len(held_out.users))
    return EvaluationSlice(
        rows, held_out.history.select_users(held_out.users), held_out.truth.select_users(held_out.users)
    )


def _frugal(config: FactorizationConfig) -> FactorizationConfig:
    """Conjugate gradients, which in tuning cost a fraction of exact solves; they are there for implicit feedback."""
    return config.model_copy(update={"solver": "cg"}) if config.feedback == "implicit" else config


def _space(train: UserItemMatrix) -> SearchSpace:
    """Candidates' dimensions up to an eighth of the users: more of them cannot be told apart from noise."""
    space = SearchSpace()
    largest = max(16, train.n_users // 8)
    return replace(
        space,
        dimensions=tuple(d for d in space.dimensions if d <= largest),
        free_dimensions=tuple(d for d in space.free_dimensions if d <= largest),
    )


def describe(data: TrainingData) -> ItemDescriptions:
    """The platform's own catalogue as the recommender shows it."""
    return ItemDescriptions(keys=data.items.keys, titles=data.items.titles, genres=data.items.genres)


def rating_accuracy(scorer: Scorer, held_out: EvaluationSlice) -> PerUserMetrics:
    """−RMSE of each user's held-out ratings, so that higher is better as for every other metric."""
    users = held_out.users[held_out.truth.row_lengths[held_out.users] > 0]
    errors = np.zeros(len(users))
    step = block_rows(held_out.truth.n_items)
    for start in range(0, len(users), step):
        some = users[start : start + step]
        truth = held_out.truth.select_users(some)
        rows = truth.entry_users()
        predicted = scorer.scores(held_out.history, some)[rows, truth.indices]
        squares = np.square(predicted.astype(np.float64) - truth.values)
        errors[start : start + step] = np.sqrt(np.bincount(rows, squares, minlength=len(some)) / truth.row_lengths)
    return PerUserMetrics(users, {RATING_METRIC: -errors}, None)


@dataclass(frozen=True, eq=False)
class _RowwiseScorer:
    """A scorer of the platform's users, for a slice that holds some of them alone: row k is user ``users[k]``."""

    deep: TowerScorer
    users: NDArray[np.int64]

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        return self.deep.score_vectors(self.deep.vectors_of(histories.select_users(users), self.users[users]))
