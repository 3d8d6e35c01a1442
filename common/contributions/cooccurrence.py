"""Item-item statistics of a platform's users for the item-item model: weigh, quantise, sum, add noise.

Neighbouring data sets differ by one user's whole history on one platform, added or removed.

Sensitivity: a user with n ≥ 1 kept items has x_i = s on each and 0 elsewhere, where s = min(n^−a, c/√n), so
‖x‖₂ = s·√n ≤ c. The user adds x xᵀ to the sum, of which the upper triangle is sent with off-diagonal entries times √2:

    Σ_i x_i⁴ + Σ_{i<j} (√2·x_i·x_j)² = Σ_{i,j} x_i²·x_j² = ‖x xᵀ‖_F² = ‖x‖₂⁴ ≤ c⁴,

so the L2 sensitivity of the whole packed triangle is c², however many items the user has. s depends on that user's history,
the released counts that choose the kept items, and public parameters alone. Quantising toward zero and the shrink by
1 − 2⁻³⁰ can only lower it; noise is exact and added in integers (:mod:`common.contributions.factors` says why).

Where the sums leave masked, the aggregator sees their total over platforms alone, and apportions it by how many users each
platform has. So a user also adds c²/4 to one more coordinate, its platform's: the sensitivity is then c²·√(1 + 1/16).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from common.config.ease import EaseConfig
from common.errors import PrivacyError
from common.linalg import packed_size
from common.privacy.contribution import PrivatizedContribution, Release
from common.privacy.minting import mint
from common.privacy.plan import LOG2_SHARE_STEPS, GaussianNoise
from common.privacy.quantise import SHRINK
from common.privacy.sampler import NoiseSource, SystemNoise, discrete_gaussian
from common.privacy.user_rows import checked_lengths

COOCCURRENCE: Final = "cooccurrence"
USERS = "linear_users"
"""Name of the array, in masked contributions, that says how many users each platform has."""
_USER_WEIGHT = 0.25
"""What a user adds to its platform's number of users, in units of c²."""
_BLOCK = 256
_NOISE_BLOCK = 1 << 20
_LARGEST_SUM_BITS = 62


def cooccurrence_noise(config: EaseConfig, *, mu: float, shares: int = 1, masked: bool = False) -> GaussianNoise:
    """The noise of the statistics, released once in a run.

    Args:
        config: names the share of the budget and c.
        mu: of all Gaussian releases of the run. What else is among them must fit μ·√(1 − share).
        shares: over how many honest platforms at least the noise is divided.
        masked: whether the statistics leave masked for a secure sum.
    """
    multiplier = (1 + 1e-12) / (mu * math.sqrt(config.privacy.share))
    sensitivity = _sensitivity(config, masked=masked)
    return GaussianNoise(sensitivity=sensitivity, noise_multiplier=multiplier, shares=shares, masked=masked)


def _sensitivity(config: EaseConfig, *, masked: bool) -> float:
    return config.privacy.history_norm**2 * (math.hypot(1, _USER_WEIGHT) if masked else 1.0)


def check_bits(noise: GaussianNoise, users: int) -> None:
    """Raises: PrivacyError for noise so small that a platform's sums over ``users`` users might not fit 64 bits."""
    if noise.sum_bits(users, 1) > _LARGEST_SUM_BITS:
        raise PrivacyError("linear.privacy: the noise is so small that sums would overflow; lower the share or ε")


def masked_size(n_items: int, platforms: int) -> int:
    """Values that each platform masks: pairs of the k items, and the platforms' numbers of users."""
    return packed_size(n_items) + platforms


def users_from(steps: NDArray[np.int64], config: EaseConfig, grid_step: float) -> NDArray[np.float64]:
    """float64 ``[P]``: how many users each platform has, from the sum of masked contributions; at least 1, noisy."""
    unit = _USER_WEIGHT * config.privacy.history_norm**2
    return np.maximum(steps.astype(np.float64) * (grid_step / unit), 1.0)


def packed_products(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    diagonal: NDArray[np.floating] | NDArray[np.int64],
    off_diagonal: NDArray[np.floating] | NDArray[np.int64],
    n_items: int,
) -> NDArray[np.float64] | NDArray[np.int64]:
    """Σ_u w_u·(who has both i and j), the upper triangle, row by row.

    Args:
        indptr: int64 ``[n + 1]``.
        indices: int32 ``[nnz]``, unique within a row.
        diagonal: ``[n]``; w_u of the entries i = j.
        off_diagonal: ``[n]``, of the same dtype; w_u of the entries i < j. Sums of integers are exact.
        n_items: k.

    Returns:
        ``[k(k + 1)/2]`` of the weights' dtype. Scratch memory is a block of rows, whatever k is.
    """
    shape = (len(indptr) - 1, n_items)
    lengths = np.diff(indptr)
    ones = np.ones(len(indices), dtype=off_diagonal.dtype)
    columns = sp.csr_array((ones, indices, indptr), shape=shape).tocsc()
    weighted = sp.csr_array((np.repeat(off_diagonal, lengths), indices, indptr), shape=shape)
    on_diagonal = np.zeros(n_items, dtype=diagonal.dtype)
    np.add.at(on_diagonal, indices, np.repeat(diagonal, lengths))
    packed = np.empty(packed_size(n_items), dtype=off_diagonal.dtype)
    filled = 0
    for start in range(0, n_items, _BLOCK):
        rows = (columns[:, start : start + _BLOCK].T @ weighted).toarray()
        for offset, row in enumerate(rows):
            item = start + offset
            packed[filled] = on_diagonal[item]
            packed[filled + 1 : filled + n_items - item] = row[item + 1 :]
            filled += n_items - item
    return packed


