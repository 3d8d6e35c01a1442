"""Memory and time of a process and of all that descend from it. Of memory that is shared, each page counts once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Peak:
    """Largest proportional set sizes seen, in bytes: of this process, of the largest worker, and of all together."""

    agent: int = 0
    worker: int = 0
    total: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def look(self, root: int | None) -> None:
        """Measure once; ``root``: pid of a cluster's first process."""
        mine = _pss(os.getpid())
        of_cluster = {pid: _pss(pid) for pid in ([] if root is None else _descendants(root))}
        workers = [size for pid, size in of_cluster.items() if _name(pid).startswith("ray::")]
        self.agent = max(self.agent, mine)
        self.worker = max(self.worker, *workers, 0)
        self.total = max(self.total, mine + sum(of_cluster.values()))


@contextmanager
def watched(root: int | None = None) -> Iterator[Peak]:
    """Look once a second until the body ends: looking costs time of its own."""
    peak = Peak()

    def watch() -> None:
        while not peak._stop.wait(1.0):
            peak.look(root)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        peak._stop.set()
        watcher.join()
        peak.look(root)


def core_seconds(root: int | None = None) -> float:
    """Seconds of a core that this process and all that descend from ``root`` have used; other programs do not count."""
    pids = [os.getpid(), *([] if root is None else _descendants(root))]
    return sum(map(_ticks, pids)) / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, IndexError):
        return 0


def _descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += [child for child, parent in parents.items() if parent == pid]
    return found


def _pss(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        return int(rollup.split("\nPss:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
