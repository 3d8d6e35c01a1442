"""Memory of a process that makes arrays of the same sizes round after round."""

from __future__ import annotations

import ctypes
import sys

# The numbers of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_TWO_GIB = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed for the next request, up to 2 GiB, in one arena; whether it does.

    Unless told so it maps an array of tens of megabytes anew each time and hands it back when it is freed. Each page is
    then cleared and faulted in once a round, under a lock of the whole process: platforms that work side by side were
    held up by it for longer than their disks hold them up. Call it before other threads exist, which get arenas of their
    own. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _TWO_GIB)])
