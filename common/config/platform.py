"""Configures what a platform decides for itself: what it shares, how its own model is built, and where its users are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from common.config.attributes import AttributeRules, DescribedAttributes, check_rules
from common.config.base import FrozenModel
from common.config.loader import ConfigPath
from common.config.ranker import RankerConfig


class CatalogueConfig(FrozenModel):
    """Which items of the catalogue the other platforms may know of."""

    share: Literal["all", "none", "filter"] = "all"
    """all: every item; none: no item (the platform then receives and contributes nothing); filter: as below."""
    genres: tuple[str, ...] = ()
    """filter: items with one of these genres; empty admits all."""
    key_prefixes: tuple[str, ...] = ()
    """filter: items whose key begins with one of these (``imdb:``); empty admits all."""
    where: AttributeRules = Field(default_factory=dict)
    """filter: items of whose described attributes all of this holds: ``{maker: {none_of: [Acme]}, year: {at_least: 1990}}``."""
    cards: bool = True
    """Whether titles, genres and what ``describe`` names of shared items go to the other platforms, encrypted."""
    describe: DescribedAttributes = Field(default_factory=dict)
    """What else of the items file is public, by the name that ``plan.attributes`` has for it: ``{maker: category, year:
    number}``, or ``{maker: {kind: category, column: author}}`` where the column is called otherwise here. Title and genres
    always are. What is not named here never leaves."""

    @property
    def described_columns(self) -> frozenset[str]:
        """The columns of the items file that ``describe`` names."""
        return frozenset(own.column or name for name, own in self.describe.items())

    @model_validator(mode="after")
    def _filters_by_what_is_described(self) -> Self:
        kinds = {name: own.kind for name, own in self.describe.items()}
        check_rules(self.where, kinds, "where", "describe")
        return self


class PersonalizationConfig(FrozenModel):
    """How the platform's own model is built once the shared parameters are there."""

    tuning_candidates: Annotated[int, Field(ge=1)] = 24
    """Hyperparameter settings tried for the local model, and as many for the anchored one, on validation users."""
    anchored: bool = True
    """Whether to try a local model that has the shared factors as its prior mean."""
    blend_weights: tuple[Annotated[float, Field(gt=0)], ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """w of z(local) + w·z(shared)."""
    metric: Literal["recall@20", "ndcg@10", "hr@10", "ndcg@100"] = "ndcg@10"
    """What tuning and the verdict maximise for implicit feedback; explicit feedback minimises the rating error. Where a user
    has one item to find, as with leave-last-out, few have it among the first ten: ``ndcg@100`` tells models apart sooner."""
    verdict_level: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """Coverage of the two-sided interval of the gain over the local model, whose lower end must exceed 0. 0.6 asks for a
    one-sided certainty of 80 %: 0.95 would leave small platforms, whose intervals are wide, with their own model."""
    cross_level: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """The same for what ranks the others' items, against popularity: coverage of an interval of prediction, for other users and
    for as many items as only others have, since few items can be ranked worse by what is better in the mean. That share of a
    blend serves whose interval has the highest lower end. 0.8 asks for a one-sided certainty of 90 %; where no share reaches
    it popularity serves."""
    recency: bool = True
    """Whether to try, where own items are ranked, to weigh a user's latest interactions more when the user's factor is solved:
    by how much is chosen for each model, and only where validation users surely gain. It is tried on implicit feedback with
    times, where what is kept back of a user is later than the rest: ``validation_entries: latest`` of a platform, and
    ``split.protocol: leave-last-out`` of a scenario. Training, and what leaves, stay as they are."""
    tower_weight: Annotated[float, Field(ge=0)] = 1.0
    """γ: weight of the deep model's standardised scores beside the shared factors' in cross-platform scores."""
    content: bool = True
    """Whether items that nobody has interacted with get factors from their title, genres and attributes."""
    attributes: bool = True
    """Whether to place items that only others have among the platform's own tastes by genres, year and popularity."""
    attribute_weight: Annotated[float, Field(ge=0)] | None = None
    """α: weight of these standardised scores beside the shared factors' in cross-platform scores; null: the shipped
    constant (:func:`shipped_weights`) where too little is in common with others to weigh scorers on own items. What is set
    here is used instead of such weights."""
    linear_weight: Annotated[float, Field(ge=0)] = 0.25
    """κ: weight of the item-item model's standardised scores beside the shared factors' in cross-platform scores. Beside the
    shipped α and β, on the tuning slices, it costs 1.8 % of Recall between separate catalogues (``movies``) and brings 1.2 %
    between parts of one data set (``quickstart``); 1 would cost 7.1 % and bring 2.2 %."""
    beta: Annotated[float, Field(ge=0)] | None = None
    """β: weight of log popularity in cross-platform scores; null as for ``attribute_weight``."""
    ranker: RankerConfig = RankerConfig()
    """The ranking stage; the verdict decides whether it serves."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds local training; the platform's name is mixed in."""


class EngineConfig(FrozenModel):
    """``training`` of ``platform.yaml``."""

    model_config = ConfigDict(validate_default=True, revalidate_instances="always")

    engine: Literal["local", "ray"] = "local"
    """local: this process holds all users; ray: a Ray cluster streams them from shards on disk, and this process holds none
    but a sample. Needs ``pip install 'crossfed[ray]'`` here and the same environment on the cluster's machines."""
    address: str = "auto"
    """Of the cluster: auto, the one that runs on this machine; or HOST:PORT of its head."""
    shards: ConfigPath = Path("shards")
    """Folder that ``crossfed-client data partition`` writes, and all machines of the cluster see under the same path."""
    block_users: Annotated[int, Field(ge=1)] = 16_384
    """How many users a worker has in memory at a time. Without privacy another number rounds sums otherwise."""
    sample_users: Annotated[int, Field(ge=100)] = 50_000
    """About how many users, drawn by a hash, the agent holds to build and judge its own models on; nothing that leaves
    depends on them."""


def shipped_weights(config: PersonalizationConfig, *, private: bool) -> tuple[float, float]:
    """β and α as configured, else the shipped ones: noise blurs the factors, so what does not need them says more."""
    beta = (1.0 if private else SHIPPED_BETA) if config.beta is None else config.beta
    weight = SHIPPED_ATTRIBUTE_WEIGHT if config.attribute_weight is None else config.attribute_weight
    return beta, weight if config.attributes else 0.0


SHIPPED_BETA = 0.3
SHIPPED_ATTRIBUTE_WEIGHT = 2.0
"""Where a platform has no items hidden to choose on. Between separate catalogues more would be better, between parts of one
data set less: on the tuning slices of ``movies`` Recall is 19 % above that of the factors alone, of ``quickstart`` as high."""
