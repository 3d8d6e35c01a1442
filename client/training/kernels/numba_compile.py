"""How the loops of the CPU backend are compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

_FASTMATH = {"contract", "reassoc", "nsz"}  # without nnan and ninf: failures are recognised by NaN


def jit(function: Callable[..., Any], *, parallel: bool = False) -> Callable[..., Any]:
    """Compile with a disk cache, or without one where the installation and the home directory are read-only.

    The loops do without the interpreter's lock: what a platform hashes, writes or serves meanwhile is not held up.
    """
    options: dict[str, Any] = {"fastmath": _FASTMATH, "parallel": parallel, "nogil": True}
    try:
        compiled: Callable[..., Any] = numba.njit(function, cache=True, **options)
    except RuntimeError:  # numba: "no locator available"
        compiled = numba.njit(function, **options)
    return compiled


def jit_parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    return jit(function, parallel=True)
