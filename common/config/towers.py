"""The deep models: what a two-tower model is made of, how it is trained, and what of it is shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.attributes import ALWAYS, AttributeKind
from common.config.base import FrozenModel

EncoderKind = Literal["multi_hot", "numeric", "text", "text_transformer", "sentence", "text_vector", "image", "vector"]
"""multi_hot: categories, one or many per item; numeric: a number; text: hashed tokens and convolutions;
text_transformer: hashed tokens and one Transformer block; sentence: a local sentence-embedding model; text_vector: the
frozen encoder of ``plan.text``; image: a small CNN over files; vector: a precomputed embedding (audio, video, image)."""


_READS: Mapping[AttributeKind, tuple[EncoderKind, ...]] = {
    "category": ("multi_hot", "text", "text_transformer", "text_vector"),
    "categories": ("multi_hot", "text_vector"),
    "number": ("numeric", "multi_hot"),
    "text": ("text_vector", "text", "text_transformer", "sentence", "multi_hot"),
    "vector": ("vector",),
}
"""Encoders that may read a described attribute, the likeliest first."""


class EncoderConfig(FrozenModel):
    """One attribute of an item and the layers that read it. Nothing here depends on any platform's vocabulary of words."""

    attribute: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
    """``title`` and ``genres`` are always there, and what ``plan.attributes`` names is known of other platforms' items, too;
    any other is a column of the items file, known of own items alone."""
    kind: EncoderKind
    """multi_hot: categories; numeric: a number; text: hashed tokens and convolutions; text_transformer: hashed tokens and one
    Transformer block; sentence: a local sentence model; text_vector: what the frozen encoder of ``plan.text`` says, projected
    to ``width`` numbers; image: a small CNN over files; vector: a precomputed embedding."""
    buckets: Annotated[int, Field(ge=2, le=1_000_000)] = 4096
    """multi_hot, text: values or tokens are hashed into so many rows, the same on every platform."""
    width: Annotated[int, Field(ge=1, le=4096)] = 32
    """Of an embedded token or category; of ``vector``, how long it is."""
    length: Annotated[int, Field(ge=1, le=512)] = 16
    """text: tokens that are read, at most; image: side of the square that pictures are scaled to."""
    path: str | None = None
    """sentence: folder of the local model (a Keras SavedModel that maps text to vectors of ``width``)."""


class SequenceConfig(FrozenModel):
    """The encoder of a user's recent history."""

    kind: Literal["none", "mean", "gru", "transformer", "hstu"] = "transformer"
    """none: no history; mean: the mean of its items; gru: a recurrent network; transformer: self-attention (Kang & McAuley
    2018); hstu: pointwise attention with a gate and a bias by distance (Zhai et al. 2024)."""
    length: Annotated[int, Field(ge=1, le=1000)] = 50
    """Most recent items that are read."""
    blocks: Annotated[int, Field(ge=1, le=12)] = 2
    """transformer, hstu: how many blocks, one above the other."""
    heads: Annotated[int, Field(ge=1, le=16)] = 2
    """transformer, hstu: attention heads of a block."""
    feed_forward: Annotated[int, Field(ge=1, le=8)] = 1
    """transformer: width of a block's feed-forward layer, as a multiple of ``dimension``."""
    positions: Literal["end", "start", "none"] = "end"
    """transformer, hstu: whether an item's place is counted from the end of the history, from its start, or not told; hstu
    knows distances in any case."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the values that a training step sets to 0."""


class TowerTraining(FrozenModel):
    """Local training between two server rounds, and how the aggregator combines its results."""

    rounds: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Server rounds of the deep model, at most; exactly, under privacy. With ``place: home``, rounds of training at home, at
    most: the best of them by the platform's validation users is kept."""
    local_epochs: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Passes over the platform's users in one round. ``mode: none`` or ``place: home`` only."""
    batch_users: Annotated[int, Field(ge=1, le=65_536)] = 128
    """Users of one training step."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """Of the platforms' own optimiser (Adam)."""
    schedule: Literal["constant", "cosine", "warmup", "warmup_cosine"] = "constant"
    """Of the learning rate over the server rounds: cosine, down to a tenth; warmup, up over the first tenth of them."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A step takes this share, times the learning rate, off every value but biases and norms (Loshchilov & Hutter 2019)."""
    weigh: Literal["users", "targets"] = "users"
    """What counts alike in a training step: users, however long their histories are, or targets. Under privacy users do."""
    loss: Literal["sampled_softmax", "bpr", "squared"] = "sampled_softmax"
    """sampled_softmax: with log-Q correction (Yi et al. 2019); all items of the catalogue where ``negatives`` is 0."""
    negatives: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Items drawn uniformly for each batch, the same for all its users; 0: every item of the platform's catalogue."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Scores are divided by it before the softmax."""
    aggregation: Literal["fedavg", "fedprox", "fedadam", "median", "trimmed_mean"] = "fedavg"
    """How platforms' updates become one: fedavg, the weighted mean; fedprox, the same with local updates held near the
    shared ones (``proximal``); fedadam, Adam at the server; median and trimmed_mean, robust means, ``mode: none`` only."""
    proximal: Annotated[float, Field(ge=0)] = 0.0
    """μ of FedProx (Li et al. 2020)."""
    server_learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    """η of FedAdam (Reddi et al. 2021), and of the server's Adam over noisy sums."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after so many rounds without a lower loss; 0 never stops. Unused under privacy."""


