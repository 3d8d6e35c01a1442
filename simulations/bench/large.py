"""Memory and time of one iteration on 20 million synthetic interactions, ours and ``implicit``'s in fresh processes.

``python -m simulations.bench.large`` prints the comparison; the module starts itself again for each measurement, so
that the peak memory of one is not that of another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from client.data.dataset import UserItemMatrix
from client.training.factory import make_trainer
from common.config.model import FactorizationConfig
from simulations.bench.als import implicit_model, one_blas_thread
from simulations.bench.synthetic import write_synthetic

CONFIG = FactorizationConfig(
    dimension=64, regularization=10.0, unobserved_weight=0.3, solver="cg", cg_steps=2, backend="numba"
)


def large_synthetic(
    *, users: int = 140_000, items: int = 27_000, interactions: int = 20_000_000, repeats: int = 3
) -> dict[str, Any]:
    """One iteration at d = 64, transposition included: seconds and peak memory of each, in its own process.

    Returns:
        Per contender (``crossfed``: conjugate gradients; ``crossfed_exact``: Cholesky; ``crossfed_round``: what a
        platform does in one round of a federation, exact users and item statistics; ``implicit``) the median
        ``seconds`` and largest ``peak_gib``; ``ratio``: crossfed's seconds over implicit's.
    """
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in _CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.npz"
        kept = write_synthetic(path, users=users, items=items, interactions=interactions)
        for _ in range(repeats):
            for name, results in runs.items():
                results.append(_measured_apart(name, path))
    summary: dict[str, Any] = {
        name: {
            "seconds": float(np.median([run["seconds"] for run in results])),
            "peak_gib": max(run["peak_gib"] for run in results),
        }
        for name, results in runs.items()
    }
    return {**summary, "interactions": kept, "ratio": summary["crossfed"]["seconds"] / summary["implicit"]["seconds"]}


def _measured_apart(name: str, path: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "simulations.bench.large", name, str(path)], check=True, capture_output=True, text=True
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _load(path: Path) -> UserItemMatrix:
    with np.load(path) as saved:
        indptr, indices, items = saved["indptr"].astype(np.int64), saved["indices"], int(saved["items"])
    ones, times = np.ones(len(indices), dtype=np.float32), np.arange(len(indices))
    return UserItemMatrix(indptr, indices, ones, times, items)


def _crossfed(path: Path, solver: str, *, federated: bool) -> float:
    matrix = _load(path)
    trainer = make_trainer(CONFIG.model_copy(update={"solver": solver}))
    rng = np.random.default_rng(0)
    items = trainer.first_item_factors(matrix.n_items, rng)
    users = 0.01 * rng.random((matrix.n_users, CONFIG.dimension), dtype=np.float32)

    def iterate(part: UserItemMatrix) -> None:
        solved = trainer.solve_users(part, items, users[: part.n_users])
        if federated:
            trainer.item_statistics(part, solved)
        else:
            trainer.solve_items(part, solved, items)

    iterate(matrix.select_users(np.arange(1)))  # compiles
    start = time.perf_counter()
    iterate(matrix)
    return time.perf_counter() - start


def _implicit(path: Path) -> float:
    matrix = _load(path)
    shape = (matrix.n_users, matrix.n_items)
    ratings = sp.csr_matrix(sp.csr_array((matrix.values, matrix.indices, matrix.indptr), shape=shape))
    model: Any = implicit_model(CONFIG.model_copy(update={"iterations": 1}), random_state=0)
    with one_blas_thread():
        start = time.perf_counter()
        model.fit(ratings, show_progress=False)
        return time.perf_counter() - start


def _peak_gib() -> float:
    """Peak resident memory of this program; ``getrusage`` would count the parent that it was forked from."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


_CONTENDERS: dict[str, Callable[[Path], float]] = {
    "crossfed": lambda path: _crossfed(path, "cg", federated=False),
    "implicit": _implicit,
    "crossfed_exact": lambda path: _crossfed(path, "cholesky", federated=False),
    "crossfed_round": lambda path: _crossfed(path, "cholesky", federated=True),
}

if __name__ == "__main__":
    if len(sys.argv) == 3:
        spent = _CONTENDERS[sys.argv[1]](Path(sys.argv[2]))
        print(json.dumps({"seconds": spent, "peak_gib": _peak_gib()}))
    else:
        print(json.dumps(large_synthetic(), indent=2))
