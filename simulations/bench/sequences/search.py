"""Compares settings of the sequence model side by side on one GPU; needs neither TensorFlow nor Flower nor polars.

    python -m simulations.bench.sequences.search pack DATA histories.npz
    python -m simulations.bench.sequences.search run histories.npz OUT [--seconds 420] [--settings NAME,NAME]

Every setting is a process of its own. They are judged on everybody's last item but one. Then the best pooled and the best
federated setting are trained once more, those items included, and measured on the last items, once a seed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.deploy.console import say_json
from simulations.bench.sequences.data import load_histories, pack
from simulations.bench.sequences.settings import SETTINGS
from simulations.bench.sequences.training import append_to, final, search

_SEEDS = (0, 1)
Job = tuple[str, Path, list[str]]
"""Setting, file of its figures, further arguments."""


@dataclass
class Board:
    """Keeps what is known so far, in a file that always has it."""

    file: Path
    found: dict[str, Any]

    def tell(self, key: str, value: Any) -> None:
        self.found[key] = value
        self.file.write_text(json.dumps(self.found, indent=1))


def run(histories: Path, out: Path, names: list[str], *, backend: str, search_s: float, whole_s: float) -> None:
    """Search, choose, train the chosen ones once more; all figures to ``out/result.json``, as they come.

    Args:
        histories: as :mod:`simulations.bench.sequences.data` packs them.
        out: a folder.
        names: of the settings.
        backend: that Keras computes with; where JAX fails, PyTorch is tried.
        search_s: seconds from now until the search is over.
        whole_s: and until everything is.
    """
    out.mkdir(parents=True, exist_ok=True)
    started, board = time.time(), Board(out / "result.json", {})
    with tempfile.TemporaryDirectory(prefix="crossfed-search-") as folder:
        jobs: list[Job] = [(name, Path(folder) / f"{name}.jsonl", []) for name in names]
        for each in dict.fromkeys((backend, "torch")):
            backend = each
            board.tell("backend", backend)
            _together(histories, "search", jobs, backend, board, until=started + search_s)
            if any(board.found["search"].values()):
                break
        jobs = []
        for kind, setting, choice in _chosen(board.found["search"]):
            board.tell(kind, {"setting": setting, **choice})
            say_json({kind: board.found[kind]})
            for seed in _SEEDS:
                more = [word for key, value in {"seed": seed, **choice}.items() for word in (f"--{key}", str(value))]
                jobs.append((setting, Path(folder) / f"final-{kind}-{seed}.jsonl", more))
        _together(histories, "final", jobs, backend, board, until=started + whole_s - 12)
    say_json({"final": board.found["final"], "seconds": time.time() - started})


def _chosen(curves: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str, dict[str, int]]]:
    """The best setting by NDCG@10 on validation, pooled and federated: its rounds, and the best of these."""
    for kind, federated in (("pooled", False), ("federated", True)):
        able = [name for name, lines in curves.items() if lines and (SETTINGS[name].platforms > 1) == federated]
        if able:
            looks = {name: max(curves[name], key=lambda line: line["ndcg@10"]) for name in able}
            best = max(able, key=lambda name: looks[name]["ndcg@10"])
            yield kind, best, {"rounds": curves[best][-1]["round"], "stop": looks[best]["round"]}


def _together(histories: Path, task: str, jobs: list[Job], backend: str, board: Board, until: float) -> None:
    """Run all jobs side by side, their figures on the board; end what is not done in time."""
    running = []
    for name, path, more in jobs:
        command = [sys.executable, "-m", "simulations.bench.sequences.search", task, str(histories), str(path)]
        command += ["--settings", name, "--until", str(until), *more]
        log = path.with_suffix(".log").open("w")
        running.append((path, subprocess.Popen(command, env=_environment(backend), stdout=log, stderr=log)))
    shown = time.time()
    while time.time() < until + 12 and any(process.poll() is None for _, process in running):
        time.sleep(0.5)
        board.tell(task, {path.stem: _lines(path) for path, _ in running})
        if time.time() - shown > 30:
            shown = time.time()
            say_json({task: {path.stem: _lines(path)[-1:] for path, _ in running}})
    failed = {}
    for path, process in running:
        if process.poll() is None:
            process.terminate()
        if process.wait():
            failed[path.stem] = path.with_suffix(".log").read_text()[-1500:]
    board.tell(task, {path.stem: _lines(path) for path, _ in running})
    if failed:
        board.tell(f"{task} failed on {backend}", failed)
        say_json({"failed": failed})


def _environment(backend: str) -> dict[str, str]:
    """The card's memory as it is needed, one thread a process, and one cache of compiled steps for all."""
    mine = {
        "KERAS_BACKEND": backend,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(Path.home() / ".cache" / "crossfed-jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return {**os.environ, **mine, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("pack", "run", "search", "final"))
    parser.add_argument("histories", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--settings", default=",".join(name for name in SETTINGS if "smoke" not in name))
    parser.add_argument("--backend", default="jax", choices=("jax", "torch", "tensorflow"))
    parser.add_argument("--search-seconds", type=float, default=240.0)
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--until", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--stop", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    asked = _arguments()
    names = asked.settings.split(",")
    if asked.task == "pack":
        pack(load_histories(asked.histories), asked.out)
    elif asked.task == "run":
        times = {"search_s": asked.search_seconds, "whole_s": asked.seconds}
        run(asked.histories, asked.out, names, backend=asked.backend, **times)
    else:
        matrix, setting, tell = load_histories(asked.histories), SETTINGS[names[0]], append_to(asked.out)
        if asked.task == "search":
            search(matrix, setting, seed=asked.seed, until=asked.until, tell=tell)
        else:
            choice = {"seed": asked.seed, "rounds": asked.rounds, "stop": asked.stop}
            final(matrix, setting, **choice, until=asked.until, tell=tell)


if __name__ == "__main__":
    main()
