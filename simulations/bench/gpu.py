"""The CUDA kernels against the CPU's, on this machine's first NVIDIA GPU: ``python -m simulations.bench.gpu``.

Needs numba and its CUDA packages (``crossfed[cuda]``), neither TensorFlow nor a network nor data: interactions are drawn in
the sizes of MovieLens-1M and of 20 million. A training step of the sequence model is timed with Keras on JAX or PyTorch,
where one of them is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.training.factory import make_trainer
from client.training.kernels.cuda_kernels import CudaKernels, cuda_usable
from client.training.kernels.numba_kernels import NumbaKernels
from client.training.kernels.self_check import check_kernels
from client.training.kernels.systems import Kernels
from common.config.model import FactorizationConfig
from common.deploy.console import say_json
from simulations.bench.synthetic import write_synthetic


@dataclass(frozen=True)
class Size:
    """Users, items and interactions of a drawn matrix."""

    users: int
    items: int
    interactions: int


ML_1M = Size(6_040, 3_706, 1_000_209)
LARGE = Size(140_000, 27_000, 20_000_000)
SMOKE = Size(8, 6, 20)


def bench_gpu(
    sizes: tuple[Size, ...] = (ML_1M, LARGE),
    dimensions: tuple[int, ...] = (64, 128),
    report: Callable[[dict[str, Any]], None] = lambda run: None,
) -> dict[str, Any]:
    """Time the two halves of an iteration, exact and by conjugate gradients, on the GPU and on the CPU in turn.

    Args:
        sizes: of the matrices.
        dimensions: of the factors.
        report: gets each run as it is done: a machine may be lent for minutes.

    Returns:
        ``device``, ``copy_gb_s`` (device to device, bytes read and written) and one entry of ``runs`` a size, dimension and
        solver: ``gpu`` and ``cpu`` (seconds, the best of repeats; factors go to the device and back, entries are there since
        the first iteration, ``gpu_first``, which compiles as well), ``ratio``, ``kernels`` (seconds of each kernel),
        ``bandwidth_share`` and ``kernels_bandwidth_share`` (bytes that the factors and entries of an iteration come to, each
        entry's factor read once, a second, over ``copy_gb_s``) and ``difference`` (largest of the users' factors, relative to
        the largest factor).
    """
    if not cuda_usable():
        return {"device": None, "runs": [], "reason": "no NVIDIA GPU that numba can use: not measured"}
    gpu, cpu = _TimedKernels(), NumbaKernels()
    check_kernels(gpu)
    copied = _copy_gb_s()
    runs = []
    for size in sizes:
        matrix = drawn(size)
        for dimension in dimensions:
            for solver, repeats in (("cholesky", 1 if size == LARGE else 3), ("cg", 3)):
                runs.append(_compared(matrix, size, dimension, solver, (gpu, cpu), repeats, copied))
                report(runs[-1])
    name = cuda.get_current_device().name
    return {"device": name.decode() if isinstance(name, bytes) else str(name), "copy_gb_s": copied, "runs": runs}


def drawn(size: Size) -> UserItemMatrix:
    """A matrix of that size whose items follow Zipf's law."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.npz"
        write_synthetic(path, users=size.users, items=size.items, interactions=size.interactions)
        with np.load(path) as saved:
            indptr, indices = saved["indptr"].astype(np.int64), saved["indices"]
    ones = np.ones(len(indices), dtype=np.float32)
    return UserItemMatrix(indptr, indices, ones, np.arange(len(indices)), size.items)


