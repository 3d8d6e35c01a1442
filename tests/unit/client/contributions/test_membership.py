from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.contributions.membership import Membership
from client.data.training import TrainingData
from common.catalogue import FederationSecret, ItemCard, Vocabulary, join_boxes, pack_blobs, split_boxes, unpack_blobs
from common.contributions.broadcast import card_arrays, vocabulary_arrays
from common.errors import CatalogueError
from tests.support import SECRET, matrix, training_data

HERE = ["shop:a", "imdb:2", "imdb:1", "shop:b"]
THERE = ["imdb:1", "imdb:3"]
ALL_BUT_B = np.array([True, True, True, False])


def own_data(shared: Any = ALL_BUT_B) -> TrainingData:
    return training_data(HERE, matrix([[0, 1], [2, 3]], 4), shared=shared)


def vocabulary_message(data: TrainingData, cards: bool = True) -> dict[str, Any]:
    """Return what an honest aggregator sends to ``here`` and ``there``."""
    own = SECRET.digests(data.items.keys[column] for column in data.shared_columns)
    foreign = SECRET.digests(THERE)
    vocabulary = Vocabulary.empty().extended({"here": own, "there": foreign})
    boxes = {d.tobytes(): b for d, b in zip(own, SECRET.seal_cards(data.cards(), own), strict=True)}
    described = [ItemCard(key, f"Elsewhere {key}", ("Noir",)) for key in THERE]
    boxes |= {d.tobytes(): b for d, b in zip(foreign, SECRET.seal_cards(described, foreign), strict=True)}
    sealed = [join_boxes([boxes[digest.tobytes()]]) if cards else b"" for digest in vocabulary.digests]
    return {**vocabulary_arrays(vocabulary), **card_arrays(sealed)}


def join(arrays: dict[str, Any], data: TrainingData, platforms: tuple[str, ...] = ("here", "there")) -> Membership:
    return Membership.of("here", platforms, arrays, data, SECRET)


def position_of(arrays: dict[str, Any], key: str) -> int:
    digest = SECRET.digests([key])[0]
    (position,) = np.flatnonzero((arrays["digests"] == digest).all(axis=1))
    return int(position)


def test_every_own_item_finds_its_place_and_an_unshared_one_has_none() -> None:
    data = own_data()
    arrays = vocabulary_message(data)
    membership = join(arrays, data)
    assert membership.own_positions.tolist() == [*(position_of(arrays, key) for key in HERE[:3]), -1]
    assert membership.shared_positions.tolist() == membership.own_positions[:3].tolist()
    assert membership.owners.sum() == 5


def test_a_platform_that_shares_nothing_still_finds_its_items() -> None:
    data = own_data(np.zeros(4, dtype=bool))
    arrays = vocabulary_message(data)
    membership = join(arrays, data)
    assert membership.own_positions.tolist() == [-1, -1, position_of(arrays, "imdb:1"), -1]
    assert len(membership.shared_positions) == 0


def test_own_descriptions_come_first_then_cards_then_a_blank() -> None:
    data = own_data()
    for cards, expected in ((True, "Elsewhere imdb:3"), (False, "(an item that its platform does not describe)")):
        arrays = vocabulary_message(data, cards)
        described = join(arrays, data).vocabulary
        assert described.titles[position_of(arrays, "imdb:1")] == "Title of imdb:1"
        assert described.titles[position_of(arrays, "imdb:3")] == expected
        assert described.keys[position_of(arrays, "imdb:3")] == ("imdb:3" if cards else "")
        assert described.genres[position_of(arrays, "imdb:3")] == (("Noir",) if cards else ())


def test_cards_alone_describe_common_and_foreign_items() -> None:
    data = own_data()
    for sent in (True, False):
        arrays = vocabulary_message(data, sent)
        cards = join(arrays, data).cards
        for key in THERE:
            position = position_of(arrays, key)
            assert cards.titles[position] == (f"Elsewhere {key}" if sent else "")
            assert cards.genres[position] == (("Noir",) if sent else ())


def without(arrays: dict[str, Any], key: str) -> dict[str, Any]:
    kept = np.arange(len(arrays["digests"])) != position_of(arrays, key)
    offsets = np.zeros(kept.sum() + 1, dtype=np.int64)
    return {
        "digests": arrays["digests"][kept],
        "owners": arrays["owners"][kept],
        "cards": arrays["cards"][:0],
        "card_offsets": offsets,
    }


def repeated(arrays: dict[str, Any]) -> dict[str, Any]:
    digests = arrays["digests"].copy()
    digests[position_of(arrays, "imdb:3")] = digests[position_of(arrays, "imdb:1")]
    return arrays | {"digests": digests}


def also_owns(arrays: dict[str, Any]) -> dict[str, Any]:
    owners = arrays["owners"].copy()
    owners[position_of(arrays, "imdb:3"), 0] = 1
    return arrays | {"owners": owners}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda arrays: without(arrays, "shop:a"), "lacks an item"),
        (repeated, "repeats an item"),
        (also_owns, "shares other items than it does"),
    ],
)
def test_a_vocabulary_that_is_not_ours_is_refused(change: Any, reason: str) -> None:
    data = own_data()
    with pytest.raises(CatalogueError, match=reason):
        join(change(vocabulary_message(data)), data)


def test_a_vocabulary_without_this_platform_is_refused() -> None:
    data = own_data()
    with pytest.raises(CatalogueError, match="does not list this platform"):
        join(vocabulary_message(data), data, ("somewhere", "there"))


def test_cards_of_another_secret_leave_their_items_undescribed() -> None:
    data = own_data()
    arrays = vocabulary_message(data)
    other = FederationSecret(b"another secret of 32 bytes......")
    cards = other.seal_cards([ItemCard("x:1", "?")] * len(arrays["digests"]), arrays["digests"])
    sealed, offsets = pack_blobs([join_boxes([card]) for card in cards])
    described = join(arrays | {"cards": sealed, "card_offsets": offsets}, data).vocabulary
    assert described.titles[position_of(arrays, "imdb:3")] == "(an item that its platform does not describe)"
    assert described.titles[position_of(arrays, "imdb:1")] == "Title of imdb:1"


def test_a_spoilt_card_does_not_hide_the_next_ones(caplog: pytest.LogCaptureFixture) -> None:
    data = own_data()
    arrays = vocabulary_message(data)
    digests = arrays["digests"]
    other = FederationSecret(b"another secret of 32 bytes......")
    spoilt = other.seal_cards([ItemCard("x:1", "?")] * len(digests), digests)
    good = [split_boxes(blob) for blob in unpack_blobs(arrays["cards"], arrays["card_offsets"])]
    joined = [join_boxes([bad, bad[:20], *boxes]) for bad, boxes in zip(spoilt, good, strict=True)]
    sealed, offsets = pack_blobs(joined)
    told, expected = join(arrays | {"cards": sealed, "card_offsets": offsets}, data).cards, join(arrays, data).cards
    assert (told.keys, told.titles, told.genres) == (expected.keys, expected.titles, expected.genres)
    assert all(told.keys)
    assert "cannot be used" not in caplog.text
