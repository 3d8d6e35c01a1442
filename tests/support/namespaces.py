"""Hosts as network namespaces, and how their links are made slow."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from typing import Any

SLOW = ("netem", "delay", "100ms", "loss", "1%")
"""On either end of a link: 200 ms and 1 % each way."""

Run = Callable[[list[str]], "subprocess.CompletedProcess[Any]"]


def namespace(name: str) -> str:
    return f"crossfed-{name}"


def inside(name: str) -> list[str]:
    """Before a command that runs on that host."""
    return ["ip", "netns", "exec", namespace(name)]


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, check=False)


def make_links_slow(names: Iterable[str], run: Run = _run) -> bool:
    """Whether the kernel can: it has netem. All hosts' links are asked for, and one refusal is a refusal."""
    done = [run([*inside(name), "tc", "qdisc", "add", "dev", "eth0", "root", *SLOW]) for name in names]
    return all(result.returncode == 0 for result in done)
