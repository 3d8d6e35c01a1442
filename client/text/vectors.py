"""From texts to vectors: each distinct text once, out of the cache where it is there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging import getLogger

import numpy as np
from numpy.typing import NDArray

from client.text.cache import VectorCache
from client.text.encoder import TextEncoder
from common.errors import ConfigError

_log = getLogger(__name__)

Vectors = NDArray[np.float32]
"""float32 ``[n, d]``; zero where there is no text."""

Observer = Callable[[int, int], None]
"""Called with how many texts are encoded so far, and how many there are to encode."""

_BATCH = 256
_TELL_EVERY = 10.0  # seconds
_NO_TEXT = re.compile("[\\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """Vectors of texts, and what happened on the way.

    Attributes:
        vectors: float32 ``[n, d]``; zero where there is no text.
        empty: how many of the n have no text.
        cut: how many distinct texts were longer than the encoder reads.
        encoded: how many distinct texts were encoded.
        cached: how many came out of the cache.
    """

    vectors: NDArray[np.float32]
    empty: int
    cut: int
    encoded: int
    cached: int

    def render(self) -> str:
        """One line for the operator."""
        distinct = self.encoded + self.cached
        line = f"{distinct:,} texts as vectors, {self.cached:,} of them from the cache"
        if self.empty:
            line += f"; {self.empty:,} items have no text"
        if self.cut:
            line += f"; {self.cut:,} texts are long, and only their beginnings are read"
        return line


def encode_texts(
    texts: Sequence[str | None],
    encoder: TextEncoder,
    cache: VectorCache | None = None,
    observe: Observer | None = None,
) -> EncodedTexts:
    """Vectors of texts in any script. The same texts give the same vectors, with a cache or without.

    Args:
        texts: n of them; None and blanks are no text.
        encoder: turns texts into vectors.
        cache: remembers; null: nothing is kept.
        observe: told of progress; null: the log is, every ten seconds.

    Raises:
        ConfigError: the encoder gave something else than one finite vector a text.
    """
    plain = [plain_text(text) for text in texts]
    short = {text: text[: encoder.longest] for text in dict.fromkeys(plain) if text}
    wanted = list(dict.fromkeys(short.values()))
    known = {} if cache is None else cache.get(encoder.digest, encoder.dimension, wanted)
    cached = len(known)
    missing = [text for text in wanted if text not in known]
    tell = observe or _Teller(encoder.name)
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        vectors = _checked(encoder, batch)
        known.update(zip(batch, vectors, strict=True))
        if cache is not None:
            cache.put(encoder.digest, batch, vectors)
        tell(start + len(batch), len(missing))
    result = np.zeros((len(plain), encoder.dimension), dtype=np.float32)
    for row, text in enumerate(plain):
        if text:
            result[row] = known[short[text]]
    done = EncodedTexts(
        vectors=result,
        empty=sum(not text for text in plain),
        cut=sum(len(text) > encoder.longest for text in short),
        encoded=len(missing),
        cached=cached,
    )
    _log.info("text encoder %s: %s", encoder.name, done.render())
    return done


def plain_text(text: str | None) -> str:
    r"""A text without what no encoder reads: control characters, halves of characters, blanks beside one another.

    >>> plain_text(" The\tGodfather\x00 ")
    'The Godfather'
    """
    return "" if text is None else _NO_TEXT.sub(" ", text).strip()


def _checked(encoder: TextEncoder, batch: list[str]) -> NDArray[np.float16]:
    vectors = np.asarray(encoder.encode(batch))
    if vectors.shape != (len(batch), encoder.dimension):
        raise ConfigError(
            f"text encoder {encoder.name}: gave an array of shape {vectors.shape} for {len(batch)} texts of "
            f"{encoder.dimension} numbers each; is it the model that its name says?"
        )
    # Direction is what counts, and unit length keeps half precision, which the cache holds, far from its limits.
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise ConfigError(f"text encoder {encoder.name}: gave numbers that are not finite")
    unit: NDArray[np.float16] = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0).astype(np.float16)
    return unit


class _Teller:
    """Progress in the operator's log, where encoding takes long."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= _TELL_EVERY:
            self._last = now
            _log.info("text encoder %s: %d of %d texts", self._name, done, total)


def text_vectors(encoder: TextEncoder | None, cache: VectorCache | None) -> Callable[[Sequence[str]], Vectors] | None:
    """Return what turns texts into vectors with this encoder; None without one."""
    return None if encoder is None else lambda texts: encode_texts(texts, encoder, cache).vectors
