"""How the loops of the CPU backend are compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

_FASTMATH = {"contract", "reassoc", "nsz"}  # without nnan and ninf: failures are recognised by NaN


def jit(function: Callable[..., Any], *, parallel: bool = False) -> Callable[..., Any]:
    """Compile with a disk cache, or without one where the installation and the home directory are read-only."""
    try:
        compiled: Callable[..., Any] = numba.njit(function, cache=True, fastmath=_FASTMATH, parallel=parallel)
    except RuntimeError:  # numba: "no locator available"
        compiled = numba.njit(function, fastmath=_FASTMATH, parallel=parallel)
    return compiled


def jit_parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    return jit(function, parallel=True)
