"""Frozen text vectors and described attributes as item inputs of the deep model, for own, foreign and new items alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from client.contributions.membership import Membership
from client.contributions.towers import TowerItems, make_model
from client.data.dataset import ItemDescriptions, ItemTable
from client.data.described import Described
from client.towers.features import ItemFeatures, item_columns
from client.towers.texts import projected_texts, signs
from common.attributes import vector_of
from common.config.federation import FederationPlan
from common.config.towers import EncoderConfig
from common.errors import DataError
from tests.support import matrix, training_data

TEXT = {"encoder": "usem3"}
TOWERS: dict[str, Any] = {
    "dimension": 8,
    "encoders": [
        {"attribute": "title", "kind": "text_vector", "width": 16},
        {"attribute": "maker", "kind": "multi_hot", "buckets": 32, "width": 4},
        {"attribute": "year", "kind": "numeric", "width": 4},
        {"attribute": "cover", "kind": "vector", "width": 2},
    ],
    "sequence": {"kind": "mean", "length": 5},
}
ATTRIBUTES = {"maker": "category", "year": "number", "cover": "vector"}
WORDS = ("old war film", "war film", "a quiet garden", "the garden in spring", "戦争 映画")


def words_as_vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """A sum of one random direction a word; zero where there is no text."""

    def of(word: str) -> NDArray[np.float64]:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
        return np.random.default_rng(seed).standard_normal(64)

    return np.array([sum((of(word) for word in text.split()), np.zeros(64)) for text in texts], dtype=np.float32)


def test_the_projection_is_the_same_everywhere_and_for_good() -> None:
    made = signs(5, 12)
    assert set(np.abs(made).round(12).ravel()) == {round(12**-0.5, 12)}
    bits = np.packbits(made.ravel() > 0).tobytes().hex()
    assert bits == signs_of_today(5, 12)
    assert (signs(9, 12)[:5] == made).all()


def signs_of_today(dimension: int, width: int) -> str:
    """By hand: the bits of SHAKE-128, a row at a time."""
    rows = []
    for row in range(dimension):
        digest = hashlib.shake_128(f"crossfed text projection 1 {row}".encode()).digest(-(-width // 8))
        rows.append("".join(f"{byte:08b}" for byte in digest)[:width])
    bits = "".join(rows)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)).hex()


def test_near_texts_stay_near_and_missing_ones_are_nowhere() -> None:
    found = projected_texts([*WORDS, "", "  "], words_as_vectors, 256)
    assert not found[5:].any()
    assert np.linalg.norm(found[:5], axis=1) == pytest.approx(np.ones(5))
    cosines = found[:5] @ found[:5].T
    assert cosines[0, 1] > 0.3 > np.abs(cosines[0, 2])
    assert projected_texts(["one"], words_as_vectors, 16).any(), "a single text is something"
    assert projected_texts([""], words_as_vectors, 16).shape == (1, 16)


def described_as(keys: Sequence[str], titles: Sequence[str], rows: Sequence[dict[str, Any]]) -> ItemDescriptions:
    further = Described.of_rows(ATTRIBUTES, rows)  # type: ignore[arg-type]
    return ItemDescriptions(keys=tuple(keys), titles=tuple(titles), genres=((),) * len(keys), further=further)


def world() -> tuple[ItemDescriptions, ItemTable]:
    """Item 0 is own and theirs, 1 only theirs, 2 nobody's; own item x:3 is shared with nobody."""
    cover = vector_of(np.array([1.0, 2.0]))
    vocabulary = described_as(
        ["x:0", "x:1", ""],
        ["war film", "the garden in spring", "(an item that its platform does not describe)"],
        [{"maker": "A", "year": 1990.0, "cover": cover}, {"maker": "B", "year": 1950.0, "cover": cover}, {}],
    )
    further = Described({"maker": "category"}, {"maker": ("Mine", None)})
    own = ItemTable(
        ("x:0", "x:3"), ("war film", "old war film"), ((), ()), pl.DataFrame({"maker": ["ignored", "too"], "n": [1, 2]})
    )
    return vocabulary, replace(own, further=further)


def test_own_and_foreign_items_are_described_alike() -> None:
    vocabulary, own = world()
    columns = item_columns(vocabulary, own, np.array([0, 3], dtype=np.int32), 4)
    assert columns["title"] == ["war film", "the garden in spring", None, "old war film"]
    assert columns["maker"] == ["Mine", "B", None, None], "what is declared, not a column of the same name"
    assert columns["year"] == [1990.0, 1950.0, None, None]
    assert columns["cover"] == [[1.0, 2.0], [1.0, 2.0], None, None]
    assert columns["n"] == [1, None, None, 2], "other columns are of own items alone"