class _TimedKernels(CudaKernels):
    """Notes how long each kernel took, once :meth:`watched` is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._events: list[tuple[str, Any, Any]] | None = None

    def watched(self, run: Callable[[], object]) -> dict[str, float]:
        """Seconds by kernel of what ``run`` does."""
        self._events = []
        run()
        cuda.synchronize()
        seconds: dict[str, float] = {}
        for name, start, stop in self._events:
            seconds[name] = seconds.get(name, 0.0) + start.elapsed_time(stop) / 1000
        self._events = None
        return seconds

    def _launch(self, kernel: Any, blocks: int, threads: int, shared: int, *arguments: Any) -> None:
        if self._events is None:
            super()._launch(kernel, blocks, threads, shared, *arguments)
            return
        start, stop = cuda.event(), cuda.event()
        start.record()
        super()._launch(kernel, blocks, threads, shared, *arguments)
        stop.record()
        self._events.append((kernel.py_func.__name__, start, stop))


def _compared(
    matrix: UserItemMatrix,
    size: Size,
    dimension: int,
    solver: str,
    contenders: tuple[_TimedKernels, Kernels],
    repeats: int,
    copied: float,
) -> dict[str, Any]:
    config = FactorizationConfig.model_validate(
        {"dimension": dimension, "regularization": 10.0, "unobserved_weight": 0.3, "solver": solver, "cg_steps": 2}
    )
    on_gpu, on_cpu = (_iteration(matrix, config, kernels) for kernels in contenders)
    on_cpu(matrix.select_users(np.arange(1)))  # compiles
    first, _ = _timed(on_gpu, matrix)
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats):
        solved = [_timed(iterate, matrix) for iterate in (on_gpu, on_cpu)]
        for times, (taken, _factors) in zip(seconds, solved, strict=True):
            times.append(taken)
    watched = contenders[0].watched(lambda: on_gpu(matrix))
    gpu, cpu, within = min(seconds[0]), min(seconds[1]), sum(watched.values())
    touched = 2 * matrix.nnz * (4 * dimension + 12) + 8 * dimension * (matrix.n_users + matrix.n_items)
    ours, theirs = (factors for _taken, factors in solved)
    return {
        "interactions": size.interactions,
        "dimension": dimension,
        "solver": solver,
        "gpu": gpu,
        "gpu_first": first,
        "cpu": cpu,
        "ratio": gpu / cpu,
        "kernels": watched,
        "bandwidth_share": touched / gpu / 1e9 / copied,
        "kernels_bandwidth_share": touched / max(within, 1e-9) / 1e9 / copied,
        "difference": float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
    }


def _timed(
    iterate: Callable[[UserItemMatrix], NDArray[np.float32]], matrix: UserItemMatrix
) -> tuple[float, NDArray[np.float32]]:
    start = time.perf_counter()
    factors = iterate(matrix)
    return time.perf_counter() - start, factors


def _iteration(
    matrix: UserItemMatrix, config: FactorizationConfig, kernels: Kernels
) -> Callable[[UserItemMatrix], NDArray[np.float32]]:
    trainer = make_trainer(config, kernels=kernels)
    items = trainer.first_item_factors(matrix.n_items, np.random.default_rng(0))

    def iterate(part: UserItemMatrix) -> NDArray[np.float32]:
        users = trainer.solve_users(part, items, np.zeros((part.n_users, config.dimension), np.float32))
        trainer.solve_items(part, users, items)
        return users

    return iterate


def _copy_gb_s(size: int = 2**28) -> float:
    """Gigabytes a second, read and written, of copies on the device."""
    first = cuda.device_array(size, np.uint8)
    second = cuda.device_array(size, np.uint8)
    second.copy_to_device(first)
    cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        second.copy_to_device(first)
    cuda.synchronize()
    return 20 * size / (time.perf_counter() - start) / 1e9


def sequence_step(*, smoke: bool = False) -> dict[str, Any]:
    """A training step of the sequence model on the GPU and on the CPU, by the same code, in processes of their own.

    Returns:
        ``gpu`` and ``cpu``, each what :func:`simulations.bench.sequences.step.bench_step` gives, or why it failed, and
        ``ratio``, the GPU's seconds over the CPU's.
    """
    found: dict[str, Any] = {}
    for device in ("gpu", "cpu"):
        command = [sys.executable, "-m", "simulations.bench.sequences.step", device, *(["--smoke"] if smoke else [])]
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        failed = {"failed": done.stderr[-500:]}
        found[device] = failed if done.returncode else json.loads(done.stdout.splitlines()[-1])
    times = [found[device].get("seconds") for device in ("gpu", "cpu")]
    return {**found, "ratio": times[0] / times[1] if all(times) else None}


if __name__ == "__main__":
    smoke = "--smoke" in sys.argv
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    one = {"ml1m": (ML_1M,), "large": (LARGE,)}.get(asked, (ML_1M, LARGE))
    sizes, dimensions = ((SMOKE,), (4,)) if smoke else (one, (64, 128))
    figures: dict[str, Any] = {"device": None} if asked == "step" else bench_gpu(sizes, dimensions, say_json)
    if asked == "step" or (figures["device"] and asked not in ("ml1m", "large")):
        figures["sequence_step"] = sequence_step(smoke=smoke)
    say_json(figures)
