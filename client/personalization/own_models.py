"""The models that a platform trains by itself after the last round: its local one, and the one anchored in shared factors.

Both are tuned on the validation users with the same search and the same number of candidates: an untuned baseline is a lie.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.training import TrainingData
from client.personalization.described import TextVectors
from client.personalization.model_selection import ValidationUsers, cross_fitted
from client.scoring.factors import FactorModel
from client.scoring.fold_in import FoldIn, Recency
from client.scoring.scorer import SolvedFactorScorer
from client.training.als import rating_sum_and_count
from client.training.anchored import fit_anchored
from client.training.content import ContentItems, place_by_content
from client.training.fit import fit
from client.training.tuning import SearchSpace, mean_scale, tune_anchored, tune_local
from common.config.model import AnchoredConfig, FactorizationConfig
from common.config.platform import PersonalizationConfig


@dataclass(frozen=True, eq=False)
class TunedModel:
    """A tuned model, and what its tuning reaches on each validation user without that user's say: float64 ``[k]``."""

    model: FactorModel
    values: NDArray[np.float64]


class OwnModels:
    """Tunes and trains a platform's own models.

    Args:
        platform: its name, mixed into the seed.
        data: training interactions; tuning looks at ``validation``.
        validation: measures on these.
        base: feedback, solver and backend; its other hyperparameters are tuned.
        config: how many candidates to try.
        texts: turns titles and texts into vectors; None without a text encoder.
    """

    def __init__(
        self,
        platform: str,
        data: TrainingData,
        validation: ValidationUsers,
        base: FactorizationConfig,
        config: PersonalizationConfig,
        texts: TextVectors | None = None,
    ) -> None:
        self._platform = platform
        self._texts = texts
        self._data = data
        self._validation = validation
        self._base = base
        self._config = config
        self._local: TunedModel | None = None

    def local(self) -> TunedModel:
        """Tuned and trained once: it does not depend on the federation."""
        if self._local is None:
            train, trials = self._data.train, Trials(self._validation)
            tuned = tune_local(
                train,
                self._validation.alone.history,
                trials,
                self.rng("tune local"),
                budget=self._config.tuning_candidates,
                base=_frugal(self._base),
                space=_space(train),
            )
            fitted = fit(train, tuned.config, self.rng("local"))
            self._local = self._tuned(fitted.item_factors, tuned.config, trials)
        return self._local

    def local_of(self, train: UserItemMatrix, recency: Recency | None = None) -> FoldIn:
        """A model with the local one's hyperparameters, trained on ``train`` alone."""
        local = self.local().model
        return FoldIn(fit(train, local.config, self.rng("local")).item_factors, local.config, local.value_mean, recency)

    def anchored(self, shared: FactorModel, own_positions: NDArray[np.int32]) -> TunedModel:
        """With the rows ``own_positions`` (int32 ``[m_own]``, −1 for none) of ``shared`` as the prior mean."""
        prior = np.zeros((self._data.train.n_items, shared.item_parameters.shape[1]), dtype=np.float32)
        known = np.flatnonzero(own_positions >= 0)
        prior[known] = shared.item_parameters[own_positions[known]]
        base = AnchoredConfig(**_frugal(shared.config).model_dump())
        train, trials = self._data.train, Trials(self._validation)
        tuned = tune_anchored(
            train,
            self._validation.alone.history,
            trials,
            self.rng("tune anchored"),
            prior,
            budget=self._config.tuning_candidates,
            base=base,
            space=_space(train),
        )
        assert isinstance(tuned.config, AnchoredConfig)
        fitted = fit_anchored(train, prior, tuned.config, self.rng("anchored"))
        width = tuned.config.dimension + tuned.config.free_dimensions
        plain = tuned.config.model_dump(include=set(FactorizationConfig.model_fields)) | {"dimension": width}
        return self._tuned(fitted.item_factors, FactorizationConfig.model_validate(plain), trials)

    def rng(self, purpose: str) -> np.random.Generator:
        """The same for one platform, seed and purpose."""
        return platform_rng(self._config, self._platform, purpose)

    def _tuned(self, items: NDArray[np.float32], config: FactorizationConfig, trials: Trials) -> TunedModel:
        total, count = rating_sum_and_count(self._data.train)
        mean = total / count if count and self._base.feedback == "explicit" else 0.0
        if self._config.content:
            table = self._data.items
            described = ContentItems(table.titles, table.genres, table.undeclared, table.further, self._texts)
            items = place_by_content(items, described, implicit=config.feedback == "implicit")
        model = FactorModel(item_parameters=items, config=config, value_mean=mean)
        return TunedModel(model, trials.cross_fitted(self.rng("folds")))


_FAR = {"dimension": 4.0, "ridge": 8.0, "unobserved_weight": 8.0}
"""Factors between local and shared settings that are more than chance and a smaller platform make of them."""


def far_apart(local: FactorizationConfig, shared: FactorizationConfig, train: UserItemMatrix) -> str:
    """In which settings the local model that serves best is far from the shared one, for the operator; empty if in none.

    Ridges are compared as the mean user's, so that a different ν is no difference by itself.
    """

    def settings(config: FactorizationConfig) -> dict[str, float]:
        ridge = config.regularization * mean_scale(train, config.unobserved_weight, config.regularization_exponent)
        return {"dimension": config.dimension, "ridge": ridge, "unobserved_weight": config.unobserved_weight}

    here, there = settings(local), settings(shared)
    far = [
        f"{name} {here[name]:.3g} (the plan's {there[name]:.3g})"
        for name, most in _FAR.items()
        if max(here[name], there[name]) > most * min(here[name], there[name])
    ]
    return ", ".join(far)


def platform_rng(config: PersonalizationConfig, platform: str, purpose: str) -> np.random.Generator:
    """The same for one seed, platform and purpose."""
    return np.random.default_rng([config.seed, zlib.crc32(f"{platform}/{purpose}".encode())])


class Trials:
    """Scores candidates on the validation users and remembers every user's value."""

    def __init__(self, validation: ValidationUsers) -> None:
        self._validation = validation
        self._values: list[NDArray[np.float64]] = []

    def __call__(self, user_factors: NDArray[np.float32], item_factors: NDArray[np.float32]) -> float:
        values = self._validation.values(SolvedFactorScorer(user_factors, item_factors), alone=True)
        self._values.append(values)
        return float(values.mean()) if len(values) else 0.0

    def cross_fitted(self, rng: np.random.Generator, folds: int = 10) -> NDArray[np.float64]:
        """float64 ``[k]``: each user's value under the candidate that is best for the users of the other folds."""
        return cross_fitted(np.stack(self._values), rng, folds)


_OWN_STEPS = 2
"""Of preconditioned conjugate gradients, unless the configuration says how many."""


def _frugal(config: FactorizationConfig) -> FactorizationConfig:
    """Conjugate gradients, which in tuning cost a fraction of exact solves; they are there for implicit feedback."""
    if config.feedback != "implicit":
        return config
    steps = config.cg_steps if "cg_steps" in config.model_fields_set else _OWN_STEPS
    return config.model_copy(update={"solver": "cg", "cg_steps": steps})


def _space(train: UserItemMatrix) -> SearchSpace:
    """Candidates' dimensions up to an eighth of the users: more of them cannot be told apart from noise."""
    space = SearchSpace()
    largest = max(16, train.n_users // 8)
    return replace(
        space,
        dimensions=tuple(d for d in space.dimensions if d <= largest),
        free_dimensions=tuple(d for d in space.free_dimensions if d <= largest),
    )
