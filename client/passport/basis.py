"""The basis in which a platform writes its users' profiles: made once from its own histories, then kept, and named.

A profile means something only beside others in the same basis, so training does not move it: a new version is made when the
operator asks for one, and receiving platforms learn it anew. Directions come in order of how much of the histories they tell,
so that a receiver may use the first ones alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.passport.contents import Basis
from common.errors import StoreError
from common.files import archive, read_archive, write_atomically

BASIS_FILE = "passport-basis.npz"
_POWER = 0.25
"""How much less a common item counts: by count^(−1/4). Of 0, 1/4 and 1/2 it let holders be told most (docs/passport.md)."""
_OVERSAMPLING = 16
_ITERATIONS = 2


@dataclass(frozen=True, eq=False)
class ProfileBasis:
    """Item vectors; a profile is their sum over a history, scaled to length 1.

    Attributes:
        name: for people: the platform and the version.
        keys: m item keys.
        vectors: float32 ``[m, d]``: V·count^(−1/4), with V of the singular value decomposition below; V/√count where
            an older crossfed made the basis.
    """

    name: str
    keys: tuple[str, ...]
    vectors: NDArray[np.float32]

    @cached_property
    def basis(self) -> Basis:
        """Its name, and the digest of keys and vectors."""
        digest = hashlib.sha256(b"crossfed profile basis v1\0")
        for part in ("\n".join(self.keys).encode(), self.vectors.astype(">f4").tobytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
        return Basis(self.name, digest.digest())

    @cached_property
    def rows(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.keys)}

    def profile(self, keys: Sequence[str]) -> NDArray[np.float32] | None:
        """float32 ``[d]`` of length 1 of the items ``keys``; None where the basis knows none of them."""
        known = [self.rows[key] for key in keys if key in self.rows]
        total = self.vectors[known].astype(np.float64).sum(axis=0)
        length = float(np.linalg.norm(total))
        return (total / length).astype(np.float32) if length > 1e-9 else None

    def profiles(self, histories: UserItemMatrix) -> NDArray[np.float32]:
        """float32 ``[n, d]``: of all rows, whose columns are the basis's items; zero for an empty history."""
        totals = np.asarray(histories.incidence(np.float32) @ self.vectors, dtype=np.float64)
        lengths = np.linalg.norm(totals, axis=1, keepdims=True)
        return np.where(lengths > 1e-9, totals / np.maximum(lengths, 1e-9), 0.0).astype(np.float32)

    @classmethod
    def fit(cls, histories: UserItemMatrix, keys: Sequence[str], name: str, *, dimension: int = 256) -> ProfileBasis:
        """The leading right singular vectors of the histories, users scaled by 1/√length and items by count^(−1/4).

        Args:
            histories: n × m; the platform's own.
            keys: of the m items.
            name: of the basis.
            dimension: d; fewer where the data have fewer.
        """
        x, scale = scaled_histories(histories, power=_POWER)
        vectors = leading_directions(x, dimension)
        return cls(name, tuple(keys), (vectors * scale[:, None]).astype(np.float32))

    def save(self, folder: Path) -> None:
        """Raises: StoreError when it cannot be written."""
        keys = np.frombuffer("\n".join(self.keys).encode(), dtype=np.uint8)
        name = np.frombuffer(self.name.encode(), dtype=np.uint8)
        write_atomically(folder / BASIS_FILE, archive({"name": name, "keys": keys, "vectors": self.vectors}))

    @classmethod
    def load(cls, folder: Path) -> ProfileBasis | None:
        """None where there is none yet.

        Raises:
            StoreError: it is damaged.
        """
        path = folder / BASIS_FILE
        if not path.exists():
            return None
        arrays = read_archive(path)
        try:
            keys = tuple(arrays["keys"].tobytes().decode().split("\n"))
            loaded = cls(arrays["name"].tobytes().decode(), keys, arrays["vectors"].astype(np.float32))
        except (KeyError, ValueError) as error:
            raise StoreError(f"{path}: is damaged; restore it from a backup, or make a new version") from error
        if loaded.vectors.ndim != 2 or len(loaded.vectors) != len(keys) or not np.isfinite(loaded.vectors).all():
            raise StoreError(f"{path}: is damaged; restore it from a backup, or make a new version")
        return loaded


def scaled_histories(histories: UserItemMatrix, *, power: float = 0.5) -> tuple[sp.csr_array, NDArray[np.float64]]:
    """Presence over √(length of the user's history) and count^power of the item; and count^(−power), float64 ``[m]``."""
    scale = np.maximum(histories.item_counts(), 1) ** -power
    lengths = np.repeat(1 / np.sqrt(np.maximum(histories.row_lengths, 1)), histories.row_lengths)
    values = lengths * scale[histories.indices]
    shape = (histories.n_users, histories.n_items)
    return sp.csr_array((values, histories.indices, histories.indptr), shape), scale


def leading_directions(x: sp.csr_array, dimension: int) -> NDArray[np.float64]:
    """float64 ``[m, d]``: right singular vectors, the largest first, by subspace iteration (Halko et al. 2011, alg. 4.4).

    The same data give the same vectors, signs included.
    """
    n, m = x.shape
    width = min(dimension + _OVERSAMPLING, n, m)
    x = x.astype(np.float32)
    basis = _orthonormal(x.T @ np.random.default_rng(0).standard_normal((n, width), dtype=np.float32))
    for _ in range(_ITERATIONS):
        basis = _orthonormal(x.T @ (x @ basis))
    scores = (x @ basis).astype(np.float64)
    squares, turn = np.linalg.eigh(scores.T @ scores)
    order = np.argsort(-squares)[:dimension]
    used = order[squares[order] > 1e-8 * squares.max(initial=0.0)]
    found: NDArray[np.float64] = basis.astype(np.float64) @ turn[:, used]
    largest = np.abs(found).argmax(axis=0) if len(found) else np.zeros(0, dtype=np.intp)
    return np.asarray(found * np.sign(found[largest, np.arange(found.shape[1])]))


def _orthonormal(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 ``[m, w]``: the columns' span, by the eigenvectors of their Gram matrix: many times faster than QR here."""
    squares, turn = np.linalg.eigh((columns.T @ columns).astype(np.float64))
    used = squares > 1e-10 * squares.max(initial=1e-30)
    orthonormal: NDArray[np.float32] = columns @ (turn[:, used] / np.sqrt(squares[used])).astype(np.float32)
    return orthonormal
