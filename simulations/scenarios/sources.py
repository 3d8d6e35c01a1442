"""Where a simulation's platforms come from: data of their own, or one data set that is cut into platforms."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from common.config.base import FrozenModel
from common.config.data import DataConfig, FileConfig, Namespace
from common.config.loader import ConfigPath
from common.config.passport import PassportKind
from common.config.platform import CatalogueConfig

PlatformName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class DescriptionsSource(FileConfig):
    """A further file that says something of the items, such as who made them."""

    path: ConfigPath
    """The file, one row per item."""
    key_column: str
    """The column with public ids."""
    namespace: Namespace
    """Put before each: imdb makes imdb:0114709."""
    digits: Annotated[int, Field(ge=0, le=64)] = 0
    """Ids are filled up with zeros to that many, where a program has taken them for numbers."""
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    """Attributes to take over."""


class PassportSource(FrozenModel):
    """People who use several of the platforms, and carry passports from one to another."""

    person_column: str | None = None
    """A column of the interactions files that says who a person is, on all platforms alike; null: the user column. A user with
    several values is the one of most rows."""
    cold: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the people common to several platforms whose history on one of them, on each in turn, is hidden altogether:
    what they did there is the truth for what their passports bring. The others hold passports beside a history."""
    contents: Annotated[tuple[PassportKind, ...], Field(min_length=1)] = ("factor", "tastes", "profile")
    """As ``passport.contents`` of platform.yaml."""
    dimension: Annotated[int, Field(ge=1, le=512)] = 64
    """As there: numbers of a profile."""
    epsilon: Annotated[float, Field(gt=0)] | None = None
    """As there: of every profile."""
    holders: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Also measure with so many holders, drawn from all."""
    own_interactions: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 5, 10, 20)
    """Also compare with the same people when the platform knows their first so many interactions; rising."""


class PlatformSource(FrozenModel):
    """One platform with data of its own."""

    name: PlatformName
    """Of the platform."""
    data: DataConfig
    """Its data."""
    descriptions: tuple[DescriptionsSource, ...] = ()
    """Further files about its items."""
    catalogue: CatalogueConfig = CatalogueConfig()
    """Which of its items others may know of."""
    hide_shared: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the items that other platforms also have, taken out of this platform's catalogue; its users' interactions
    with them are the truth for cross-platform recommendations."""


class PartitionSource(FrozenModel):
    """One data set, cut into platforms by user."""

    data: DataConfig
    """The data set."""
    descriptions: tuple[DescriptionsSource, ...] = ()
    """Further files about the items."""
    platforms: dict[PlatformName, Annotated[float, Field(gt=0)]] | None = None
    """Relative number of users by platform name."""
    equal_platforms: Annotated[int, Field(ge=1)] | None = None
    """Instead of ``platforms``: that many of the same size, named platform-1, platform-2, …"""
    platform_name: PlatformName = "platform"
    """What these are called before the number."""
    by_column: str | None = None
    """A column of the interactions file, such as hospital or branch: its values, in order, are dealt in turn over the
    ``equal_platforms``, with all of their users. A user with rows of several belongs where most of them are."""
    common_items: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the items that every platform has; each of the others belongs to one platform, at random. What a user
    did with an item that the own platform lacks is the truth for cross-platform recommendations."""
    hide_items: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Instead of ``common_items``: share of the items that each platform lacks, drawn for each by itself; every item is on
    some platform."""
    same_users: bool = False
    """Every user is on every platform with a part of the own history; ``platforms`` then divides the items alone. What a user
    did with an item that several platforms have is on one of them, at random. For passports."""
    catalogue: CatalogueConfig = CatalogueConfig()
    """Which items others may know of, on every platform."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.platforms is None) == (self.equal_platforms is None):
            raise ValueError("platforms, equal_platforms: give one of the two")
        if self.by_column is not None and self.equal_platforms is None:
            raise ValueError("by_column: needs equal_platforms, the number that its values are dealt over")
        if self.same_users and (self.by_column is not None or self.hide_items):
            raise ValueError("same_users: goes with common_items, not with by_column or hide_items")
        if self.hide_items and self.common_items < 1:
            raise ValueError("common_items, hide_items: give one of the two")
        return self

    @property
    def sizes(self) -> dict[str, float]:
        """Relative number of users by platform name."""
        if self.platforms is not None:
            return dict(self.platforms)
        return {f"{self.platform_name}-{index + 1}": 1.0 for index in range(self.equal_platforms or 0)}
