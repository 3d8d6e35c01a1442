from __future__ import annotations

from common.catalogue import Vocabulary, pack_blobs, split_boxes
from common.wire.exchange import AgentReply
from server.cards import CANDIDATES, CardRelay
from tests.support import SECRET

CATALOGUES = {"a": ["x:1", "x:2"], "b": ["x:1", "x:3"], "c": ["x:1", "x:2", "x:4"]}
SILENT = ("x:4",)


def joined(platform: str, keys: list[str]) -> AgentReply:
    cards, offsets = pack_blobs([b"" if key in SILENT else f"{platform} on {key}".encode() for key in keys])
    arrays = {"digests": SECRET.digests(keys), "cards": cards, "card_offsets": offsets}
    return AgentReply(platform=platform, kind="join", server_round=0, code="", config={}, arrays=arrays)


def relayed(platform: str, catalogues: dict[str, list[str]] = CATALOGUES) -> dict[str, list[bytes]]:
    relay = CardRelay()
    relay.collect([joined(name, keys) for name, keys in reversed(catalogues.items())])
    digests = {name: SECRET.digests(keys) for name, keys in catalogues.items()}
    vocabulary = Vocabulary.empty().extended(digests)
    keys = sorted({key for known in catalogues.values() for key in known})
    boxes = relay.in_order_of(vocabulary, platform)
    return {
        key: split_boxes(boxes[place])
        for key, place in zip(keys, vocabulary.positions(SECRET.digests(keys)), strict=True)
    }


def test_a_platform_gets_the_others_cards_in_order_of_name() -> None:
    assert relayed("a") == {"x:1": [b"b on x:1", b"c on x:1"], "x:2": [b"c on x:2"], "x:3": [b"b on x:3"], "x:4": []}
    assert relayed("b") == {
        "x:1": [b"a on x:1", b"c on x:1"],
        "x:2": [b"a on x:2", b"c on x:2"],
        "x:3": [],
        "x:4": [],
    }
    assert relayed("new")["x:1"] == [b"a on x:1", b"b on x:1", b"c on x:1"]


def test_a_platform_never_gets_its_own_card_back() -> None:
    assert all(
        not box.startswith(name.encode()) for name in CATALOGUES for own in relayed(name).values() for box in own
    )


def test_an_item_that_many_describe_travels_with_a_few_cards() -> None:
    everywhere = {name: ["x:1"] for name in "abcdef"}
    for name in (*everywhere, "new"):
        others = [other for other in everywhere if other != name][:CANDIDATES]
        assert relayed(name, everywhere)["x:1"] == [f"{other} on x:1".encode() for other in others]
