"""Shamir's secret sharing of 32-byte secrets (Shamir 1979) over the prime field of 2^256 + 297 elements.

Any ``threshold`` shares give the secret; fewer are independent of it.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from common.errors import SecureSumError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PRIME = 2**256 + 297
"""The smallest prime above 2^256, so that every 32-byte secret is an element."""
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, points: Sequence[int], threshold: int) -> dict[int, bytes]:
    """A share (33 bytes) of ``secret`` (32 bytes) for each of the distinct non-zero ``points``."""
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {point: _evaluate(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points}


def _evaluate(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret (32 bytes) that ``threshold`` of ``shares`` (point to 33 bytes) determine.

    Raises:
        SecureSumError: too few shares, or shares that no 32-byte secret has.
    """
    if len(shares) < threshold:
        raise SecureSumError(f"secret sharing: {len(shares)} shares where {threshold} are needed; ask more platforms")
    points = sorted(shares)[:threshold]
    secret = 0
    for point in points:
        weight = 1
        for other in points:
            if other != point:
                weight = weight * other % PRIME * pow(other - point, -1, PRIME) % PRIME
        secret = (secret + weight * int.from_bytes(shares[point], "big")) % PRIME
    if secret >= 1 << (8 * SECRET_BYTES):
        raise SecureSumError("secret sharing: the shares do not belong together; one of them was altered")
    return secret.to_bytes(SECRET_BYTES, "big")
