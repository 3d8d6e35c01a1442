"""The CUDA kernels in numba's simulator, which needs no GPU, and which backend solves users that are noised."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.training import factory
from client.training.kernels.numba_kernels import NumbaKernels
from client.training.kernels.self_check import check_kernels
from client.training.kernels.systems import Coordinates, Kernels, RowSystems
from common.config.model import FactorizationConfig
from common.errors import ConfigError

ROOT = Path(__file__).parents[4]
IN_SIMULATOR = """
import numpy as np
from client.training.kernels.cuda_kernels import CudaKernels
from client.training.kernels.numba_kernels import NumbaKernels
from client.training.kernels.systems import Coordinates, Entries, RowSystems

def close(a, b):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)

# The third row, of 18 entries, goes in three pieces.
gpu, cpu, rng = CudaKernels(threads=2, chunk=8), NumbaKernels(), np.random.default_rng(1)
indptr = np.array([0, 0, 3, 21, 22], np.int64)
entries = Entries(indptr, rng.integers(0, 9, 22).astype(np.int32), rng.random(22).astype(np.float32),
                  rng.normal(size=22).astype(np.float32))
factors = rng.normal(size=(9, 5)).astype(np.float32)
base = 0.3 * factors.T.astype(float) @ factors
ridge, anchors = rng.random(4) + 0.5, rng.normal(size=(4, 5)).astype(np.float32)
systems = RowSystems(entries, factors, base, ridge, rng.random(5) + 0.5, anchors)
exact = gpu.solve_cholesky(systems)
close(exact, cpu.solve_cholesky(systems))
start = rng.normal(size=(4, 5)).astype(np.float32)
by_steps = gpu.solve_cg(systems, start, 2)
close(by_steps, cpu.solve_cg(systems, start, 2))

# In coordinates, where the base is a diagonal: rows are carried there and back.
turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
there = Coordinates((turn * 2).astype(np.float32), (turn / 2).astype(np.float32))
diagonal = RowSystems(entries, factors, np.diag(rng.random(5) + 1), ridge, systems.shape, anchors)
close(gpu.solve_cg(diagonal, start, 2, there), cpu.solve_cg(diagonal, start, 2, there))
assert np.abs(gpu.solve_cg(diagonal, start, 2, there) - gpu.solve_cg(diagonal, start, 2)).max() > 1e-2
close(gpu.solve_cg(systems, start, 2, there), cpu.solve_cg(systems, start, 2, there))
for ours, theirs in zip(gpu.statistics(entries, factors), cpu.statistics(entries, factors)):
    close(ours, theirs)
close(gpu.gram(start), start.T.astype(float) @ start)
close(gpu.squared_error(entries, exact, factors), cpu.squared_error(entries, exact, factors))

# More dimensions than a band has rows, and more than a block has threads; memory is used again, by fewer rows too.
for p in (19, 3):
    wide = rng.normal(size=(9, p)).astype(np.float32)
    few = RowSystems(entries, wide, 0.3 * wide.T.astype(float) @ wide, ridge, rng.random(p) + 0.5, anchors[:, :1] * wide[:4])
    close(gpu.solve_cholesky(few), cpu.solve_cholesky(few))
    # The pivot fails in the last band, not in the first.
    down = np.zeros((p, p))
    down[-1, -1] = -1e9
    assert not gpu.solve_cholesky(RowSystems(entries, wide, few.base + down, ridge, few.shape)).any()
close(gpu.solve_cholesky(systems), exact)

# A row that is not positive definite is zero and changes no other, which are as they were, to the bit.
broken = RowSystems(entries, factors, base, np.array([0.5, -1e6, 0.5, 0.5]), np.ones(5))
sound = RowSystems(entries, factors, base, np.full(4, 0.5), np.ones(5))
with_broken, without = gpu.solve_cholesky(broken), gpu.solve_cholesky(sound)
assert not with_broken[1].any() and without[1].any()
kept = [0, 2, 3]
assert with_broken[kept].tobytes() == without[kept].tobytes()

