"""A platform's own side of a federation."""

import os
from typing import TYPE_CHECKING

from common.public_names import public_names

if TYPE_CHECKING:
    from client.agent import PlatformAgent

__all__ = ["PlatformAgent"]

# Small matrices, many of them: threads inside each product only wait for one another. Read when NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__getattr__ = public_names(
    __name__,
    {"PlatformAgent": "client.agent"},
)