@dataclass(frozen=True, eq=False)
class CooccurrenceMechanism:
    """Releases Σ_u x_u x_uᵀ of one platform's users once.

    Guarantees:
        What is released is 1/z-GDP for every user of this platform, z being ``noise.noise_multiplier``, provided that
        where ``noise.masked`` only the sum with the shares of at least ``noise.shares`` honest platforms is seen.

    Attributes:
        noise: from :func:`cooccurrence_noise`.
        config: user weighting and c.
        source: the system's generator unless a test injects another.
    """

    noise: GaussianNoise
    config: EaseConfig
    source: NoiseSource = field(default_factory=SystemNoise)

    def __post_init__(self) -> None:
        if self.noise.sensitivity < _sensitivity(self.config, masked=self.noise.masked):
            raise PrivacyError("linear.privacy.history_norm: is above what the noise was made for; make the noise anew")

    def releases(self) -> tuple[Release, ...]:
        """Return what the ledger charges."""
        multiplier = self.noise.noise_multiplier
        return (Release(kind="cooccurrence", mechanism="gaussian", noise_multiplier=multiplier),)

    def release(
        self,
        indptr: NDArray[np.int64],
        indices: NDArray[np.int32],
        *,
        n_items: int,
        member: tuple[int, int] | None = None,
    ) -> PrivatizedContribution:
        """The noisy statistics of the kept items.

        Args:
            indptr: int64 ``[n + 1]``, row ``u`` is ``indptr[u]:indptr[u + 1]``.
            indices: int32 ``[nnz]``; positions among the k kept items, unique within a row.
            n_items: k.
            member: this platform's number among the P platforms, and P; where the noise is masked.

        Returns:
            Array ``cooccurrence``, int64 ``[k(k + 1)/2]``: grid steps, off-diagonals times √2, noise on every entry. Where
            the noise is masked also ``linear_users``, int64 ``[P]``: grid steps, 0 but for noise on other platforms.

        Raises:
            PrivacyError: rows that are not valid, no ``member`` for masked noise, or noise so small that the sums would
                not fit 64 bits.
        """
        lengths = checked_lengths(indptr, indices, n_items)
        check_bits(self.noise, len(lengths))
        squares = self._scales(lengths) ** 2 / self.noise.grid_step
        # Integers from here on: sums are exact.
        diagonal, off_diagonal = squares.astype(np.int64), (squares * math.sqrt(2)).astype(np.int64)
        sums = packed_products(indptr, indices, diagonal, off_diagonal, n_items).astype(np.int64, copy=False)
        arrays = {COOCCURRENCE: sums}
        if self.noise.masked:
            arrays[USERS] = self._users(int((lengths > 0).sum()), member)
        for released in arrays.values():
            for part in _parts(len(released)):
                released[part] += discrete_gaussian(part.stop - part.start, LOG2_SHARE_STEPS, self.source)
        return mint(
            kind="cooccurrence",
            server_round=0,
            private=True,
            arrays=arrays,
            grid_steps=dict.fromkeys(arrays, self.noise.grid_step),
            masked=frozenset(arrays if self.noise.masked else ()),
            releases=self.releases(),
        )

    def _users(self, users: int, member: tuple[int, int] | None) -> NDArray[np.int64]:
        """int64 ``[P]``: c²/4 for each user with a kept item, at this platform's place."""
        if member is None or not 0 <= member[0] < member[1]:
            raise PrivacyError("member: masked statistics say which platform's they are")
        counted = np.zeros(member[1], dtype=np.int64)
        unit = _USER_WEIGHT * self.config.privacy.history_norm**2 * SHRINK
        counted[member[0]] = users * int(unit / self.noise.grid_step)
        return counted

    def _scales(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Float64 ``[n]``: s = min(n^−a, c/√n), a little less than that."""
        n = np.maximum(lengths, 1).astype(np.float64)
        scales: NDArray[np.float64] = np.minimum(
            n**-self.config.user_weighting, self.config.privacy.history_norm / np.sqrt(n)
        )
        return scales * SHRINK


def _parts(size: int) -> Iterator[slice]:
    """Slices that bound the memory of the sampler."""
    for start in range(0, size, _NOISE_BLOCK):
        yield slice(start, min(start + _NOISE_BLOCK, size))
