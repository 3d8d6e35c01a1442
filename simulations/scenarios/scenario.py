"""Describes a simulation: whose data, how it is cut into platforms, how it is split and measured. See docs/scenarios.md."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.config.attributes import check_described
from common.config.base import FrozenModel
from common.config.data import DataConfig, check_feedback
from common.config.federation import FederationPlan
from common.config.loader import load_yaml_model
from common.config.platform import CatalogueConfig, PersonalizationConfig
from common.config.serving import SteeringConfig
from common.config.text import TextModelConfig
from common.contributions.run_plan import CheckedPlan
from common.errors import ConfigError
from simulations.scenarios.noise import plan_with_noise
from simulations.scenarios.sources import PartitionSource, PassportSource, PlatformSource

Share = Annotated[float, Field(gt=0, lt=1)]


class SplitConfig(FrozenModel):
    """How each platform's interactions are divided into training, validation and test."""

    protocol: Literal["random-per-user", "leave-last-out", "strong-generalisation", "k-fold"] = "random-per-user"
    """random-per-user: a share of each user's interactions is the test; leave-last-out: each user's last one;
    strong-generalisation: users who were not trained on; k-fold: one part of each user's interactions."""
    test_share: Share = 0.2
    """random-per-user: of each user's interactions; strong-generalisation: truth of a held-out user."""
    validation_users: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of the users on whom choices are made; papers that leave last items out choose on everybody (1.0)."""
    test_users: Share = 0.1
    """strong-generalisation: share of the users who are measured and not trained on."""
    folds: Annotated[int, Field(ge=2)] = 5
    """k-fold: into how many parts each user's interactions are cut."""
    fold: Annotated[int, Field(ge=0)] = 0
    """k-fold: which part is the test, from 0; ``crossfed-simulate cross-validate`` goes through all."""

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.fold >= self.folds:
            raise ValueError(f"fold: {self.fold} of {self.folds} folds; folds are counted from 0")
        return self


