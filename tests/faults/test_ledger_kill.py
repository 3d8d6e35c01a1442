"""kill -9 between any two steps of charging and sending: spend is never under-counted, nothing is corrupt.

A child process does the whole life of a platform's books (set-up, reservation, charges, contributions, a closed run)
and kills itself at one line of the code under test, or is killed by the parent at a random moment (inside SQLite,
inside fsync). The parent then checks the books against what the child had let out, runs the same life again over the
remains, and must end with exactly the spend of one undisturbed life. CROSSFED_KILLS sets how many children die (200 in
``make faults``).
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from client.privacy import account, budget, egress, journal, ledger, spend
from client.privacy.egress import EgressContract, EgressGuard
from client.privacy.journal import EgressJournal, pack
from client.privacy.ledger import BudgetLedger
from common import files
from common.privacy.contribution import Release
from common.privacy.lifetime import BudgetPolicy
from common.privacy.minting import mint
from common.sealed import log as sealed_log
from common.sealed import witness
from common.sealed.witness import FileWitness
from common.wire.contract import ArraySpec, MessageSpec

KILLS = int(os.environ.get("CROSSFED_KILLS", "10"))
ROUNDS = 3
POLICY = BudgetPolicy(epsilon=3.0, delta=1e-5)
RELEASE = Release(kind="item_vectors", mechanism="gaussian", noise_multiplier=10.0)
CONTRACT = EgressContract((MessageSpec("statistics", (ArraySpec("item_vectors", "int64", (64,)),)),), ())
# The modules themselves, so that one that is moved or renamed is still followed.
CODE = frozenset(
    str(module.__file__) for module in (account, budget, egress, files, journal, ledger, sealed_log, spend, witness)
)


def open_books(directory: Path) -> tuple[BudgetLedger, EgressJournal, EgressGuard]:
    ledger = BudgetLedger.open(directory / "books", POLICY, witnesses=[FileWitness(directory / "ledger.store")])
    journal = EgressJournal(directory / "books", ledger, witnesses=[FileWitness(directory / "egress.store")])
    return ledger, journal, EgressGuard(CONTRACT, journal, ledger)


def live(directory: Path, left: Callable[[int, bytes], None]) -> None:
    """One platform's life; ``left`` hears of each contribution once it is out. Repeating it repeats its requests."""
    ledger, _, guard = open_books(directory)
    ledger.reserve("other", [RELEASE], epsilon=1.0, delta=1e-5)
    ledger.close("other")
    ledger.reserve("run", [RELEASE] * ROUNDS, epsilon=3.0, delta=1e-5)
    for server_round in range(1, ROUNDS + 1):
        receipt = ledger.charge("run", server_round, [RELEASE], f"{server_round:064x}")
        arrays = guard.replay(receipt)
        if arrays is None:
            # Fresh noise, as a mechanism would draw it: a retry that let it out beside the first would show.
            noise = np.frombuffer(os.urandom(512), np.int64)
            contribution = mint(
                kind="statistics",
                server_round=server_round,
                private=True,
                arrays={"item_vectors": noise},
                grid_steps={"item_vectors": 1.0},
                masked=frozenset(),
                releases=(RELEASE,),
            )
            arrays = guard.send(contribution, kind="statistics", sizes={}, receipt=receipt)
        left(server_round, pack(arrays))


def traced_lines(directory: Path) -> list[tuple[str, int]]:
    """The distinct lines of the code under test that a life runs through, in order of their first run."""
    seen: dict[tuple[str, int], None] = {}

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in CODE:
            return None
        seen.setdefault((frame.f_code.co_filename, frame.f_lineno))
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        live(directory, lambda server_round, content: None)
    finally:
        sys.settrace(previous)
    return list(seen)


def die_at(target: tuple[str, int], occurrence: int) -> None:
    """Kill this process when it comes to ``target`` for the ``occurrence``-th time."""
    passed = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal passed
        if frame.f_code.co_filename not in CODE:
            return None
        if (frame.f_code.co_filename, frame.f_lineno) == target:
            passed += 1
            if passed == occurrence:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def run_child(directory: Path, prepare: Callable[[], None], kill_after: float | None) -> tuple[dict[int, bytes], bool]:
    """Return what left the child, by round, and whether it was killed before its end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            prepare()
            live(directory, lambda number, content: os.write(writing, bytes([number]) + content) and None)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        messages = pipe.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed by itself"
    size = len(pack({"item_vectors": np.zeros(64, np.int64)})) + 1
    assert len(messages) % size == 0
    left = [messages[at : at + size] for at in range(0, len(messages), size)]
    return {message[0]: message[1:] for message in left}, os.WIFSIGNALED(status)


def check_remains(directory: Path, left: dict[int, bytes]) -> None:
    if left:
        # The witnesses knew before anything got out: set-up takes four entries of the ledger and one of the journal.
        kept = [FileWitness(directory / name).recall() for name in ("ledger.store", "egress.store")]
        assert [head.sequence >= n + len(left) for head, n in zip(kept, (4, 1), strict=True) if head] == [True, True]
    # Everything that got out was paid for, and is on record, before anybody mends anything.
    ledger, journal, _ = open_books(directory)
    assert ledger.spend().mu ** 2 >= len(left) / 100 - 1e-12
    assert sum(entry.content["event"] == "sent" for entry in journal.entries()) >= len(left)
    ledger.verify()
    journal.verify()
    # A retry of everything gets the same bytes, and pays for nothing twice.
    again: dict[int, bytes] = {}
    live(directory, again.__setitem__)
    assert {number: again[number] for number in left} == left
    assert ledger.spend().mu ** 2 == pytest.approx(ROUNDS / 100)
    assert sum(entry.content["event"] == "sent" for entry in journal.entries()) == ROUNDS
    ledger.verify()
    journal.verify()


def test_kill_minus_nine_never_undercounts_and_never_corrupts(tmp_path: Path) -> None:
    started = time.monotonic()
    lines = traced_lines(tmp_path / "undisturbed")
    duration = time.monotonic() - started
    assert len(lines) > 150
    choose = random.Random(20240521)
    targets = choose.sample(lines, min(KILLS, len(lines))) + choose.choices(lines, k=max(0, KILLS - len(lines)))
    killed = 0
    for number, target in enumerate(targets):
        with tempfile.TemporaryDirectory(dir=tmp_path) as name:
            at_random = number % 4 == 3
            occurrence, moment = choose.randint(1, 3), choose.uniform(0, duration / 2)
            prepare = (lambda: None) if at_random else (lambda t=target, o=occurrence: die_at(t, o))
            left, died = run_child(Path(name), prepare, moment if at_random else None)
            killed += died
            check_remains(Path(name), left)
    assert killed >= KILLS * 0.6
