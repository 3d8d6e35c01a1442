"""A file of interactions may be larger than memory: what is not used streams past."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

ROWS, COPIES, PAD = 2000, 64, 8000
SCRIPT = """
import resource, sys
from pathlib import Path
from client.data.cleaning import load_platform_data
from common.config.data import DataConfig, InteractionsConfig

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
data = load_platform_data(DataConfig(interactions=InteractionsConfig(path=Path(sys.argv[1]))), platform="shop")
print(data.report.rows_read, data.interactions.nnz, peak() - before)
"""


def test_a_file_streams_and_only_what_is_kept_takes_memory(tmp_path: Path) -> None:
    block = "".join(f"u{row % 97},i{row % 31},3,{'x' * PAD}\n" for row in range(ROWS)).encode()
    member = gzip.compress(block, 1)
    path = tmp_path / "events.csv.gz"
    with path.open("wb") as file:
        file.write(gzip.compress(b"user_id,item_id,rating,comment\n"))
        for _ in range(COPIES):
            file.write(member)
    size = COPIES * len(block)
    assert size > 10**9
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    rows, kept, grown = map(int, done.stdout.split())
    assert (rows, kept) == (ROWS * COPIES, ROWS)
    assert grown < size / 2, "half a gigabyte for a gigabyte of text of which 2,000 interactions stay"
