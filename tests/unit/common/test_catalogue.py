from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from common.catalogue import (
    DIGEST_BYTES,
    FederationSecret,
    ItemCard,
    Vocabulary,
    check_key,
    check_same_secret,
    join_boxes,
    pack_blobs,
    split_boxes,
    unpack_blobs,
)
from common.errors import CatalogueError, SecretMismatchError

SECRET = FederationSecret(b"s" * 32)
OTHER = FederationSecret(b"t" * 32)
keys = st.lists(st.integers(0, 15).map("item:{}".format), unique=True, max_size=8)
catalogues = st.dictionaries(st.sampled_from("abcd"), keys, max_size=4)
text = st.text(st.characters(codec="utf-8"), max_size=300)


def digests_of(platforms: dict[str, list[str]]) -> dict[str, np.ndarray]:
    return {name: SECRET.digests(items) for name, items in platforms.items()}


def test_a_digest_is_the_hmac_of_the_namespaced_key() -> None:
    derived = HKDF(hashes.SHA256(), 32, None, b"crossfed item digest v1").derive(b"s" * 32)
    expected = hmac.new(derived, b"imdb:0114709", hashlib.sha256).digest()
    assert SECRET.digests(["imdb:0114709"]).tobytes() == expected


def test_the_same_id_in_another_namespace_is_another_item() -> None:
    first, second = SECRET.digests(["imdb:1", "tmdb:1"])
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("key", ["0114709", ":1", "imdb:", "imdb: 1", "imdb:1 ", "im db:1", "", "-x:1", "imdb:1\n"])
def test_a_key_without_a_namespace_is_refused(key: str) -> None:
    with pytest.raises(CatalogueError, match="namespace"):
        check_key(key)


def test_a_short_secret_is_refused_and_a_secret_is_never_shown() -> None:
    with pytest.raises(CatalogueError, match="8 bytes"):
        FederationSecret(b"8 bytes!")
    assert repr(FederationSecret(b"tell nobody, ever")) == (
        f"FederationSecret(fingerprint={FederationSecret(b'tell nobody, ever').fingerprint})"
    )
    assert len(FederationSecret.generate()) == 32
    assert FederationSecret.generate() != FederationSecret.generate()


def test_different_secrets_are_detected_and_the_odd_platforms_named() -> None:
    prints = {"a": SECRET.fingerprint, "b": OTHER.fingerprint, "c": SECRET.fingerprint, "d": "x" * 16}
    with pytest.raises(SecretMismatchError, match="of b, d were made with another"):
        check_same_secret(prints)
    check_same_secret({"a": SECRET.fingerprint, "c": SECRET.fingerprint})
    check_same_secret({})


@given(
    st.builds(
        ItemCard, key=st.just("imdb:1"), title=text, genres=st.lists(text, max_size=3).map(tuple), link=st.none() | text
    )
)
def test_a_card_opens_as_it_was_sealed(card: ItemCard) -> None:
    digests = SECRET.digests(["imdb:1"])
    assert SECRET.open_cards(SECRET.seal_cards([card], digests), digests) == [card]


def test_a_card_that_is_kept_back_stays_empty() -> None:
    digests = SECRET.digests(["imdb:1", "imdb:2"])
    sealed = SECRET.seal_cards([None, ItemCard("imdb:2", "Heat")], digests)
    assert sealed[0] == b""
    assert SECRET.open_cards(sealed, digests) == [None, ItemCard("imdb:2", "Heat")]


def test_a_sealed_card_shows_neither_its_text_nor_its_length() -> None:
    digests = SECRET.digests(["imdb:1"])
    short, long = (
        SECRET.seal_cards([ItemCard("imdb:1", title)], digests)[0] for title in ("It", "A much longer title")
    )
    assert b"longer" not in long
    assert len(short) == len(long)
    assert SECRET.seal_cards([ItemCard("imdb:1", "It")], digests)[0] != short


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_tampered_card_costs_itself_alone(place: int, flip: int) -> None:
    digests = SECRET.digests(["imdb:1", "imdb:2"])
    first, second = SECRET.seal_cards([ItemCard("imdb:1", "Toy Story"), ItemCard("imdb:2", "Heat")], digests)
    box = bytearray(first)
    box[place % len(box)] ^= flip
    assert SECRET.open_cards([bytes(box), second], digests) == [None, ItemCard("imdb:2", "Heat")]


@pytest.mark.parametrize("length", [1, 11, 12, 20, 28])
def test_a_card_that_was_cut_off_leaves_its_item_undescribed(length: int) -> None:
    digests = SECRET.digests(["imdb:1"])
    box = SECRET.seal_cards([ItemCard("imdb:1", "Toy Story")], digests)[0]
    assert SECRET.open_cards([box[:length]], digests) == [None]


def test_cards_beside_other_items_or_of_another_secret_do_not_count(caplog: pytest.LogCaptureFixture) -> None:
    digests = SECRET.digests(["imdb:1", "imdb:2"])
    sealed = SECRET.seal_cards([ItemCard("imdb:1", "One"), ItemCard("imdb:2", "Two")], digests)
    assert SECRET.open_cards(sealed[::-1], digests) == [None, None]
    assert "2 of 2 item cards cannot be used" in caplog.text
    assert OTHER.open_cards(sealed, digests) == [None, None]


