"""Exact discrete Gaussian noise from the operating system's randomness.

Sampling follows Canonne, Kamath & Steinke 2020 ("The Discrete Gaussian for Differential Privacy", Algorithms 1-3), on
whole arrays and in integers throughout. No floating-point number is ever formed, so the attacks on the gaps and the
rounding of floating-point Gaussians (Mironov 2012; Jin et al. 2022) find nothing. σ is a power of two, so that every
uniform variate and every Bernoulli(exp(−n/2^k)) is exact from random bits.
"""

from __future__ import annotations

import os
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.errors import PrivacyError

MAX_LOG2_SIGMA = 24

Words: TypeAlias = NDArray[np.uint64]


class NoiseSource(Protocol):
    """A source of independent, uniform 64-bit words. Production uses :class:`SystemNoise` and nothing else."""

    def words(self, count: int) -> Words:
        """uint64 ``[count]``."""
        ...


class SystemNoise:
    """The operating system's cryptographically secure generator; it takes no seed."""

    def words(self, count: int) -> Words:
        return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)


def bernoulli(count: int, probability: float, source: NoiseSource) -> NDArray[np.bool_]:
    """Bool ``[count]``: independent coins, true with ``probability`` rounded down to a multiple of 2⁻⁶⁴."""
    if probability >= 1:
        return np.ones(count, dtype=bool)
    return source.words(count) < np.uint64(int(probability * 2.0**64))


def discrete_gaussian(size: int, log2_sigma: int, source: NoiseSource) -> NDArray[np.int64]:
    """``size`` exact draws of N_Z(0, σ²), P(x) ∝ exp(−x²/2σ²) on the integers, with σ = 2^``log2_sigma``.

    Algorithm 3 of Canonne et al. with t = σ: a discrete Laplace draw y is kept with probability
    exp(−(|y| − σ)²/2σ²).

    Returns:
        int64 ``[size]``.

    Raises:
        PrivacyError: ``log2_sigma`` outside 0…24, beyond which exact 64-bit arithmetic would overflow.
    """
    if not 0 <= log2_sigma <= MAX_LOG2_SIGMA:
        raise PrivacyError(f"log2_sigma must lie in 0..{MAX_LOG2_SIGMA}, not {log2_sigma}")
    draws: list[NDArray[np.int64]] = []
    missing = size
    while missing > 0:
        # Half of the proposals survive; asking for a few more saves a round of stragglers.
        proposals = _discrete_laplace(2 * missing + 64, log2_sigma, source)
        excess = np.abs(np.abs(proposals) - (1 << log2_sigma)).astype(np.uint64)
        kept = proposals[_bernoulli_exp(excess * excess, 2 * log2_sigma + 1, source)][:missing]
        draws.append(kept)
        missing -= len(kept)
    return np.concatenate(draws) if draws else np.zeros(0, dtype=np.int64)


def _discrete_laplace(proposals: int, log2_scale: int, source: NoiseSource) -> NDArray[np.int64]:
    """Draws with P(x) ∝ exp(−|x|/2^``log2_scale``): as many of ``proposals`` as are accepted (Algorithm 2)."""
    scale = np.uint64(1 << log2_scale)
    remainder = _uniform_bits(proposals, log2_scale, source)
    remainder = remainder[_bernoulli_exp(remainder, log2_scale, source)]
    quotient = np.zeros(len(remainder), dtype=np.uint64)
    growing = np.arange(len(remainder))
    while len(growing):
        growing = growing[_bernoulli_exp(np.ones(len(growing), dtype=np.uint64), 0, source)]
        quotient[growing] += np.uint64(1)
    magnitude = (remainder + scale * quotient).astype(np.int64)
    negative = _uniform_bits(len(magnitude), 1, source).astype(bool)
    # Zero would otherwise come up under both signs.
    return np.asarray(np.where(negative, -magnitude, magnitude)[~(negative & (magnitude == 0))])


def _bernoulli_exp(numerators: Words, bits: int, source: NoiseSource) -> NDArray[np.bool_]:
    """True with probability exp(−``numerators``/2^``bits``), elementwise and exactly (Algorithm 1)."""
    whole = numerators >> np.uint64(bits)
    success = np.ones(len(numerators), dtype=bool)
    pending = np.flatnonzero(whole)
    while len(pending):
        kept = _bernoulli_exp_fraction(np.ones(len(pending), dtype=np.uint64), 0, source)
        success[pending[~kept]] = False
        pending = pending[kept]
        whole[pending] -= np.uint64(1)
        pending = pending[whole[pending] > 0]
    alive = np.flatnonzero(success)
    fraction = numerators[alive] & np.uint64((1 << bits) - 1)
    success[alive] = _bernoulli_exp_fraction(fraction, bits, source)
    return success


def _bernoulli_exp_fraction(numerators: Words, bits: int, source: NoiseSource) -> NDArray[np.bool_]:
    """As :func:`_bernoulli_exp` for exponents γ in [0, 1]: the first k with a failed Bernoulli(γ/k) is odd."""
    result = np.zeros(len(numerators), dtype=bool)
    alive = np.arange(len(numerators))
    k = 1
    while len(alive):
        passed = _uniform_bits(len(alive), bits, source) < numerators[alive]
        passed[passed] = _uniform_below(int(passed.sum()), k, source) == 0
        result[alive[~passed]] = k % 2 == 1
        alive = alive[passed]
        k += 1
    return result


def _uniform_bits(count: int, bits: int, source: NoiseSource) -> Words:
    """Uniform on 0 … 2^``bits`` − 1."""
    if bits == 0:
        return np.zeros(count, dtype=np.uint64)
    return source.words(count) >> np.uint64(64 - bits)


def _uniform_below(count: int, bound: int, source: NoiseSource) -> Words:
    """Uniform on 0 … ``bound`` − 1, exactly: words beyond the last whole multiple of ``bound`` are drawn again."""
    if bound == 1:
        return np.zeros(count, dtype=np.uint64)
    last = np.uint64((1 << 64) - 1 - (1 << 64) % bound)
    words = source.words(count).copy()
    while (beyond := words > last).any():
        words[beyond] = source.words(int(beyond.sum()))
    return words % np.uint64(bound)
