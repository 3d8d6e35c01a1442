from __future__ import annotations

from common.catalogue import Vocabulary, pack_blobs
from common.exchange import AgentReply
from server.cards import CardRelay
from tests.support import SECRET

CATALOGUES = {"a": ["x:1", "x:2"], "b": ["x:1", "x:3"], "c": ["x:1", "x:2", "x:4"]}
SILENT = ("x:4",)


def joined(platform: str) -> AgentReply:
    keys = CATALOGUES[platform]
    cards, offsets = pack_blobs([b"" if key in SILENT else f"{platform} on {key}".encode() for key in keys])
    arrays = {"digests": SECRET.digests(keys), "cards": cards, "card_offsets": offsets}
    return AgentReply(platform=platform, kind="join", server_round=0, code="", config={}, arrays=arrays)


def relayed(platform: str) -> dict[str, bytes]:
    relay = CardRelay()
    relay.collect([joined(name) for name in ("c", "b", "a")])
    vocabulary = Vocabulary.empty().extended({name: SECRET.digests(keys) for name, keys in CATALOGUES.items()})
    keys = [f"x:{number}" for number in range(1, 5)]
    places = vocabulary.positions(SECRET.digests(keys))
    boxes = relay.in_order_of(vocabulary, platform)
    return {key: boxes[place] for key, place in zip(keys, places, strict=True)}


def test_a_platform_gets_of_every_item_the_card_of_the_first_other_platform() -> None:
    assert relayed("a") == {"x:1": b"b on x:1", "x:2": b"c on x:2", "x:3": b"b on x:3", "x:4": b""}
    assert relayed("b") == {"x:1": b"a on x:1", "x:2": b"a on x:2", "x:3": b"", "x:4": b""}
    assert relayed("c") == {"x:1": b"a on x:1", "x:2": b"a on x:2", "x:3": b"b on x:3", "x:4": b""}
    assert relayed("new") == {"x:1": b"a on x:1", "x:2": b"a on x:2", "x:3": b"b on x:3", "x:4": b""}


def test_a_platform_never_gets_its_own_card_back() -> None:
    assert all(not box.startswith(name.encode()) for name in CATALOGUES for box in relayed(name).values())
