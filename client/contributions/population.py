"""Recognises the users that something was kept of, without keeping who they are."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_KEY_BYTES = 32


class Population:
    """The users that rows of a training's private variables stand for.

    Args:
        user_ids: one per row, in order. Private.
        judges: int ``[k]``: rows of the users who judge the training, in order; none unless given.
    """

    def __init__(self, user_ids: Sequence[str], judges: NDArray[np.integer] | None = None) -> None:
        self._user_ids = user_ids
        self._judges = np.zeros(0, dtype=np.int64) if judges is None else judges.astype(np.int64)

    @cached_property
    def seal(self) -> str:
        """Return what stands for these users in a file: a key drawn once, and HMAC-SHA-256 of ids and judges under it.

        Without the key the same users look different in each file; with it, only who knows all of them recognises them.
        """
        key = secrets.token_bytes(_KEY_BYTES)
        return key.hex() + self._digest(key)

    def sealed(self, seal: object) -> bool:
        """Whether ``seal`` stands for the same users in the same order, and the same judges."""
        try:
            key = bytes.fromhex(str(seal)[: 2 * _KEY_BYTES])
        except ValueError:
            return False
        return hmac.compare_digest(str(seal).encode(), (key.hex() + self._digest(key)).encode())

    def _digest(self, key: bytes) -> str:
        digest = hmac.new(key, digestmod="sha256")
        for user in self._user_ids:
            name = user.encode("utf-8", "surrogatepass")
            digest.update(len(name).to_bytes(4, "little") + name)
        digest.update(self._judges.tobytes())
        return digest.hexdigest()
