"""The slow line of ``make faults``: the kernel is asked for it by tc, and what stands in for the kernel delays and loses."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
from typing import Any

import pytest

from tests.support.namespaces import SLOW, make_links_slow
from tests.support.slow_link import SlowLine


class Chance(random.Random):
    """Gives these numbers in turn, and then nothing that happens."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(0)
        self._numbers = list(numbers)

    def random(self) -> float:
        return self._numbers.pop(0) if self._numbers else 1.0


@pytest.mark.parametrize("refused", [None, "crossfed-b"])
def test_each_hosts_link_is_slowed_by_tc_or_the_stand_in_is_used(refused: str | None) -> None:
    asked: list[list[str]] = []

    def run(command: list[str]) -> subprocess.CompletedProcess[Any]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 2 if refused in command else 0)

    assert make_links_slow(["a", "b", "c"], run) is (refused is None)
    assert [" ".join(command) for command in asked] == [
        f"ip netns exec crossfed-{name} tc qdisc add dev eth0 root netem delay 100ms loss 1%" for name in "abc"
    ]


@pytest.mark.skipif(shutil.which("tc") is None, reason="needs iproute2")
@pytest.mark.parametrize(("words", "answer"), [(SLOW, "Cannot find device"), (("netem", "dely", "1ms"), "dely")])
def test_tc_understands_the_words(words: tuple[str, ...], answer: str) -> None:
    """It reads them before it looks for the device, which is not there."""
    command = ["tc", "qdisc", "add", "dev", "crossfed-none", "root", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert answer in done.stderr


def test_the_stand_in_holds_pieces_back_and_keeps_their_order() -> None:
    async def carried() -> None:
        line, queue = SlowLine(("h", 1), Chance(0.0)), asyncio.Queue[tuple[float, bytes]]()
        reader = asyncio.StreamReader()
        taking = asyncio.create_task(line._take(reader, queue))
        reader.feed_data(b"one")
        first, piece = await queue.get()
        reader.feed_data(b"two")
        second, other = await queue.get()
        assert [piece, other] == [b"one", b"two"]
        assert first > second > asyncio.get_running_loop().time(), "the first is lost and sent again"
        reader.feed_eof()
        await taking
        assert line.counts == {"pieces": 3, "late": 1}

    asyncio.run(carried())
