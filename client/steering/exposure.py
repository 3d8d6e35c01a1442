"""Caps on exposure: no item may be in more than a share of the last lists."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class ExposureCap(Generic[Item]):
    """Counts what the last lists held. Safe for threads; in memory alone, so that it begins anew with the process.

    Args:
        share: largest share of the window's lists that may hold one item.
        window: how many lists are looked back on. As many are counted from the first list on, so that a cap binds only once
            an item has been in ``share · window`` lists.
    """

    def __init__(self, share: float, window: int) -> None:
        self._most = max(1, math.floor(share * window))
        self._window = window
        self._lists: deque[tuple[Item, ...]] = deque()
        self._counts: Counter[Item] = Counter()
        self._full: frozenset[Item] = frozenset()
        self._lock = threading.Lock()

    def full(self) -> frozenset[Item]:
        """Return what may not be listed now; the same object until that changes."""
        return self._full

    def note(self, items: Sequence[Item]) -> None:
        """A list was shown."""
        with self._lock:
            shown, changed = tuple(items), False
            self._lists.append(shown)
            for item in shown:
                self._counts[item] += 1
                changed |= self._counts[item] == self._most
            if len(self._lists) > self._window:
                for item in self._lists.popleft():
                    changed |= self._counts[item] == self._most
                    self._counts[item] -= 1
                    if not self._counts[item]:
                        del self._counts[item]
            if changed:
                self._full = frozenset(item for item, count in self._counts.items() if count >= self._most)
