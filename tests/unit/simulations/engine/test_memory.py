from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from simulations.engine.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
pages = 0
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array = np.ones(50_000_000)
    del array
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(pages)
"""


def pages_of_a_third_round(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is on Linux")
def test_arrays_of_later_rounds_come_from_memory_that_was_freed() -> None:
    kept = pages_of_a_third_round("keep")
    mapped = pages_of_a_third_round("map")
    assert kept < 50
    assert mapped > 2 * kept, "else there is nothing to keep"
