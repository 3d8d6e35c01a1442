"""One thread per product: several requests already share the cores, and more threads only make the slow ones slower."""

from __future__ import annotations

import ctypes
from pathlib import Path

_SETTERS = ("openblas_set_num_threads", "scipy_openblas_set_num_threads", "scipy_openblas_set_num_threads64_")


def limit_blas_threads(threads: int = 1) -> int:
    """Set the threads of every OpenBLAS that this process has loaded; returns how many libraries were found.

    ``OPENBLAS_NUM_THREADS`` does the same, but only for a process that has not imported NumPy yet. Elsewhere than on
    Linux, and for other BLAS libraries, it does nothing.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return 0
    found = 0
    libraries = {line.split(maxsplit=5)[-1].strip() for line in maps.read_text().splitlines() if "openblas" in line}
    for library in sorted(libraries):
        loaded = ctypes.CDLL(library)
        for name in _SETTERS:
            if hasattr(loaded, name):
                getattr(loaded, name)(ctypes.c_int(threads))
                found += 1
                break
    return found
