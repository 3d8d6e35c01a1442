"""Signals as a queue that the main thread reads.

A handler runs between two instructions of the main thread, also of another handler: setting a ``threading.Event`` there waits
for ever once the interrupted instruction holds the event's lock. ``queue.SimpleQueue.put`` is made for this.
"""

from __future__ import annotations

import queue
import signal
from types import FrameType


class SignalQueue:
    """Takes signals from now on, in place of their handlers before. For the main thread.

    Args:
        numbers: the signals to take.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._arrived: queue.SimpleQueue[signal.Signals] = queue.SimpleQueue()
        for number in numbers:
            signal.signal(number, self._note)

    def wait(self, timeout: float | None = None) -> signal.Signals | None:
        """The next signal, or None when ``timeout`` seconds have passed; without one it waits for ever."""
        try:
            return self._arrived.get(timeout=timeout)
        except queue.Empty:
            return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived.put(signal.Signals(number))