def test_a_foreign_vector_of_another_length_is_missing() -> None:
    vocabulary, own = world()
    odd = {**vocabulary.further.columns, "cover": (vector_of(np.ones(2)), vector_of(np.ones(9)), vector_of(np.ones(2)))}
    vocabulary = replace(vocabulary, further=Described(vocabulary.further.kinds, odd))
    columns = item_columns(vocabulary, own, np.array([0, 3], dtype=np.int32), 4)
    assert columns["cover"][:3] == [[1.0, 1.0], None, [1.0, 1.0]]
    (feature,) = ItemFeatures.of([EncoderConfig(attribute="cover", kind="vector", width=2)], columns, 4).features
    assert feature.present.tolist() == [True, False, True, False]


def a_model(text_of_foreign: str, text_of_own: str = "old war film", kind: str = "mean") -> Any:
    """Of four items: 0 is own and the others', 1 the others', 2 undescribed, 3 own and shared with nobody."""
    vocabulary, own = world()
    titles = (vocabulary.titles[0], text_of_foreign, vocabulary.titles[2])
    vocabulary = replace(vocabulary, titles=titles)
    own = replace(own, titles=(own.titles[0], text_of_own))
    data = replace(training_data(own.keys, matrix([[0, 1], [0]], 2)), items=own, shared=np.array([True, False]))
    membership = Membership(
        platforms=("here", "there"),
        owners=np.array([[True, True], [False, True], [False, True]]),
        vocabulary=vocabulary,
        cards=vocabulary,
        own_positions=np.array([0, -1], dtype=np.int32),
        shared_positions=np.array([0], dtype=np.int32),
        digest=b"",
    )
    towers = TOWERS | {"sequence": {"kind": kind, "length": 5}}
    plan = FederationPlan.model_validate(
        {"platforms": 2, "attributes": ATTRIBUTES, "text": TEXT, "towers": towers, "privacy": {"mode": "none"}}
    )
    return make_model(plan, data, membership.vocabulary, TowerItems.of(membership), words_as_vectors)


def test_a_foreign_item_has_a_place_by_its_words() -> None:
    """Rows of ids are taken out: what is left is content, which nobody here has ever interacted with."""
    vectors = []
    for text in ("old war film", "a quiet garden"):
        model = a_model(text)
        values = model.values()
        model.load({**values, "item_rows": np.zeros_like(values["item_rows"])})
        found = np.asarray(model.item_vectors())
        assert np.abs(found[1]).max() > 1e-3
        assert not found[2].any(), "an item that nobody describes is nowhere"
        vectors.append(found)
    assert (vectors[0][1] != vectors[1][1]).any()
    # The texts of the first are nearer to the own item's.
    near = [float(found[1] @ found[0] / np.linalg.norm(found[1]) / np.linalg.norm(found[0])) for found in vectors]
    assert near[0] != near[1]


@pytest.mark.parametrize("kind", ["mean", "transformer", "gru"])
def test_a_history_is_read_by_the_words_of_its_items(kind: str) -> None:
    """Without a row of its own an item is its content: of a foreign item, of a new own one, and of the item that is scored."""

    plain = a_model("old war film", kind=kind)
    weights = plain.values()

    def user_and_items(model: Any, row: int) -> tuple[np.ndarray, np.ndarray]:
        model.load({**weights, "item_rows": np.zeros_like(weights["item_rows"])})
        for variable in model.private.values():
            variable.assign(np.zeros(variable.shape))
        items = model.item_vectors()
        windows = (np.array(one, dtype=np.int32) for one in ([-1], [[row, -1, -1, -1, -1]], [1]))
        user = model.user_vectors(*windows, items)
        return np.asarray(user)[0], np.asarray(items)

    for row, other in ((1, {"text_of_foreign": "a quiet garden"}), (3, {"text_of_own": "a quiet garden"})):
        before, items = user_and_items(plain, row)
        after, changed = user_and_items(a_model(**{"text_of_foreign": "old war film", "kind": kind} | other), row)
        assert np.isfinite(after).all()
        assert np.abs(after - before).max() > 1e-4, (kind, row)
        assert np.abs(changed[row] - items[row]).max() > 1e-4
        again, _ = user_and_items(a_model("old war film", kind=kind), row)
        assert again == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text": None}, "encoders.0.kind: text_vector needs a text encoder"),
        ({"attributes": {**ATTRIBUTES, "year": "text"}}, "encoders.2.kind: numeric cannot read year, a text"),
        ({"attributes": {**ATTRIBUTES, "cover": "category"}}, "encoders.3.kind: vector cannot read cover, a category"),
    ],
)
def test_encoders_read_what_the_plan_has(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        FederationPlan.model_validate({"attributes": ATTRIBUTES, "text": TEXT, "towers": TOWERS} | changes)


def test_words_without_an_encoder_are_refused() -> None:
    encoder = EncoderConfig(attribute="title", kind="text_vector", width=4)
    with pytest.raises(DataError, match=r"name one at plan\.text"):
        ItemFeatures.of([encoder], {"title": ["x"]}, 1)
    assert not ItemFeatures.of([encoder], {}, 1).features[0].present.any()
