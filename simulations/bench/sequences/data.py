"""MovieLens-1M's histories as one small file that a machine without the data folder and without polars reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.data.dataset import UserItemMatrix


def load_histories(path: Path) -> UserItemMatrix:
    """The histories in a file that :func:`pack` wrote, or of the data folder."""
    if path.suffix != ".npz":
        from simulations.bench.als import load_ml1m

        return load_ml1m(path)
    with np.load(path) as saved:
        indptr, indices, n_items = saved["indptr"].astype(np.int64), saved["indices"], int(saved["n_items"])
    ones = np.ones(len(indices), dtype=np.float32)
    return UserItemMatrix(indptr, indices.astype(np.int32), ones, np.arange(len(indices)), n_items)


def pack(matrix: UserItemMatrix, path: Path) -> None:
    """Write the histories, each in its order, without times and ratings."""
    indices = matrix.indices.astype(np.uint16 if matrix.n_items < 2**16 else np.int32)
    np.savez_compressed(path, indptr=matrix.indptr, indices=indices, n_items=matrix.n_items)
