"""A disk that fills up."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest


class FullDisk:
    """Lets ``left`` writing calls pass and fails all others, as a disk does that has filled up."""

    NAMES = ("fsync", "open", "mkdir", "rename", "replace", "fchmod")

    def __init__(self, left: int) -> None:
        self.left = left
        self.failed = False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Until the patch is undone."""
        for name in self.NAMES:
            real = getattr(os, name)

            def guarded(*args: Any, _real: Any = real, _name: str = name, **options: Any) -> Any:
                if _name == "open" and not (args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                    return _real(*args, **options)
                if self.left == 0:
                    self.failed = True
                    raise OSError(errno.ENOSPC, "No space left on device")
                self.left -= 1
                return _real(*args, **options)

            patch.setattr(os, name, guarded)
