"""Defines the plan, on which all platforms and the aggregator agree before a run. Every party compares its own copy."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from common.config.attributes import AgreedAttributes
from common.config.base import FrozenModel
from common.config.ease import EaseConfig
from common.config.model import FactorizationConfig
from common.config.privacy import PrivacyConfig, TunedSetting, tuned_setting
from common.config.text import TextConfig
from common.config.towers import TowerConfig

AUTO = "auto"
"""What ``model`` says where its settings are to be chosen."""


class FederationPlan(FrozenModel):
    """The public parameters of a federation run. An agent refuses a run whose plan differs from its own.

    Plain data: what a run of it comes to is :class:`common.contributions.run_plan.RunPlan`, whose module also checks plans
    that are read.
    """

    federation: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "federation"
    """Name of the federation; digests, runs and ledgers are kept apart by it."""
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Server rounds, at most. Under differential privacy the tuned number for ε, exactly (``server_rounds``)."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    """Stop early once the objective falls by less than this share in a round; 0 never stops. Unused under privacy."""
    evaluate_rounds: bool = True
    """Whether platforms report their validation recall each round. Never under privacy: it would be a release."""
    min_platforms: Annotated[int, Field(ge=1)] = 1
    """Quorum: a round with fewer contributions is not counted."""
    platforms: Annotated[int, Field(ge=1)] | None = None
    """P: how many platforms take part. Needed under privacy, where shares of noise depend on it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds the initial item factors, nothing private."""
    model: FactorizationConfig = FactorizationConfig()
    """The factorisation; under privacy ``training`` says what is trained in its place. ``model: auto`` leaves dimension, λ, α₀
    and rounds open (``auto_model``); what is set below it instead fixes them."""
    auto_model: bool = False
    """Whether dimension, λ, α₀ and the number of rounds are chosen: without privacy by a race over a few settings that
    validation users judge (``evaluate_rounds``), under privacy from a public table (``privacy.expect``). The other fields
    of ``model`` hold for whatever is chosen. ``model: auto`` sets it."""
    linear: EaseConfig | None = None
    """The item-item model between platforms: item-item statistics, gathered once after the counts; null: none."""
    towers: TowerConfig | None = None
    """The deep two-tower model, trained after the factorisation, together or at home (``place``); null: none."""
    attributes: AgreedAttributes = AgreedAttributes()
    """What may be publicly told of items besides title and genres, by name: category, categories, number, text or vector
    (``{maker: category, topics: categories, year: number}``). Each platform says in ``catalogue.describe`` which it tells, and
    out of which column; it may know only some."""
    text: TextConfig | None = None
    """The frozen encoder that turns the items' public texts into vectors at every platform; null: none is used. Needs
    ``pip install 'crossfed[text]'``."""
    privacy: PrivacyConfig = PrivacyConfig()
    """What users are promised, and the mechanism that keeps the promise."""

    @property
    def private(self) -> bool:
        """Whether contributions carry noise."""
        return self.privacy.mode == "user"

    @property
    def secure_sum(self) -> bool:
        """Whether platforms add shares of the noise and mask their sums."""
        return self.private and self.privacy.noise == "secure_sum"

    @property
    def setting(self) -> TunedSetting:
        """Under privacy, what is trained and how: the defaults for this ε, or ``model`` and ``rounds`` where these count."""
        privacy = self.factor_privacy
        tuned = tuned_setting(privacy.epsilon, privacy.expect)
        update: dict[str, object] = {"mechanism": privacy.resolved()}
        if not self.privacy.tuned_training:
            own = self.model
            update |= {
                "dimension": own.dimension,
                "rounds": self.rounds,
                "regularization": own.regularization,
                "fold_in_regularization": own.regularization,
                "item_regularization": own.item_regularization or own.regularization,
                "unobserved_weight": own.unobserved_weight,
            }
        return tuned.model_copy(update=update)

    @property
    def federated_towers(self) -> TowerConfig | None:
        """The deep model that platforms train together; None without one, or where each trains its own at home."""
        return self.towers if self.towers is not None and self.towers.place == "federation" else None

    @property
    def training(self) -> FactorizationConfig:
        """The factorisation that is trained: ``model``, or under privacy that of ``setting``."""
        return self._factorization(self.setting.regularization) if self.private else self.model

    @property
    def serving(self) -> FactorizationConfig:
        """The factorisation as users are folded in to finished factors: under privacy with a ridge of its own."""
        return self._factorization(self.setting.fold_in_regularization) if self.private else self.model

    def _factorization(self, regularization: float) -> FactorizationConfig:
        setting = self.setting
        update = {
            "dimension": setting.dimension,
            "regularization": regularization,
            "item_regularization": setting.item_regularization,
            "unobserved_weight": setting.unobserved_weight,
            "regularization_exponent": 0.0,
        }
        return self.model.model_copy(update=update)

    @property
    def server_rounds(self) -> int:
        """T: server rounds, at most; exactly, under privacy."""
        return self.setting.rounds if self.private else self.rounds

    @property
    def row(self) -> int:
        """Length of an item's row of shared parameters: d, and the item bias behind it for explicit feedback."""
        return self.training.dimension + (1 if self.model.feedback == "explicit" else 0)

    @property
    def delta(self) -> float:
        """δ of the whole run."""
        stated = self.privacy.delta
        return 1 / (10 * self.privacy.user_bound) if stated is None else stated

    @property
    def factor_privacy(self) -> PrivacyConfig:
        """Return what the factorisation may spend: all, or what the deep model leaves of ε and δ (basic composition)."""
        if self.federated_towers is None:
            return self.privacy
        rest = 1 - self.federated_towers.privacy.share
        return self.privacy.model_copy(update={"epsilon": rest * self.privacy.epsilon, "delta": rest * self.delta})

    def with_model(self, model: FactorizationConfig) -> Self:
        """The plan as if it had fixed ``model``, which it leaves open."""
        return self.model_copy(update={"model": model, "auto_model": False})

    @model_validator(mode="before")
    @classmethod
    def _read_auto(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("model") == AUTO:
            rest = {name: value for name, value in content.items() if name != "model"}
            return rest | {"auto_model": True}
        return content

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.auto_model:
            self._check_auto()
        if self.private and self.model.feedback == "explicit":
            raise ValueError(
                "privacy.mode: user works for implicit feedback; set model.feedback: implicit (ratings become events), "
                "or keep explicit models at home"
            )
        if self.linear is not None and self.model.feedback == "explicit":
            raise ValueError(
                "linear: item-item statistics say who has what; set model.feedback: implicit, or leave it out"
            )
        if self.towers is not None:
            self.towers.check_plan(
                explicit=self.model.feedback == "explicit",
                private=self.private,
                attributes=self.attributes.kinds,
                texts=self.text is not None,
            )
        return self

    def _check_auto(self) -> None:
        if self.model.feedback == "explicit":
            raise ValueError("model: auto is for implicit feedback; give the settings of an explicit model")
        if not self.private and not self.evaluate_rounds:
            raise ValueError(
                "model: auto lets platforms' validation users judge; set evaluate_rounds: true, or give settings"
            )
        if self.private and not self.privacy.tuned_training:
            raise ValueError("model: auto takes settings from a table; set privacy.tuned_training: true, or give them")

    def differences(self, other: FederationPlan) -> list[str]:
        """Dotted names of the fields in which two plans differ; empty when they agree.

        >>> FederationPlan().differences(FederationPlan(rounds=3))
        ['rounds']
        """
        return _differences("", self.model_dump(mode="json"), other.model_dump(mode="json"))


def _differences(prefix: str, mine: object, theirs: object) -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = sorted(mine.keys() | theirs.keys())
        return [name for key in keys for name in _differences(f"{prefix}{key}.", mine.get(key), theirs.get(key))]
    return [] if mine == theirs else [prefix.rstrip(".")]
