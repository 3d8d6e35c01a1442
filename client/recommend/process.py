"""Settings of the process that serves, so that loading and training beside it do not make requests wait."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SETTERS = ("openblas_set_num_threads", "scipy_openblas_set_num_threads", "scipy_openblas_set_num_threads64_")


def prefer_short_waits() -> None:
    """Hand over the interpreter ten times as often as by default.

    A request needs it about twenty times. While another thread loads the next model, each time costs up to one interval:
    5 ms by default.
    """
    sys.setswitchinterval(0.0005)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the cycle collector from running: it stops all threads, and walks a catalogue's parts again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def limit_blas_threads(threads: int = 1) -> int:
    """Set the threads of every OpenBLAS that this process has loaded; returns how many libraries were found.

    Several requests already share the cores; more threads per product only make the slow ones slower.
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
