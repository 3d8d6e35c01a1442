"""Relays encrypted item cards between platforms; the aggregator cannot open them."""

from __future__ import annotations

from collections.abc import Iterable

from common.catalogue import Vocabulary, unpack_blobs
from common.exchange import AgentReply


class CardRelay:
    """One sealed card an item, from the first platform (in order of name) that described it."""

    def __init__(self) -> None:
        self._boxes: dict[bytes, bytes] = {}

    def collect(self, joined: Iterable[AgentReply]) -> None:
        """Take the cards of the platforms' ``join`` answers.

        Raises:
            CatalogueError: a platform's cards do not fit its digests.
        """
        for reply in sorted(joined, key=lambda answer: answer.platform):
            boxes = unpack_blobs(reply.arrays["cards"], reply.arrays["card_offsets"])
            for digest, box in zip(reply.arrays["digests"], boxes, strict=True):
                if box:
                    self._boxes.setdefault(digest.tobytes(), box)

    def in_order_of(self, vocabulary: Vocabulary) -> list[bytes]:
        """One box an item, empty where nobody described it."""
        return [self._boxes.get(digest.tobytes(), b"") for digest in vocabulary.digests]
