"""After the last round: the platform's own models, the verdict between them and the shared ones, all put into one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from logging import getLogger

import numpy as np
from numpy.typing import NDArray

from client.contributions.home_training import HomeModel, HomeTraining
from client.data.dataset import ItemDescriptions
from client.data.training import TrainingData
from client.personalization.cross_choice import CrossChoice
from client.personalization.described import TextVectors, ranked_items
from client.personalization.model_selection import (
    Candidate,
    RecencyChoice,
    ValidationUsers,
    choose_recency,
    choose_verdict,
    cross_fitted,
)
from client.personalization.other_catalogues import OtherCatalogues
from client.personalization.own_models import OwnModels, TunedModel, far_apart
from client.personalization.platform_model import FOLDED_IN, OWN_MODELS, CrossVerdict, OwnVerdict, PlatformModel
from client.scoring.described.released_counts import CountNoise
from client.scoring.ease import EasePart
from client.scoring.factors import FactorModel
from client.towers.stored import TowerModel
from client.training.content import ContentItems, place_by_content
from common.config.model import FactorizationConfig
from common.config.platform import PersonalizationConfig
from common.errors import ConfigError, DataError

_log = getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class FederationView:
    """Holds what the federation has told this platform: everything of a :class:`PlatformModel` that is not its own.

    ``without_own`` are the item parameters, float32 ``[m, row]``, those of own items as the others alone have made them; None
    where the aggregator cannot tell. ``count_noise`` says how counts were released; None where they are exact. ``home`` trains
    the deep model in place of ``towers`` where that is each platform's own.
    """

    server_round: int
    platforms: tuple[str, ...]
    vocabulary: ItemDescriptions
    cards: ItemDescriptions
    owners: NDArray[np.bool_]
    own_positions: NDArray[np.int32]
    shared: FactorModel
    foreign_popularity: NDArray[np.float64]
    towers: TowerModel | None = None
    linear: EasePart | None = None
    user_counts: tuple[float, ...] | None = None
    without_own: NDArray[np.float32] | None = None
    count_noise: CountNoise | None = None
    home: HomeTraining | None = None


class Personalizer:
    """Builds a platform's model from its own data and what the federation learned.

    Args:
        platform: its name.
        data: training interactions and the validation slice.
        model: feedback, solver and backend of local training; its other hyperparameters are tuned.
        config: what to try.
        texts: turns titles into vectors; None without a text encoder.
    """

    def __init__(
        self,
        platform: str,
        data: TrainingData,
        model: FactorizationConfig,
        config: PersonalizationConfig,
        texts: TextVectors | None = None,
    ) -> None:
        if config.ranker.enabled and model.feedback == "explicit":
            raise ConfigError(
                "personalization.ranker orders lists of implicit feedback, and this federation's model.feedback is explicit; "
                "leave the ranking stage out"
            )
        self._platform = platform
        self._texts = texts
        self._data = data
        self._implicit = model.feedback == "implicit"
        self._config = config
        self._validation = ValidationUsers(data.validation, config, explicit=not self._implicit)
        self._own = OwnModels(platform, data, self._validation, model, config, texts)

    def build(self, view: FederationView) -> PlatformModel:
        """Train the platform's own models, choose between them and the shared one, and put it all together."""
        if self._config.content:
            view = replace(view, shared=placed_by_content(view.shared, view.vocabulary, self._texts))
        local = self._own.local()
        possible = self._config.anchored and (view.own_positions >= 0).any()
        anchored = self._own.anchored(view.shared, view.own_positions) if possible else None
        deep = None if view.home is None else view.home.run(self._validation.values, len(local.values))
        others = self._other_catalogues(view)
        choice = CrossChoice(
            config=self._config,
            catalogues=others,
            shared=view.shared,
            towers=view.towers is not None,
            linear=view.linear,
            without_own=view.without_own,
        )
        blend, cross_verdict = choice.of(self._data, self._own.rng("cross"))
        _tell_of_choice(cross_verdict)
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
            foreign_popularity=others.demand(self._data),
            own=describe(self._data),
            own_positions=view.own_positions,
            local=local.model,
            anchored=None if anchored is None else anchored.model,
            verdict=undecided,
            cross=blend,
            user_ids=self._data.user_ids,
            histories=self._data.known,
            towers=view.towers if deep is None else deep.model,
            cross_verdict=cross_verdict,
        )
        model, recency = self._with_recency(model)
        if self._config.ranker.enabled:
            model = self._with_ranker(model)
        model = replace(model, verdict=self._judge(model, local, anchored, deep, recency))
        if view.count_noise is None:
            self._tell_of_settings(model)
        return model

    def _tell_of_settings(self, model: PlatformModel) -> None:
        """Say so where the shared model does not help and is trained quite differently; noise has settings of its own."""
        far = far_apart(model.local.config, model.shared.config, self._data.train)
        if far and model.verdict.name == "local":
            _log.warning(
                "the shared model is not surely better than this platform's own, which is at its best with quite other "
                "settings: %s. Agree with the other platforms on model: auto, or on settings between these",
                far,
            )

    def _other_catalogues(self, view: FederationView) -> OtherCatalogues:
        others = [column for column, name in enumerate(view.platforms) if name != self._platform]
        return OtherCatalogues(
            own_positions=view.own_positions,
            owners=view.owners[:, others],
            cards=view.cards,
            item_counts=view.foreign_popularity,
            user_counts=None if view.user_counts is None else tuple(view.user_counts[column] for column in others),
            noise=view.count_noise,
            texts=self._texts,
        )

    def local(self) -> FactorModel:
        """The local model, tuned and trained once: it does not depend on the federation."""
        return self._own.local().model

    def _with_recency(self, model: PlatformModel) -> tuple[PlatformModel, dict[str, RecencyChoice]]:
        """With users' latest entries weighing more where validation users surely gain by it; and why, by name of the model."""
        names = [name for name in FOLDED_IN if model.has(name)]
        choices = dict.fromkeys(names, RecencyChoice())
        if not (self._config.recency and self._implicit and self._data.timed):
            return model, choices
        if not self._data.validation.comes_later:
            _log.info(
                "whether a user's latest interactions should weigh more is not tried: what is kept back for validation is none "
                "that came later (validation_entries: random)"
            )
            return model, choices
        for name in names:
            choice = choices[name] = choose_recency(
                lambda recency: self._validation.values(model.with_recency(name, recency).own_scorer(name)),  # noqa: B023 -- called at once
                self._own.rng(f"recency {name}"),
                level=self._config.verdict_level,
            )
            model = model.with_recency(name, choice.recency)
            _tell_of_recency(name, choice, self._validation.metric)
        return model, choices

    def _with_ranker(self, model: PlatformModel) -> PlatformModel:
        """With the ranking stage trained over every model there is; without it where there is too little to train on."""
        from client.training.reranker import fit_ranker

        # The anchored model would bring nothing that the local and the shared one do not.
        scorers = {name: model.own_scorer(name) for name in OWN_MODELS if name != "anchored" and model.has(name)}
        buckets = self._config.ranker.genre_buckets
        items = ranked_items(model.own, model.histories.item_counts(), self._texts, buckets=buckets)
        try:
            ranked = fit_ranker(
                scorers,
                self._data.train,
                items,
                self._config.ranker,
                refitted=lambda train: {"local": self._own.local_of(train, model.local.recency)},
            )
        except DataError as error:
            _log.warning("%s", error)
            return model
        return replace(model, ranker=ranked.ranker)

    def _judge(
        self,
        model: PlatformModel,
        local: TunedModel,
        anchored: TunedModel | None,
        deep: HomeModel | None,
        recency: Mapping[str, RecencyChoice],
    ) -> OwnVerdict:
        """Compare all candidates with the local model.

        A model that was tuned on these users looks better on them than it is; the others were not. So tuned models
        count with what they reach on users who had no say in their tuning. A blend has the local model in it: its gain
        over that, as it is, is added to what the local model counts; and what a deep model that stopped where these users
        liked it best looks better than it is, is taken off. So is what the choice of a recency flatters.
        """
        values = self._validation.values
        plain = values(model.own_scorer("local"))
        alone = local.values + recency["local"].gain
        candidates: list[Candidate] = []

        def consider(name: str, weight: float | None, reached: NDArray[np.float64]) -> None:
            candidates.append(Candidate(name, weight, self._validation.of_users(reached)))

        def consider_blends(name: str, flattery: NDArray[np.float64] | float) -> None:
            for w in self._config.blend_weights if self._implicit else ():
                consider(name, w, alone + values(model.own_scorer(name, w)) - plain - flattery)

        if model.has("shared"):
            flattery = recency["shared"].flattery
            consider("shared", None, values(model.own_scorer("shared")) - flattery)
            consider_blends("blend", flattery)
        if model.has("towers"):
            seen = values(model.own_scorer("towers"))
            reached = seen if deep is None else cross_fitted(deep.looks, self._own.rng("deep folds"))
            consider("towers", None, reached)
            consider_blends("tower_blend", seen - reached)
        if anchored is not None:
            consider("anchored", None, anchored.values + recency["anchored"].gain)
        if model.ranker is not None:
            consider("ranker", None, alone + values(model.own_scorer("ranker")) - plain)
        verdict = choose_verdict(
            self._validation.of_users(alone),
            candidates,
            metric=self._validation.metric,
            rng=self._own.rng("verdict"),
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


def placed_by_content(shared: FactorModel, vocabulary: ItemDescriptions, texts: TextVectors | None) -> FactorModel:
    """``shared`` with items that nobody has interacted with where what is described of them places them."""
    titles = [title if key else "" for key, title in zip(vocabulary.keys, vocabulary.titles, strict=True)]
    described = ContentItems(titles, vocabulary.genres, further=vocabulary.further, texts=texts)
    implicit = shared.config.feedback == "implicit"
    return replace(shared, item_parameters=place_by_content(shared.item_parameters, described, implicit=implicit))


def _tell_of_choice(verdict: CrossVerdict | None) -> None:
    """Say in the operator's log what a simulation's closing table shows."""
    if verdict is None:
        _log.info(
            "the others' items are ranked by configured weights: too little is in common with others to choose on"
        )
        return
    _log.info(
        "the others' items are ranked by %s: on own items, hidden for it, %s of the surest share of the blend less that of "
        "popularity is %+.3f to %+.3f; the share that ranks is %g, the rest is popularity",
        verdict.name,
        verdict.metric,
        *verdict.interval,
        verdict.share,
    )


def _tell_of_recency(name: str, choice: RecencyChoice, metric: str) -> None:
    chosen = choice.recency
    _log.info(
        "%s model: a user's latest interactions weigh %s; %s of the best weighing less that of none is %+.3f to %+.3f",
        name,
        "as all others"
        if chosen is None
        else f"up to {1 + chosen.boost:g} times as much, over the last {chosen.span:g}",
        metric,
        *choice.interval,
    )


def describe(data: TrainingData) -> ItemDescriptions:
    """The platform's own catalogue as the recommender shows it."""
    return data.items.descriptions
