"""User-level privacy asks of the data that one user's presence changes nothing of another's history."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from common.config.data import DataConfig
from common.errors import ConfigError


def check_users_independent(data: DataConfig, *, at: str = "data") -> None:
    """Refuse settings with which cleaning one user's history depends on others, or a catalogue on who is there.

    Args:
        data: where the data lies and how it is cleaned.
        at: key path of ``data``, for the message.

    Raises:
        ConfigError: names the settings.
    """
    dependent = data.settings_that_depend_on_other_users()
    if dependent:
        raise ConfigError(
            f"{', '.join(f'{at}.{setting}' for setting in dependent)}: one user's presence would change what is kept of "
            "others, which the privacy promise does not cover; give an items file, no rule that counts over users, and no "
            "multiline texts of users"
        )


def withheld_by_user(
    matrix: UserItemMatrix,
    user_ids: Sequence[str],
    *,
    key: str,
    users_share: float,
    share: float,
    latest: bool = False,
) -> NDArray[np.bool_]:
    """Bool ``[nnz]``: the entries to withhold for validation; each user is drawn alone.

    Guarantees: what is withheld of a user depends on that user's id and history, ``key`` and the order of the catalogue
    only. A generator that draws for all users in turn has no such property: one user more would move the draws of
    everybody behind, and with them what is trained on, far beyond the sensitivity of any release.

    Args:
        matrix: all entries.
        user_ids: one per row.
        key: tells the draws of different platforms and seeds apart.
        users_share: a user's chance to take part, in (0, 1).
        share: of a chosen user's entries, to the nearest; of two or more entries, at least one is withheld and one left.
        latest: withhold the last entries of each row, which is in order of time, instead of any.
    """
    digests = (hashlib.blake2b(f"{key} {user}".encode(), digest_size=8).digest() for user in user_ids)
    seeds = np.frombuffer(b"".join(digests), dtype="<u8")
    lengths, users = matrix.row_lengths, matrix.entry_users()
    chosen = (seeds < np.uint64(users_share * 2.0**64)) & (lengths >= 2)
    counts = np.where(chosen, np.clip(np.floor(lengths * share + 0.5), 1, np.maximum(lengths - 1, 1)), 0)
    if latest:
        return np.asarray(matrix.entries_after() < counts[users])
    order = np.lexsort((_mixed(seeds[users] ^ _mixed(matrix.indices.astype(np.uint64))), users))
    ranks = np.empty(matrix.nnz, dtype=np.int64)
    ranks[order] = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
    return np.asarray(ranks < counts[users])


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Well-spread bits of each value (splitmix64; Steele, Lea & Flood 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
