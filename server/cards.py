"""Relays encrypted item cards between platforms; the aggregator cannot open them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common.catalogue import Vocabulary, join_boxes, unpack_blobs
from common.wire.exchange import AgentReply

CANDIDATES = 3
"""Cards of other platforms that go to a platform for one item: so many, less one, may be spoilt."""


class CardRelay:
    """Sealed cards by item: a platform is sent others' of them, as what it tells of its own items it knows.

    The first that opens describes the item, so a platform has common and foreign items described by the same hand. The
    aggregator cannot tell a card that opens from one that does not, hence the further ones.
    """

    def __init__(self) -> None:
        self._boxes: dict[bytes, dict[str, bytes]] = {}
        self._order: Vocabulary | None = None
        self._common: list[bytes] = []
        self._described: dict[str, list[int]] = {}

    def collect(self, joined: Iterable[AgentReply]) -> None:
        """Take the cards of the platforms' ``join`` answers.

        Raises:
            CatalogueError: a platform's cards do not fit its digests.
        """
        self._order = None
        for reply in sorted(joined, key=lambda answer: answer.platform):
            boxes = unpack_blobs(reply.arrays["cards"], reply.arrays["card_offsets"])
            for digest, box in zip(reply.arrays["digests"], boxes, strict=True):
                kept = self._boxes.setdefault(digest.tobytes(), {})
                # One more than are sent: one of them may be the receiver's.
                if box and len(kept) <= CANDIDATES:
                    kept.setdefault(reply.platform, box)

    def in_order_of(self, vocabulary: Vocabulary, platform: str) -> list[bytes]:
        """The boxes of an item from the first *other* platforms in order of name, joined; empty where none described it."""
        if self._order is not vocabulary:
            self._order = vocabulary
            kept = [self._boxes.get(digest.tobytes(), {}) for digest in vocabulary.digests]
            # The same for all but the few platforms whose own boxes are among them.
            self._common = [_first_of(boxes, "") for boxes in kept]
            self._described = {}
            for position, boxes in enumerate(kept):
                for name in boxes:
                    self._described.setdefault(name, []).append(position)
        ordered = self._common.copy()
        for position in self._described.get(platform, []):
            ordered[position] = _first_of(self._boxes[vocabulary.digests[position].tobytes()], platform)
        return ordered


def _first_of(boxes: Mapping[str, bytes], receiver: str) -> bytes:
    return join_boxes([box for name, box in boxes.items() if name != receiver][:CANDIDATES])
