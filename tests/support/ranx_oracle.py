"""Figures by ranx, another library, in a process of its own: compiling it takes 15 s, and interpreted it needs one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

_RANX = """
import json, sys
import ranx
case = json.load(sys.stdin)
run = ranx.Run(case["run"])
ranx.evaluate(ranx.Qrels(case["qrels"]), run, case["metrics"])
print(json.dumps({metric: [float(run.scores[metric][user]) for user in case["run"]] for metric in case["metrics"]}))
"""


def ranx_metrics(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]], metrics: Sequence[str]
) -> dict[str, list[float]]:
    """Each metric's value by user, in the order of ``run``."""
    # The switch is read when numba is imported.
    answer = subprocess.run(
        [sys.executable, "-c", _RANX],
        input=json.dumps({"qrels": qrels, "run": run, "metrics": list(metrics)}),
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    values: dict[str, list[float]] = json.loads(answer.stdout)
    return values
