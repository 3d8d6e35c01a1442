"""A platform's words when it joins depend on what it declares to be public of its items, and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.contributions.membership import introduction
from client.data.dataset import ItemTable
from client.data.describe import describe_items
from client.data.training import TrainingData
from client.deploy.loading import load_training_data
from common.catalogue import ItemCard, unpack_blobs
from common.config.attributes import DescribeConfig
from common.config.federation import FederationPlan
from common.errors import ConfigError
from tests.support import SECRET, matrix, training_data
from tests.support.platform_files import config

ATTRIBUTES = {"maker": "category", "year": "number", "blurb": "text"}
KEYS = tuple(f"shop:{n}" for n in range(6))
PLAN = FederationPlan(platforms=3, attributes=ATTRIBUTES)
PUBLIC = {"author": ["A", "B", None, "A", "C", "B"], "year": [1.0, 2.0, None, 4.0, 5.0, 6.0], "blurb": ["x y"] * 6}


def data_of(histories: list[list[int]], public: dict[str, Any] = PUBLIC, **private: Any) -> TrainingData:
    given_data = training_data(KEYS, matrix([set(own) for own in histories] or [[]], len(KEYS)))
    items = ItemTable(KEYS, KEYS, (("Drama",),) * len(KEYS), pl.DataFrame({**public, **private}))
    declared = {
        "maker": {"kind": "category", "column": "author"},
        "year": {"kind": "number"},
        "blurb": {"kind": "text"},
    }
    items, _ = describe_items(items, {name: DescribeConfig.model_validate(own) for name, own in declared.items()})
    return replace(given_data, items=items)


def said(data: TrainingData, plan: FederationPlan = PLAN) -> tuple[Any, ...]:
    """All of it: the sealed cards by what is in them and by their lengths, since their nonces are random."""
    arrays = introduction(plan, data, SECRET, None)
    boxes = unpack_blobs(arrays.pop("cards"), arrays["card_offsets"])
    cards = SECRET.open_cards(boxes, arrays["digests"], plan.attributes.kinds)
    return cards, [len(box) for box in boxes], {name: array.tolist() for name, array in arrays.items()}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=5),
    st.lists(st.text(max_size=30), min_size=6, max_size=6),
)
def test_neither_interactions_nor_other_columns_show(histories: list[list[int]], secret: list[str]) -> None:
    assert said(data_of(histories, margin=secret)) == said(data_of([[0]]))


@pytest.mark.parametrize(
    "changed",
    [
        {"author": ["Z", *PUBLIC["author"][1:]]},
        {"year": [9.0, *PUBLIC["year"][1:]]},
        {"blurb": ["other", *["x y"] * 5]},
    ],
)
def test_what_is_declared_does_show(changed: dict[str, Any]) -> None:
    assert said(data_of([[0]], {**PUBLIC, **changed})) != said(data_of([[0]]))


def test_a_platform_that_describes_nothing_says_what_it_always_said() -> None:
    data = data_of([[0]])
    bare = replace(data, items=replace(data.items, further=type(data.items.further)()))
    cards, lengths, arrays = said(bare, FederationPlan(platforms=3))
    assert cards == [ItemCard(key, key, ("Drama",)) for key in KEYS]
    assert set(lengths) == {12 + 128 + 16}
    tokens, offsets = SECRET.feature_tokens([("genre:Drama",)] * len(KEYS))
    assert (arrays["feature_tokens"], arrays["feature_offsets"]) == (tokens.tolist(), offsets.tolist())


def test_tokens_tell_who_has_one_in_common_and_not_what() -> None:
    _, _, arrays = said(data_of([[0]]))
    own = np.split(np.array(arrays["feature_tokens"], dtype=np.uint64), arrays["feature_offsets"][1:-1])
    same_maker = set(own[0].tolist()) & set(own[3].tolist())
    assert len(same_maker) == len(set(own[0].tolist()) & set(own[1].tolist())) + 1
    words = SECRET.feature_tokens([("maker=a",)])[0].tolist()
    assert words[0] in same_maker
    assert not {len(row) for row in own} - {1, 4, 3}, "texts have no tokens, and what is missing has none"


def _loaded(folder: Path, mode: str, rows: str, catalogue: str) -> TrainingData:
    folder.mkdir()
    platform = config(
        folder,
        plan={
            "federation": "films",
            "platforms": 2,
            "privacy": {"mode": mode, "noise": "per_platform"},
            "attributes": {"maker": "category"},
        },
        catalogue={"describe": {"maker": "category"}},
        data={
            "interactions": {"path": folder / "views.csv"},
            "items": {"path": folder / "films.csv", "namespace": "imdb"},
            "catalogue": catalogue,
        },
    )
    (folder / "films.csv").write_text("item_id,title,maker\n" + "".join(f"{n},Film {n},M{n % 3}\n" for n in range(6)))
    (folder / "views.csv").write_text("user_id,item_id\na,0\na,1\nc,1\nc,2\n" + rows)
    return load_training_data(platform)


def test_whether_an_item_has_a_card_says_nothing_of_who_has_it(tmp_path: Path) -> None:
    alone = _loaded(tmp_path / "alone", "user", "", "items_file")
    joined = _loaded(tmp_path / "joined", "user", "new,4\nnew,5\nnew,0\n", "items_file")
    plan = FederationPlan(platforms=2, attributes={"maker": "category"})
    assert said(alone, plan) == said(joined, plan)
    assert len(said(alone, plan)[0]) == 6
    with pytest.raises(ConfigError, match="catalogue"):
        _loaded(tmp_path / "refused", "user", "new,4\n", "interactions")
    shown = [_loaded(tmp_path / name, "none", rows, "interactions") for name, rows in (("x", ""), ("y", "new,4\n"))]
    assert said(shown[0], plan) != said(shown[1], plan), "which is why the above is refused"