class CrossConfig(FrozenModel):
    """How cross-platform recommendations are measured."""

    ceiling: bool = True
    """Also train with one half of each user's hidden interactions given to the platform, and score the other half."""
    tune_beta: bool = False
    """Choose the weights α of public attributes and β of popularity in runs that hide further shared items and are thrown
    away; false: by validation on own items, as in a deployment."""
    betas: tuple[Annotated[float, Field(ge=0)], ...] = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
    """Tried as weight β of popularity; growing."""
    attribute_weights: tuple[Annotated[float, Field(ge=0)], ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    """Tried as weight α of public attributes, together with β; growing, as are the β."""
    linear_weights: tuple[Annotated[float, Field(ge=0)], ...] = (0.0, 0.5, 1.0, 2.0)
    """Tried as weight κ of the item-item model, together with α and β, where the plan has one; growing."""
    tuning_share: Share = 0.3
    """Share of the shared items that the tuning run hides, in the same way as the scenario hides its own."""
    tuning_draws: Annotated[int, Field(ge=1)] = 3
    """Tuning runs, each with other items hidden, over which α and β are judged: one run's best are mostly luck."""


class SearchParameter(FrozenModel):
    """Holds what ``crossfed-simulate tune`` may set one key of the plan to: a range or some choices."""

    low: int | float | None = None
    """Lowest value; whole numbers are drawn where ``low`` and ``high`` are whole."""
    high: int | float | None = None
    """Highest value."""
    log: bool = False
    """Whether the logarithm is drawn uniformly, not the value."""
    choices: tuple[bool | int | float | str, ...] | None = None
    """Values to choose from, instead of a range."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ranged = self.low is not None and self.high is not None
        if (self.low is None) != (self.high is None) or ranged == (self.choices is not None):
            raise ValueError("low and high, choices: give a range or choices")
        if self.choices == ():
            raise ValueError("choices: name at least one")
        if self.low is not None and self.high is not None:
            if self.low > self.high:
                raise ValueError(f"low: {self.low:g} is above high")
            if self.log and self.low <= 0:
                raise ValueError(f"low: {self.low:g}; a logarithmic range begins above 0")
        return self

    def values(self) -> tuple[bool | int | float | str, ...]:
        """The ends of the range, or the choices."""
        if self.low is not None and self.high is not None:
            return (self.low, self.high)
        return self.choices or ()


SearchKey = Annotated[str, Field(pattern=r"^plan(\.[a-z_0-9]+)+$")]
# A larger ε or a weaker unit is always better: these are decided, not searched. The others are not settings of training.
_NOT_SEARCHED = (
    "mode", "epsilon", "delta", "budget", "budget_delta", "noise", "colluders", "dropouts", "user_bound", "minimum_users",
)  # fmt: skip
_DECIDED = {"plan.federation", "plan.platforms", "plan.model.feedback", *(f"plan.privacy.{n}" for n in _NOT_SEARCHED)}


class Scenario(FrozenModel):
    """A whole simulation."""

    name: str = ""
    """The file's name unless given."""
    description: str = ""
    """One line for ``crossfed-simulate list``."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the partition, the splits, the initial factors and the bootstrap. Privacy noise takes no seed."""
    platforms: tuple[PlatformSource, ...] = ()
    """Platforms with data of their own."""
    partition: PartitionSource | None = None
    """In their place: one data set that is cut into platforms."""
    split: SplitConfig = SplitConfig()
    """Training, validation and test."""
    plan: CheckedPlan = FederationPlan()
    """What all platforms agree on."""
    text: TextModelConfig | None = None
    """Where the text encoder of ``plan.text`` is, if it is none of the packaged; null: an installed package."""
    personalization: PersonalizationConfig = PersonalizationConfig()
    """How each platform's own model is built."""
    cross: CrossConfig = CrossConfig()
    """How cross-platform recommendations are measured."""
    passport: PassportSource | None = None
    """Measure what passports bring to people who are new on a platform and known on another."""
    price_at: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Also train privately at these ε, and show beside the exact model what privacy costs; only under ``mode: none``."""
    steering: SteeringConfig | None = None
    """Rules and wishes whose effect on the lists as a whole ``report.html`` shows, before and after; they train nothing."""
    protocol: Literal["full", "sampled-99"] = "full"
    """sampled-99 ranks one held-out item among 99 others, for comparison with papers only."""
    search: dict[SearchKey, SearchParameter] = Field(default_factory=dict)
    """What ``crossfed-simulate tune`` tries, by dotted key of the plan; without it, a space that ships."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.platforms) == (self.partition is not None):
            raise ValueError("platforms, partition: give one of the two")
        names = [platform.name for platform in self.platforms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"platforms: the name {twice[0]!r} is used twice; every platform needs its own")
        for at, data in self.data_sections():
            check_feedback(data, self.plan.model.feedback, at)
        for at, catalogue in self.catalogues():
            check_described(catalogue.describe, self.plan.attributes.kinds, f"{at}.describe")
        if self.protocol == "sampled-99" and self.split.protocol != "leave-last-out":
            raise ValueError("protocol: sampled-99 needs split.protocol: leave-last-out")
        if self.passport is not None and self.plan.model.feedback == "explicit":
            raise ValueError("passport: is measured by what people do, so plan.model.feedback must be implicit")
        if decided := sorted(_DECIDED.intersection(self.search)):
            raise ValueError(f"search: {decided[0]} is decided, not searched; remove it")
        return self

    def data_sections(self) -> tuple[tuple[str, DataConfig], ...]:
        """Every data section with its key path."""
        if self.partition is not None:
            return (("partition.data", self.partition.data),)
        return tuple((f"platforms.{index}.data", source.data) for index, source in enumerate(self.platforms))

    def catalogues(self) -> tuple[tuple[str, CatalogueConfig], ...]:
        """Return what each platform shares, with its key path."""
        if self.partition is not None:
            return (("partition.catalogue", self.partition.catalogue),)
        return tuple((f"platforms.{index}.catalogue", source.catalogue) for index, source in enumerate(self.platforms))

    @property
    def number_of_platforms(self) -> int:
        """P, which is known before the data are."""
        return len(self.platforms) if self.partition is None else len(self.partition.sizes)

    def with_platforms(self, number: int) -> Self:
        """The scenario with P in its plan, which noise shares depend on, and a deep model's noise where none is stated."""
        return self.model_copy(update={"plan": plan_with_noise(self.plan.model_copy(update={"platforms": number}))})


def shipped_scenarios() -> dict[str, Path]:
    """Path by name of the scenarios that come with crossfed."""
    folder = Path(str(files("simulations") / "scenarios"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_scenario(name_or_path: str, overrides: Sequence[str] = ()) -> Scenario:
    """Load a shipped scenario by name, or one's own by path.

    Raises:
        ConfigError: there is none of that name, or it is wrong; the message says where.
    """
    shipped = shipped_scenarios()
    path = shipped.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise ConfigError(
            f"no scenario {name_or_path!r}: shipped are {', '.join(shipped)}; or give the path of a YAML file"
        )
    scenario = load_yaml_model(path, Scenario, overrides)
    return scenario if scenario.name else scenario.model_copy(update={"name": path.stem})
