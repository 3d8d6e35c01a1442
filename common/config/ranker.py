"""The ranking stage: whether a platform orders its final lists by a small cross network, and how that is trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.config.base import FrozenModel

Share = Annotated[float, Field(gt=0, lt=1)]


class RankerConfig(FrozenModel):
    """A deep & cross network (Wang et al. 2021) over the candidates of several scorers. Trained at home on own users."""

    enabled: bool = False
    """Whether the stage is there at all."""
    candidates: Annotated[int, Field(ge=2, le=10_000)] = 100
    """Items of a user that are ordered anew; the others keep their order below them."""
    layers: Annotated[int, Field(ge=1, le=8)] = 2
    """Cross layers: features meet in products of up to this number plus one."""
    genre_buckets: Annotated[int, Field(ge=1, le=4096)] = 32
    """Genres and other categories are hashed into so many 0/1 features, the same on every platform."""
    negatives: Annotated[int, Field(ge=1, le=1000)] = 10
    """Candidates drawn for each item that a user did choose."""
    withheld: Share = 0.2
    """Share of each user's training interactions that is taken out of the history and has to be found."""
    calibration_users: Share = 0.25
    """Share of the users who are not trained on: they stop the training, and their lists calibrate the probabilities."""
    epochs: Annotated[int, Field(ge=1, le=1000)] = 40
    """Passes over the training users, at most."""
    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Epochs without a lower loss on other users before it stops."""
    batch: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """Candidates of one training step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 3e-3
    """Of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    """Of AdamW."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of initial weights and drawn candidates."""
