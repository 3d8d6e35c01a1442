"""Finished models as stores hold them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from client.data.dataset import ItemDescriptions
from client.data.described import Described
from client.personalization.platform_model import OwnVerdict, PlatformModel
from client.scoring.blend import Blend
from client.scoring.factors import FactorModel
from common.attributes import AttributeKind, Value, vector_of
from tests.support import MODEL, random_matrix


def model_of(seed: int = 0, verdict: str = "blend", *, explicit: bool = False, anchored: bool = True) -> PlatformModel:
    """A platform of 5 items, 4 of them in a vocabulary of 9, with random factors."""
    rng = np.random.default_rng(seed)
    config = MODEL.model_copy(update={"feedback": "explicit"}) if explicit else MODEL
    row = config.dimension + explicit

    def factors(m: int) -> FactorModel:
        mean = 3.25 if explicit else 0.0
        return FactorModel(
            item_parameters=rng.standard_normal((m, row)).astype(np.float32), config=config, value_mean=mean
        )

    own_positions = np.array([3, -1, 0, 8, 5], dtype=np.int32)
    owners = rng.random((9, 3)) < 0.4
    owners[:, 2] |= ~owners.any(axis=1)
    owners[:, 1] = np.isin(np.arange(9), own_positions)
    titles = tuple(f"Größe {i} – 数{i}" for i in range(9))
    return PlatformModel(
        platform="here",
        server_round=7,
        platforms=("a", "here", "z"),
        vocabulary=ItemDescriptions(
            keys=("", *(f"x:{i}" for i in range(1, 9))),
            titles=titles,
            genres=((), *((f"g{i}", "h") for i in range(1, 9))),
        ),
        owners=owners,
        shared=factors(9),
        foreign_popularity=rng.random(9) * 30,
        own=ItemDescriptions(
            keys=("x:3", "here:1", "y:0", "x:8", "x:5"), titles=tuple("abcde"), genres=((), ("g",), (), ("h", "i"), ())
        ),
        own_positions=own_positions,
        local=factors(5),
        anchored=factors(5) if anchored else None,
        verdict=OwnVerdict(
            name=verdict,
            weight=0.5 if verdict == "blend" else None,
            metric="ndcg@10",
            local_mean=0.1,
            chosen_mean=0.2,
            interval=(0.01, 0.3),
        ),
        cross=Blend(weights={"shared": 1.0}, beta=0.4),
        user_ids=("anna", "bernd, jr.", "名"),
        histories=random_matrix(rng, 3, 5, explicit=explicit),
    )


def described(model: PlatformModel) -> PlatformModel:
    """``model`` with a maker, topics, a year, a text and a vector of some items; the platform itself tells no text."""

    def of(items: ItemDescriptions, kinds: dict[str, AttributeKind]) -> ItemDescriptions:
        rows: list[dict[str, Value]] = []
        for key in items.keys:
            n = sum(key.encode()) % 7
            told: dict[str, Value] = {
                "maker": f"Maker {n % 3}",
                "topics": (f"t{n % 2}", "every"),
                "year": 1990.0 + n,
                "blurb": f"On {n}",
                "cover": vector_of(np.array([n, 1.0])),
            }
            rows.append({name: value for name, value in told.items() if key and n and name in kinds})
        return replace(items, further=Described.of_rows(kinds, rows))

    kinds: dict[str, AttributeKind] = {
        "maker": "category", "topics": "categories", "year": "number", "blurb": "text", "cover": "vector"
    }  # fmt: skip
    own = {name: kind for name, kind in kinds.items() if name != "blurb"}
    return replace(model, vocabulary=of(model.vocabulary, kinds), own=of(model.own, own))
