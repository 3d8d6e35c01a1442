"""Item parameters without what one platform contributed, for that platform alone: it validates on its own items with them.

A platform that hides some of its items from itself must see them as it sees items that it never had. Own users have made the
shared parameters of what they used; taken out of the last round's sums, they have no say in it. It can be done where each
platform's contribution is seen by itself: exact, or with all of its noise, of which this is post-processing. Of a secure
sum the aggregator knows no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.wire.exchange import Arrays, nbytes
from server.federation.collect import Contribution
from server.federation.state import FederationState

MOST_BYTES = 1 << 30
"""Of contributions that are kept until their sum is known; beyond it platforms reckon at home."""
_COUNTS, _STATISTICS = "counts", "statistics"
"""Kinds of contributions, by whose name a state keeps results."""


class KeptParts:
    """Hands contributions on as they come, and keeps them until all are there.

    Args:
        most_bytes: of all that is kept; nothing is where there is more.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._parts: dict[str, Contribution] | None = {}

    def passing(self, contributions: Iterable[Contribution]) -> Iterator[Contribution]:
        """The same contributions."""
        for part in contributions:
            self._keep(part)
            yield part

    @property
    def by_platform(self) -> Mapping[str, Contribution]:
        """The contribution of each platform; nothing where they were too many."""
        return self._parts or {}

    def _keep(self, part: Contribution) -> None:
        if self._parts is None:
            return
        self._bytes += nbytes(part.arrays)
        if self._bytes > self._most_bytes or len(part.platforms) != 1:
            self._parts = None
            return
        self._parts[part.platforms[0]] = part


def lacks_items(part: Contribution, n_items: int) -> bool:
    """Whether the platform that sent ``part`` lacks an item: no other has scorers of the others' items to weigh."""
    return len(part.positions) < n_items


def with_counts(state: FederationState, counts: Mapping[str, NDArray[np.float64]]) -> FederationState:
    """``state`` with each platform's own item counts, float64 ``[m_p]`` in order of its items."""
    order = {name: str(index) for index, name in enumerate(state.vocabulary.owners)}
    kept = {order[name]: own for name, own in counts.items()}
    return _with(state, _COUNTS, kept)


def counts_of_others(state: FederationState) -> Callable[[str], NDArray[np.float64]] | None:
    """From a platform to float64 ``[m]``: how many users of others have each item; None where counts were not kept."""
    kept, total, counts = state.results.get(_COUNTS), np.zeros(len(state.vocabulary)), {}
    for index, (name, positions) in enumerate(state.vocabulary.owners.items()):
        own = None if kept is None else kept.get(str(index))
        if own is None or len(own) != len(positions):
            return None
        total[positions] += own
        counts[name] = own

    def of_others(platform: str) -> NDArray[np.float64]:
        left = total.copy()
        left[state.vocabulary.owners[platform]] -= counts[platform]
        return left

    return of_others


def with_parameters(state: FederationState, without: Mapping[str, NDArray[np.float32]]) -> FederationState:
    """``state`` with what each platform is to be told: float32 ``[m_p, row]``."""
    order = {name: str(index) for index, name in enumerate(state.vocabulary.owners)}
    return _with(state, _STATISTICS, {order[name]: own for name, own in without.items()})


def parameters_without(state: FederationState, platform: str) -> NDArray[np.float32] | None:
    """float32 ``[m_p, row]`` of the platform's items in its order; None where they are not known."""
    order = list(state.vocabulary.owners)
    kept = state.results.get(_STATISTICS, {}).get(str(order.index(platform)))
    return None if kept is None or len(kept) != len(state.vocabulary.owners[platform]) else kept.astype(np.float32)


def _with(state: FederationState, kind: str, arrays: Arrays) -> FederationState:
    others = {name: result for name, result in state.results.items() if name != kind}
    return replace(state, results={**others, **({kind: dict(arrays)} if arrays else {})})