@pytest.mark.parametrize(
    "card",
    [
        ItemCard("imdb:2", "another item's"),
        ItemCard("no namespace", "?"),
        ItemCard("imdb:1", 3),  # type: ignore[arg-type]
        ItemCard("imdb:1", "?", genres=(1, 2)),  # type: ignore[arg-type]
        ItemCard("imdb:1", "?", genres=7),  # type: ignore[arg-type]
        ItemCard(None, "?"),  # type: ignore[arg-type]
        ItemCard("imdb:1", "?", link=[]),  # type: ignore[arg-type]
    ],
)
def test_a_holder_of_the_secret_cannot_seal_a_card_that_spoils_others(card: ItemCard) -> None:
    digests = SECRET.digests(["imdb:1", "imdb:2"])
    sealed = SECRET.seal_cards([card, ItemCard("imdb:2", "Heat")], digests)
    assert SECRET.open_cards(sealed, digests) == [None, ItemCard("imdb:2", "Heat")]


@given(catalogues)
def test_the_vocabulary_is_the_union_each_item_once(platforms: dict[str, list[str]]) -> None:
    digests = digests_of(platforms)
    vocabulary = Vocabulary.empty().extended(digests)
    every = {key for items in platforms.values() for key in items}
    assert sorted(map(bytes, vocabulary.digests)) == sorted(map(bytes, SECRET.digests(every)))
    for name, rows in digests.items():
        assert np.array_equal(vocabulary.digests[vocabulary.owners[name]], rows)
    owned = {key: sum(key in items for items in platforms.values()) for key in every}
    assert vocabulary.shared_items() == sum(count > 1 for count in owned.values())
    assert vocabulary.ownership().sum() == sum(owned.values())


@given(catalogues, st.randoms())
def test_neither_the_order_of_answers_nor_of_items_matters(platforms: dict[str, list[str]], random: object) -> None:
    names = list(platforms)
    random.shuffle(names)  # type: ignore[attr-defined]
    shuffled = {name: random.sample(platforms[name], len(platforms[name])) for name in names}  # type: ignore[attr-defined]
    vocabulary = Vocabulary.empty().extended(digests_of(platforms))
    again = Vocabulary.empty().extended(digests_of(shuffled))
    assert np.array_equal(vocabulary.digests, again.digests)
    assert list(vocabulary.owners) == list(again.owners)
    assert np.array_equal(vocabulary.ownership(), again.ownership())


@given(catalogues, catalogues)
def test_whoever_joins_later_moves_no_item(first: dict[str, list[str]], later: dict[str, list[str]]) -> None:
    before = Vocabulary.empty().extended(digests_of(first))
    after = before.extended(digests_of(later))
    assert np.array_equal(after.digests[: len(before)], before.digests)
    for name in first.keys() - later.keys():
        assert np.array_equal(after.owners[name], before.owners[name])
    assert len(after) == len({key for items in (*first.values(), *later.values()) for key in items})


def test_an_item_that_its_platform_no_longer_shares_keeps_its_place() -> None:
    before = Vocabulary.empty().extended(digests_of({"a": ["x:1", "x:2"]}))
    after = before.extended(digests_of({"a": ["x:2"]}))
    assert np.array_equal(after.digests, before.digests)
    assert np.array_equal(after.digests[after.owners["a"]], SECRET.digests(["x:2"]))


@pytest.mark.parametrize(
    "digests",
    [
        np.zeros((2, DIGEST_BYTES), np.uint8),
        np.zeros((1, 31), np.uint8),
        np.zeros((1, 32), np.int8),
        np.zeros(32, np.uint8),
    ],
)
def test_a_catalogue_with_repeats_or_of_wrong_shape_is_refused(digests: np.ndarray) -> None:
    with pytest.raises(CatalogueError, match="platform shop"):
        Vocabulary.empty().extended({"shop": digests})


def test_an_unknown_item_has_no_position() -> None:
    vocabulary = Vocabulary.empty().extended(digests_of({"a": ["x:1"]}))
    with pytest.raises(CatalogueError, match="lacks an item"):
        vocabulary.positions(SECRET.digests(["x:2"]))


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_blobs_come_back_as_they_were_packed(blobs: list[bytes]) -> None:
    assert unpack_blobs(*pack_blobs(blobs)) == blobs


@pytest.mark.parametrize("offsets", [[], [1, 4], [0, 3], [0, 5], [0, 3, 2, 4], [-1, 4]])
def test_offsets_that_do_not_cut_the_data_are_refused(offsets: list[int]) -> None:
    with pytest.raises(CatalogueError, match="offsets"):
        unpack_blobs(np.zeros(4, np.uint8), np.array(offsets, np.int64))


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_boxes_come_apart_as_they_were_joined(boxes: list[bytes]) -> None:
    assert split_boxes(join_boxes(boxes)) == boxes


@given(st.binary(max_size=60))
def test_what_does_not_come_apart_is_handed_on_and_opens_no_card(joined: bytes) -> None:
    boxes = split_boxes(joined)
    assert sum(map(len, boxes)) <= len(joined)
    assert SECRET.open_first_cards([boxes], SECRET.digests(["imdb:1"])) == [None]
