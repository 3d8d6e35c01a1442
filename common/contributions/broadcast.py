"""Digests what all platforms of a round must have been told alike, to which the masks of the secure sum are bound.

An aggregator that tells platforms different things (item counts that put their totals in different rows, say) then gets
vectors whose masks do not cancel: the sum is uniform over the ring and tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.catalogue import Vocabulary, pack_blobs
from common.privacy.secure_sum import bind
from common.wire.exchange import AgentRequest, digest_of


def vocabulary_arrays(vocabulary: Vocabulary) -> dict[str, NDArray[Any]]:
    """Return what all platforms are told of the vocabulary: digests uint8 ``[m, bytes]``, owners uint8 ``[m, P]``."""
    return {"digests": vocabulary.digests, "owners": vocabulary.ownership().astype(np.uint8)}


def card_arrays(cards: Sequence[bytes]) -> dict[str, NDArray[Any]]:
    """Sealed item cards as arrays of a message; an empty one stands for an item without a card."""
    packed, offsets = pack_blobs(cards)
    return {"cards": packed, "card_offsets": offsets}


def vocabulary_digest(platforms: Iterable[str], digests: NDArray[np.uint8], owners: NDArray[np.uint8]) -> bytes:
    """SHA-256 (32 bytes) of the vocabulary, as far as all platforms are told the same.

    The relayed cards are left out: each platform is sent others' cards and none of its own. They are sealed by platforms,
    so that the aggregator can withhold one and not write one, and no masked value depends on them but through public
    attributes of items in the deep model.

    Args:
        platforms: all names, in the order of ``owners``.
        digests: uint8 ``[m, bytes]``.
        owners: uint8 ``[m, P]``, 1 where a platform shares an item.
    """
    return bind("vocabulary", digests.tobytes(), owners.tobytes(), *(name.encode() for name in platforms))


def round_context(request: AgentRequest, vocabulary: bytes) -> bytes:
    """SHA-256 (32 bytes) of all that ``request`` says and of the vocabulary that it is read with.

    Nothing of a request for a contribution is made for one platform: kind, run, round, config and every array count.

    Args:
        request: as the aggregator sent it, or as the platform received it.
        vocabulary: of :func:`vocabulary_digest`.
    """
    return bind("broadcast", vocabulary, bytes.fromhex(digest_of(request)))
