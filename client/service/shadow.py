"""A shadow: the challenger makes the same list, which nobody is shown, and what both have in common is counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger
from typing import Final

from client.service.metrics_export import ServingMetrics

_log = getLogger(__name__)
_MOST_WAITING: Final = 32


class Shadow:
    """Makes shadow lists one after another, beside the answers; where too many wait, one is left out.

    Args:
        metrics: where overlaps are counted.
    """

    def __init__(self, metrics: ServingMetrics) -> None:
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._room = threading.BoundedSemaphore(_MOST_WAITING)

    def compare(self, shown: Sequence[str], make: Callable[[], Sequence[str]]) -> None:
        """Compare the keys of a list that was shown with those that ``make`` gives, later."""
        if not shown or not self._room.acquire(blocking=False):
            return

        def compared() -> None:
            try:
                self._metrics.shadowed(len(set(shown) & set(make())) / len(shown))
            except Exception as error:
                # Whatever is wrong with the challenger is nothing to the users; an exception's text can hold a user's data.
                _log.error("the shadow failed with %s", type(error).__name__)
                self._metrics.shadow_failed()
            finally:
                self._room.release()

        self._threads.submit(compared)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
