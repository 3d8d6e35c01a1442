"""Relays encrypted item cards between platforms; the aggregator cannot open them."""

from __future__ import annotations

from collections.abc import Iterable

from common.catalogue import Vocabulary, unpack_blobs
from common.exchange import AgentReply


class CardRelay:
    """Sealed cards by item: a platform is sent one of another's, as what it tells of its own items it knows.

    So a platform has common and foreign items described by the same hand.
    """

    def __init__(self) -> None:
        self._boxes: dict[bytes, dict[str, bytes]] = {}

    def collect(self, joined: Iterable[AgentReply]) -> None:
        """Take the cards of the platforms' ``join`` answers.

        Raises:
            CatalogueError: a platform's cards do not fit its digests.
        """
        for reply in sorted(joined, key=lambda answer: answer.platform):
            boxes = unpack_blobs(reply.arrays["cards"], reply.arrays["card_offsets"])
            for digest, box in zip(reply.arrays["digests"], boxes, strict=True):
                first_two = self._boxes.setdefault(digest.tobytes(), {})
                # Of two platforms' cards one is another's than the receiver's, whoever that is.
                if box and len(first_two) < 2:
                    first_two.setdefault(reply.platform, box)

    def in_order_of(self, vocabulary: Vocabulary, platform: str) -> list[bytes]:
        """One box an item, from the first *other* platform in order of name; empty where no other described it."""
        return [
            next((box for name, box in self._boxes.get(digest.tobytes(), {}).items() if name != platform), b"")
            for digest in vocabulary.digests
        ]
