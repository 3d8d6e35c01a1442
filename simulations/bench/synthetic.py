"""Interactions drawn at random, in any size, for benches that measure time alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_synthetic(path: Path, *, users: int, items: int, interactions: int, seed: int = 0) -> int:
    """Save a CSR matrix whose items follow Zipf's law and whose users' activity is log-normal.

    Returns:
        The number of distinct interactions, at most ``interactions``.
    """
    rng = np.random.default_rng(seed)
    popularity = np.cumsum(1.0 / (10.0 + np.arange(items)) ** 0.9)
    activity = np.cumsum(rng.lognormal(0.0, 1.0, users))
    seen = np.empty(0, dtype=np.int64)
    while len(seen) < interactions:
        draw = (interactions - len(seen)) * 5 // 4 + 1000
        who = np.searchsorted(activity, rng.random(draw) * activity[-1])
        what = np.searchsorted(popularity, rng.random(draw) * popularity[-1])
        seen = np.unique(np.concatenate([seen, who * items + what]))
    seen = np.sort(rng.permutation(seen)[:interactions])
    indptr = np.searchsorted(seen, np.arange(users + 1) * items)
    np.savez(path, indptr=indptr, indices=(seen % items).astype(np.int32), items=items)
    return len(seen)
