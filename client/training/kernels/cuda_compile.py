"""Compiles loops for the CUDA backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import config, cuda

SHARED_BYTES = 48 * 1024
"""What every device gives a block without being asked for more."""
_MOST_REGISTERS = 200
"""Of a thread: two blocks of 160 threads fit a multiprocessor with 64 Ki of them."""


def kernel(function: Callable[..., Any]) -> Any:
    """``function`` compiled for the device to start; numba's simulator has no registers."""
    return cuda.jit(function) if config.ENABLE_CUDASIM else cuda.jit(max_registers=_MOST_REGISTERS)(function)


def device_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` compiled for other device code to call."""
    compiled: Callable[..., Any] = cuda.jit(device=True)(function)
    return compiled
