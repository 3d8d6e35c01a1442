from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Tests share their machine; tiny systems gain nothing from threads. Set before numpy and numba are imported.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# Ledgers and journals wait for the disk at every step. A roomy memory file system makes that free; no test here is
# about whether the hardware keeps its promise.
_MEMORY = Path("/dev/shm")
if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# PyTorch's own build for CUDA brings Triton, and Triton and TensorFlow an LLVM each: the second that a process loads ends it.
sys.modules["triton"] = None  # type: ignore[assignment]

# Nothing asserts a wall-clock time: not Hypothesis either, whose deadlines a busy machine misses.
settings.register_profile("crossfed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("crossfed")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for one another on a busy machine cost tiny kernels fifty times their work."""
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)
