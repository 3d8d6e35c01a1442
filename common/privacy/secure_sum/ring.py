"""The ring of the secure sum: integers modulo 2^bits, read back centred around zero.

Addition modulo 2^bits is exact and its masks are perfectly uniform, which floats are not. Words are held as uint32 (up
to 32 bits) or uint64 and wrap natively; the bits above 2^bits are dropped once, when a vector is packed or read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field, model_validator

from common.config.base import FrozenModel
from common.errors import SecureSumError

if TYPE_CHECKING:
    from numpy.typing import NDArray

RingBits = Literal[16, 24, 32, 40, 48, 56]
"""Whole bytes, so that packing is a copy; the widest leaves a byte of uint64 free."""

Words = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]
"""Ring elements: little-endian uint32 ``[n]`` up to 32 bits, uint64 ``[n]`` above."""


class RingConfig(FrozenModel):
    """Integers modulo 2^bits and the public bound under which a sum of them is read back without error.

    Guarantees: while every platform's value lies within ±max_abs_per_platform and ``check_platforms`` holds, the
    decoded sum equals the integer sum. The bound comes from public numbers (``from_public_bounds``) and is never
    checked on data before it is masked: a refusal that depends on data would be a release. A value beyond it wraps; it
    is not clipped, because clipping after the noise would bias it.
    """

    bits: RingBits = 32
    """Size of the ring; a value takes bits/8 bytes on the wire, so 40 bits are 1.25 times a float32."""
    max_abs_per_platform: Annotated[int, Field(ge=1)]
    """Bound, in grid units, on the absolute value of each coordinate that one platform masks, noise included."""

    @model_validator(mode="after")
    def _bound_fits_one_platform(self) -> RingConfig:
        self.check_platforms(1)
        return self

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        return np.dtype("<u4") if self.bits <= 32 else np.dtype("<u8")

    @property
    def bytes_per_value(self) -> int:
        return self.bits // 8

    def check_platforms(self, platforms: int) -> None:
        """Refuse a sum over ``platforms`` that could wrap.

        One bit stays free: a sum whose masks did not cancel is uniform over the ring, so that at least every second of
        its coordinates then lies outside the bound and ``check_sum`` notices.

        Raises:
            SecureSumError: platforms × max_abs_per_platform exceeds 2^(bits − 2).
        """
        if platforms * self.max_abs_per_platform > 1 << (self.bits - 2):
            raise SecureSumError(
                f"ring: {platforms} platforms × max_abs_per_platform {self.max_abs_per_platform} exceed "
                f"2^{self.bits - 2}, so that their sum could wrap; use a coarser grid step or more bits (at most "
                f"{max(get_args(RingBits))})"
            )

    def encode(self, units: NDArray[np.int64]) -> Words:
        """Ring elements of ``units`` (int64 ``[n]``), a new array."""
        return units.view(np.uint64).astype(self.dtype)

    def decode(self, words: Words) -> NDArray[np.int64]:
        """The representative of each word in [−2^(bits−1), 2^(bits−1)): int64 ``[n]``."""
        shift = np.int64(64 - self.bits)
        high = words.astype(np.uint64) << np.uint64(shift)
        return high.view(np.int64) >> shift

    def pack(self, words: Words) -> bytes:
        """bits/8 little-endian bytes a word."""
        size = self.dtype.itemsize
        if size == self.bytes_per_value:
            return words.tobytes()
        return words.view(np.uint8).reshape(-1, size)[:, : self.bytes_per_value].tobytes()

    def unpack(self, packed: bytes | memoryview, length: int) -> Words:
        """Inverse of ``pack``.

        Raises:
            SecureSumError: ``packed`` does not hold ``length`` values.
        """
        if len(packed) != length * self.bytes_per_value:
            raise SecureSumError(
                f"masked vector: {len(packed)} bytes where {length} values of {self.bits} bits take "
                f"{length * self.bytes_per_value}; all platforms must mask the same vocabulary"
            )
        size = self.dtype.itemsize
        if size == self.bytes_per_value:
            return np.frombuffer(packed, dtype=self.dtype)
        octets = np.zeros((length, size), dtype=np.uint8)
        octets[:, : self.bytes_per_value] = np.frombuffer(packed, dtype=np.uint8).reshape(length, self.bytes_per_value)
        return octets.reshape(-1).view(self.dtype)

    def check_sum(self, total: NDArray[np.int64], platforms: int) -> None:
        """Refuse a decoded sum (int64 ``[n]``) that lies outside the public bound of ``platforms``.

        Raises:
            SecureSumError: some platform sent values that were not masked as agreed, or beyond their bound. Which one
                it was cannot be known: that is what the masks are for.
        """
        bound = platforms * self.max_abs_per_platform
        if total.size and (int(total.max()) > bound or int(total.min()) < -bound):
            raise SecureSumError(
                f"sum of {platforms} platforms lies outside ±{bound} grid units: one of them did not mask as agreed or "
                "broke its bound; the round is void, and masks hide which it was (noise: per_platform would tell)"
            )

    @classmethod
    def from_public_bounds(
        cls,
        *,
        bits: RingBits = 32,
        platforms: int,
        users_per_platform: int,
        max_abs_per_user: int,
        noise_std: float,
        coordinates: int,
        failure_probability: float = 2.0**-40,
    ) -> RingConfig:
        """The ring whose bound follows from public numbers alone.

        Args:
            bits: size of the ring.
            platforms: P.
            users_per_platform: public bound on the users of one platform.
            max_abs_per_user: bound on one user's contribution to one coordinate after clipping, grid units.
            noise_std: standard deviation of one platform's noise share, grid units.
            coordinates: n, length of the vector.
            failure_probability: that the noise anywhere in any platform's vector exceeds its :func:`noise_tail`, once a
                round.

        Raises:
            SecureSumError: the bound does not fit ``bits``.
        """
        tail = noise_tail(noise_std, platforms * coordinates, failure_probability)
        ring = cls(bits=bits, max_abs_per_platform=users_per_platform * max_abs_per_user + tail)
        ring.check_platforms(platforms)
        return ring


def noise_tail(noise_std: float, values: int, failure_probability: float = 2.0**-40) -> int:
    """Return what none of ``values`` draws of noise exceeds in absolute value, but with ``failure_probability``; grid units.

    The tail is Bernstein's for variance σ² and scale 1/3, which holds for the discrete Gaussian (subgaussian with σ,
    Canonne et al. 2020) and for Skellam noise (its log moment generating function σ²(cosh t − 1) is at most
    σ²t²/2/(1 − t/3)).
    """
    if noise_std == 0:
        return 0
    log_terms = math.log(2 * values / failure_probability)
    return math.ceil(log_terms / 3 + math.sqrt((log_terms / 3) ** 2 + 2 * log_terms * noise_std**2))


def finest_step(bits: int, platforms: int, max_abs_per_platform: float) -> float:
    """The smallest power of two that, as the grid step, lets a ring of ``bits`` hold the sum of ``platforms``.

    Args:
        bits: size of the ring.
        platforms: P.
        max_abs_per_platform: public bound on one platform's value in a coordinate, noise included, in the values' unit.

    A value rounded toward zero onto the grid errs by less than one step, a sum of P such values by less than P steps;
    the secure sum itself adds no error.
    """
    units = (1 << (bits - 2)) // platforms - 1
    return float(2.0 ** math.ceil(math.log2(max_abs_per_platform / units)))
