"""Logs of any length, drawn and written a part at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

_PART_ROWS = 2_000_000


def write_log(folder: Path, interactions: int, *, users: int, items: int, seed: int = 0) -> None:
    """Write ``views/`` (Parquet, in order of time, users mixed) and ``items.csv``.

    Items follow Zipf's law, users' activity is log-normal; a few rows repeat a user and an item, as logs do.
    """
    rng = np.random.default_rng(seed)
    popularity = np.cumsum(1.0 / (10.0 + np.arange(items)) ** 0.9)
    activity = np.cumsum(rng.lognormal(0.0, 0.5, users))
    names = pl.select(item_id=pl.int_range(items), title=pl.lit("Item ") + pl.int_range(items).cast(pl.String))
    names.write_csv(folder / "items.csv")
    (folder / "views").mkdir()
    for start in range(0, interactions, _PART_ROWS):
        count = min(_PART_ROWS, interactions - start)
        part = pl.DataFrame(
            {
                "user_id": np.searchsorted(activity, rng.random(count) * activity[-1]).astype(np.int32),
                "item_id": np.searchsorted(popularity, rng.random(count) * popularity[-1]).astype(np.int32),
                "time": np.arange(start, start + count) + 1_700_000_000,
            }
        )
        part.write_parquet(folder / "views" / f"{start // _PART_ROWS:05d}.parquet", compression="lz4")
