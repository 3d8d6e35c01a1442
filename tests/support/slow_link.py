"""Forwards TCP connections as a slow and lossy line would, where the kernel cannot: ``slow_link.py HOST PORT TARGET PORT``.

Each piece arrives 100 ms later, either way, so that a round trip takes 200 ms. One in a hundred arrives half a second later
still, as one that was lost and sent again. It cuts no connection, as the kernel's slow line cuts none: a SuperNode whose
connection ends while it fetches a message drops that message, and the aggregator waits for its whole deadline.
Ended by SIGTERM it prints how many pieces there were, and how many of them were late.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys

DELAY_SECONDS = 0.1
RESEND_SECONDS = 0.5
LOST = 0.01


class SlowLine:
    """One listener whose connections go on to another address.

    Args:
        target: host and port.
        chance: decides what is lost.
    """

    def __init__(self, target: tuple[str, int], chance: random.Random) -> None:
        self._target = target
        self._chance = chance
        self.counts = {"pieces": 0, "late": 0}

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either side ends it."""
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        tasks = []
        for source, end in ((reader, far_writer), (far_reader, writer)):
            line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1000)
            tasks += [asyncio.create_task(self._take(source, line)), asyncio.create_task(self._deliver(line, end))]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for side in (writer, far_writer):
            side.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, line: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Pieces keep their order and overlap on the line; the end of the stream travels as they do."""
        loop, piece = asyncio.get_running_loop(), b"begun"
        while piece:
            piece = await reader.read(16_384)
            late = RESEND_SECONDS if self._chance.random() < LOST else 0.0
            self.counts["pieces"] += 1
            self.counts["late"] += late > 0
            await line.put((loop.time() + DELAY_SECONDS + late, piece))

    async def _deliver(self, line: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, piece = await line.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not piece:
                writer.write_eof() if writer.can_write_eof() else None
                return
            writer.write(piece)
            await writer.drain()


async def _forward(host: str, port: int, target: tuple[str, int]) -> None:
    line = SlowLine(target, random.Random(0))
    server = await asyncio.start_server(line.connected, host, port)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    print(json.dumps(line.counts), flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(_forward(sys.argv[1], int(sys.argv[2]), (sys.argv[3], int(sys.argv[4]))))