# Nor does it matter which rows are beside it, be it whole or in pieces.
for row in (1, 2):
    inside = slice(indptr[row], indptr[row + 1])
    of_row = np.array([0, inside.stop - inside.start], np.int64)
    alone = Entries(of_row, entries.indices[inside], entries.weights[inside], entries.targets[inside])
    one = gpu.solve_cholesky(RowSystems(alone, factors, base, np.array([0.5]), np.ones(5)))
    assert one.tobytes() == without[row : row + 1].tobytes()
    same = RowSystems(alone, factors, base, ridge[row : row + 1], systems.shape, anchors[row : row + 1])
    assert gpu.solve_cg(same, start[row : row + 1], 2).tobytes() == by_steps[row : row + 1].tobytes()
"""


def test_cuda_kernels_agree_with_the_cpu_row_by_row() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_ENABLE_CUDASIM": "1"}
    subprocess.run([sys.executable, "-c", IN_SIMULATOR], check=True, env=environment, cwd=ROOT)


class _Wrong(NumbaKernels):
    """Adds ``error`` to each solution of a call with more than ``rows`` rows."""

    def __init__(self, error: float, rows: int) -> None:
        self._error, self._rows = error, rows

    def solve_cholesky(self, systems: RowSystems) -> NDArray[np.float32]:
        solved = super().solve_cholesky(systems)
        return solved + np.float32(self._error) if systems.entries.n_rows > self._rows else solved


def test_a_backend_that_computes_wrong_numbers_is_refused() -> None:
    check_kernels(NumbaKernels())
    with pytest.raises(ConfigError, match="wrong numbers"):
        check_kernels(_Wrong(1e-3, 0))


class _Missteps(NumbaKernels):
    """Takes one step less where it carries rows elsewhere, or fails."""

    def __init__(self, fails: bool) -> None:
        self._fails = fails

    def solve_cg(
        self,
        systems: RowSystems,
        warm_start: NDArray[np.float32],
        steps: int,
        coordinates: Coordinates | None = None,
    ) -> NDArray[np.float32]:
        if self._fails:
            raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")
        return super().solve_cg(systems, warm_start, steps - 3 if coordinates else steps, coordinates)


def test_a_backend_that_takes_wrong_steps_or_fails_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes wrong steps"):
        check_kernels(_Missteps(fails=False))
    with pytest.raises(ConfigError, match=r"fails its trial on this device \(RuntimeError\)"):
        check_kernels(_Missteps(fails=True))


def test_a_backend_whose_rows_hang_on_others_is_refused() -> None:
    with pytest.raises(ConfigError, match="depends on other rows"):
        check_kernels(_Wrong(1e-6, 1))


def test_noised_users_are_solved_one_by_one_on_any_machine(caplog: pytest.LogCaptureFixture) -> None:
    auto = FactorizationConfig()
    asked: list[str] = []

    def cuda(device: str) -> Kernels:
        asked.append(device)
        raise ConfigError("no driver")

    for update, gpu, tries in (
        ({}, False, []),
        ({}, True, ["auto"]),
        ({"backend": "tensorflow", "device": "gpu:1"}, True, ["gpu:1"]),
        ({"device": "cpu"}, True, []),
        ({"backend": "numba"}, True, []),
    ):
        asked.clear()
        fields: dict[str, Any] = update
        assert factory.make_row_kernels(auto.model_copy(update=fields), gpu=gpu, cuda=cuda).name == "numba"
        assert asked == tries
    assert "users are solved on the CPU: no driver" in caplog.text
    with pytest.raises(ConfigError, match="no driver"):
        factory.make_row_kernels(auto.model_copy(update={"backend": "cuda"}), gpu=False, cuda=cuda)


def test_cuda_without_a_gpu_is_refused_with_the_mend() -> None:
    from client.training.kernels.cuda_kernels import CudaKernels

    with pytest.raises(ConfigError, match="no NVIDIA GPU"):
        CudaKernels("cpu")
