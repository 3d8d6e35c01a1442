"""Texts become vectors: any text, each once, the same with a cache or without."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.text.cache import VectorCache
from client.text.vectors import encode_texts, plain_text
from common.errors import ConfigError


class Letters:
    """Counts letters: an encoder of which everything is known."""

    name = "letters"
    digest = hashlib.sha256(b"letters").hexdigest()
    dimension = 8
    longest = 20

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        self.asked += texts
        assert all(0 < len(text) <= self.longest for text in texts)
        rows = [[1 + sum(ord(c) % 8 == k for c in text) for k in range(8)] for text in texts]
        return np.array(rows, dtype=np.float32)


TEXTS = ["The Godfather", "教父", "фильм", "فيلم", "", None, "  ", "The Godfather", "long " * 50]


def test_no_text_is_a_zero_vector_and_every_other_has_unit_length() -> None:
    done = encode_texts(TEXTS, Letters())
    lengths = np.linalg.norm(done.vectors, axis=1)
    assert lengths[[4, 5, 6]].tolist() == [0, 0, 0]
    np.testing.assert_allclose(np.delete(lengths, [4, 5, 6]), 1, atol=1e-3)
    assert (done.empty, done.cut, done.encoded) == (3, 1, 5)


def test_distinct_texts_are_encoded_once_and_long_ones_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    encoder = Letters()
    with caplog.at_level(logging.INFO):
        done = encode_texts(TEXTS, encoder)
    assert len(encoder.asked) == len(set(encoder.asked)) == 5
    assert (done.vectors[0] == done.vectors[7]).all()
    assert "1 texts are long, and only their beginnings are read" in caplog.text
    assert "3 items have no text" in caplog.text


def test_a_second_run_reads_the_cache_and_gives_the_same_bits(tmp_path: Path) -> None:
    first, second, cache = Letters(), Letters(), VectorCache(tmp_path / "private" / "texts.db")
    fresh = encode_texts(TEXTS, first)
    filled, again = encode_texts(TEXTS, first, cache), encode_texts(TEXTS, second, cache)
    assert second.asked == []
    assert again.cached == 5
    assert (fresh.vectors == filled.vectors).all()
    assert (fresh.vectors == again.vectors).all()


def test_the_cache_is_private_and_holds_no_words(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "private" / "texts.db")
    encode_texts(["The Godfather"], Letters(), cache)
    assert cache.path.stat().st_mode & 0o777 == 0o600
    assert cache.path.parent.stat().st_mode & 0o777 == 0o700
    assert b"Godfather" not in cache.path.read_bytes()


def test_another_model_does_not_get_the_vectors_of_this_one(tmp_path: Path) -> None:
    cache, other = VectorCache(tmp_path / "texts.db"), Letters()
    encode_texts(["a film"], Letters(), cache)
    other.digest = hashlib.sha256(b"other").hexdigest()
    assert encode_texts(["a film"], other, cache).encoded == 1


@pytest.mark.parametrize("damage", ["no database", "cut short", "spoilt", "empty", "other table"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, damage: str) -> None:
    cache = VectorCache(tmp_path / "texts.db")
    texts = [f"film {i}" for i in range(600)]
    right = encode_texts(texts, Letters(), cache).vectors
    content = cache.path.read_bytes()
    if damage == "other table":
        cache.path.unlink()
        database = sqlite3.connect(cache.path)
        database.execute("CREATE TABLE vectors (something INTEGER)")
        database.close()
    else:
        middle = len(content) // 2
        spoilt = content[:middle] + bytes(200) + content[middle + 200 :]
        kinds = {"no database": b"nothing" * 999, "cut short": content[:middle], "spoilt": spoilt, "empty": b""}
        cache.path.write_bytes(kinds[damage])
    assert (encode_texts(texts, Letters(), cache).vectors == right).all()
    encode_texts(texts, Letters(), cache)
    assert encode_texts(texts, Letters(), cache).encoded == 0


def test_an_entry_with_a_wrong_bit_is_encoded_again(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "texts.db")
    right = encode_texts(["a", "b"], Letters(), cache).vectors
    database = sqlite3.connect(cache.path)
    key, blob = database.execute("SELECT key, vector FROM vectors LIMIT 1").fetchone()
    with database:
        database.execute("UPDATE vectors SET vector = ? WHERE key = ?", (blob[:-1] + bytes([blob[-1] ^ 1]), key))
    database.close()
    done = encode_texts(["a", "b"], Letters(), cache)
    assert (done.encoded, done.cached) == (1, 1)
    assert (done.vectors == right).all()


def test_a_full_cache_forgets_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "texts.db", limit=3)
    encode_texts(["a", "b", "c"], Letters(), cache)
    encode_texts(["a", "b"], Letters(), cache)
    encode_texts(["d"], Letters(), cache)
    assert sorted(cache.get(Letters.digest, 8, ["a", "b", "c", "d"])) == ["a", "b", "d"]


def test_a_cache_that_cannot_be_written_is_said_and_gone_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    done = encode_texts(["a"], Letters(), VectorCache(tmp_path / "file" / "texts.db"))
    assert done.encoded == 1
    assert "are not cached" in caplog.text


def test_an_interrupted_encoding_goes_on_where_it_was(tmp_path: Path) -> None:
    cache, texts = VectorCache(tmp_path / "texts.db"), [str(i) for i in range(600)]

    def stop(done: int, total: int) -> None:
        assert total == 600
        if done > 256:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_texts(texts, Letters(), cache, stop)
    assert encode_texts(texts, Letters(), cache).cached == 512


def test_an_observer_sees_every_batch_up_to_the_last() -> None:
    seen: list[tuple[int, int]] = []
    encode_texts([str(i) for i in range(300)], Letters(), observe=lambda done, total: seen.append((done, total)))
    assert seen == [(256, 300), (300, 300)]


@pytest.mark.parametrize("wrong", [np.zeros((1, 3)), np.full((1, 8), np.nan), np.full((1, 8), np.inf), np.zeros(8)])
def test_an_encoder_that_gives_no_vectors_is_named(wrong: NDArray[np.float64]) -> None:
    encoder = Letters()
    encoder.encode = lambda texts: wrong.astype(np.float32)  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="text encoder letters"):
        encode_texts(["a"], encoder)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=()), max_size=60)), max_size=20))
def test_any_text_whatever_becomes_a_finite_row(texts: list[str | None]) -> None:
    done = encode_texts(texts, Letters())
    assert done.vectors.shape == (len(texts), 8)
    assert np.isfinite(done.vectors).all()
    blank = np.array([not plain_text(text) for text in texts], dtype=bool)
    assert ((np.abs(done.vectors).sum(axis=1) == 0) == blank).all()