class TowerPrivacy(FrozenModel):
    """User-level DP training: Poisson-sampled users, one clipped contribution each (McMahan et al. 2018).

    With ``place: home`` nothing of it is used: the deep model releases nothing, and the factorisation has all of ε.
    """

    spend: bool = False
    """Says that ε is to be spent on a federated deep model although one that each platform trains at home ranks several times
    better for nothing: without it no new plan that does so is made."""

    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """q: probability with which each user takes part in a round."""
    clip_norm: Annotated[float, Field(gt=0)] = 0.5
    """Of a user's whole gradient, over all shared variables."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of the run's ε and δ that goes to the deep model; the factorisation keeps the rest."""
    noise_multiplier: Annotated[float, Field(gt=0)] | None = None
    """z = σ / clip_norm of one round's sum. Part of the plan, since the aggregator has no accountant; every platform checks
    with its own that the rounds stay within the deep model's part of ε. Simulations compute it."""


class TowerConfig(FrozenModel):
    """A two-tower model over the shared vocabulary.

    score(u, i) = ⟨user(u), item(i)⟩; item(i) = id row + gated sum of attribute encoders; user(u) = gated sum of the
    sequence encoder over item(i) of the recent history, a private user embedding and private profile attributes.
    """

    place: Literal["federation", "home"] = "federation"
    """federation: platforms train one model together, in rounds of its own; home: each trains its own after the last round, on
    its own users, without noise, and nothing of it leaves. Under ``privacy.mode: user`` take home."""
    dimension: Annotated[int, Field(ge=1, le=1024)] = 64
    """Length of a user's and of an item's vector; a multiple of ``sequence.heads``."""
    item_ids: bool = True
    """Whether items have an id row besides their content; without it every item is a cold item."""
    id_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the items whose id row a training step hides, so that content learns to stand alone (Volkovs et al. 2017)."""
    encoders: tuple[EncoderConfig, ...] = ()
    """The attributes of items that are read, one encoder each."""
    sequence: SequenceConfig = SequenceConfig()
    """How a user's recent history becomes a vector."""
    user_embedding: bool = False
    """A row per user, trained at home and never sent."""
    profile: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = ()
    """Columns of the users file that the user tower reads; their weights are private too."""
    adapter: bool = False
    """A private linear map behind the user tower, trained after the shared variables, which it leaves as they are."""
    training: TowerTraining = TowerTraining()
    """Local training, and how its results are combined."""
    privacy: TowerPrivacy = TowerPrivacy()
    """Training under ``mode: user``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [encoder.attribute for encoder in self.encoders]
        if len(set(names)) != len(names):
            raise ValueError("encoders: an attribute is named twice; one encoder reads each")
        if not self.item_ids and not self.encoders:
            raise ValueError("item_ids: false needs encoders, or an item would have no vector")
        if self.sequence.kind == "none" and not (self.user_embedding or self.profile):
            raise ValueError("sequence.kind: none needs user_embedding or profile, or a user would have no vector")
        if self.dimension % self.sequence.heads and self.sequence.kind in ("transformer", "hstu"):
            raise ValueError("dimension must be a multiple of sequence.heads")
        return self

    def check_plan(
        self, *, explicit: bool, private: bool, attributes: Mapping[str, AttributeKind], texts: bool
    ) -> None:
        """Refuse what does not fit the rest of a plan.

        Args:
            attributes: kinds of ``plan.attributes``.
            texts: whether the plan has a text encoder.
            explicit: whether feedback is ratings.
            private: whether contributions carry noise. Then there is one noisy sum, of which no
                robust mean can be taken, and private variables stay as they are while shared ones train; a model that is
                trained at home contributes nothing.

        Raises:
            ValueError: with the key at fault.
        """
        for place, encoder in enumerate(self.encoders):
            kind = {**ALWAYS, **attributes}.get(encoder.attribute)
            if kind is not None and encoder.kind not in _READS[kind]:
                raise ValueError(
                    f"towers.encoders.{place}.kind: {encoder.kind} cannot read {encoder.attribute}, a {kind}; use "
                    f"{' or '.join(_READS[kind])}"
                )
            if encoder.kind == "text_vector" and not texts:
                raise ValueError(
                    f"towers.encoders.{place}.kind: text_vector needs a text encoder; name one at plan.text"
                )
        training = self.training
        if explicit and training.loss != "squared":
            raise ValueError(
                f"towers.training.loss: {training.loss} learns who chose what, and model.feedback is explicit; use squared"
            )
        if not explicit and training.loss == "squared":
            raise ValueError(
                "towers.training.loss: squared is for ratings, and model.feedback is implicit; use sampled_softmax or bpr"
            )
        if self.place == "home":
            return
        if private and training.aggregation in ("median", "trimmed_mean"):
            raise ValueError(
                f"towers.training.aggregation: {training.aggregation} needs each platform's own update; under "
                "privacy.mode: user there is one noisy sum, so use fedavg or fedadam"
            )
        if private and self.sequence.kind == "none":
            raise ValueError(
                "towers.sequence.kind: none leaves a user embedding and profiles alone, which are private and stay as "
                "they are while shared variables train under privacy; use mean, gru, transformer or hstu"
            )
