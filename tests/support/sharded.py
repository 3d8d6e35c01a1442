"""A platform whose users are in shards, and the same one in memory."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.deploy.loading import load_training_data
from client.deploy.partition import partition_users
from client.sharding.cluster import Machine
from client.training.engine import LocalEngine, Sums, UserBlock
from common.deploy.roles import PlatformConfig

N_ITEMS = 30


def sharded_config(folder: Path, *, users: int = 120, feedback: str = "implicit", **changes: object) -> PlatformConfig:
    """Histories of very different length, with times that repeat and rows that cleaning drops."""
    rng = np.random.default_rng(4)
    lines = ["user_id,item_id,rating,time"]
    for _ in range(users * 9):
        user, item = int(users * rng.random() ** 2), int(rng.integers(N_ITEMS + 2))
        lines.append(f"person-{user},{item},{rng.integers(1, 6)},{rng.integers(1000, 1040)}")
    (folder / "views.csv").write_text("\n".join(lines) + "\n")
    films = [f"{item},Film {item},Drama" for item in range(N_ITEMS)]
    (folder / "films.csv").write_text("item_id,title,genres\n" + "\n".join(films) + "\n")
    given: dict[str, Any] = {
        "name": "cinema",
        "aggregator": "h.example.org:9443",
        "state": folder / "state",
        "plan": {"federation": "films", "platforms": 1, "privacy": {"mode": "none"}, "model": {"feedback": feedback}},
        "data": {
            "interactions": {"path": folder / "views.csv"},
            "items": {"path": folder / "films.csv", "namespace": "imdb"},
            "feedback": feedback,
        },
        "training": {"engine": "ray", "shards": folder / "shards", "block_users": 7, "sample_users": 100},
    }
    return PlatformConfig.model_validate(given | changes)


def partitioned(config: PlatformConfig, shards: int = 5) -> PlatformConfig:
    """``config``, once its shards are there."""
    partition_users(config, shards, lambda _: None)
    return config


def local(config: PlatformConfig) -> PlatformConfig:
    """The same platform with all users in one process."""
    return config.model_copy(update={"training": config.training.model_copy(update={"engine": "local"})})


def local_engine(config: PlatformConfig) -> LocalEngine:
    """All users of the platform in this process."""
    return LocalEngine(load_training_data(local(config)))


def at(config: PlatformConfig, address: str) -> PlatformConfig:
    """``config`` with the cluster at ``address``."""
    return config.model_copy(update={"training": config.training.model_copy(update={"address": address})})


@dataclass(frozen=True)
class DiesOnce:
    """Ends the process that sums a shard by the signal that nothing can catch; where it is summed again it goes well."""

    mark: Path
    of_all: Any

    def of(self, users: UserBlock) -> Sums:
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.of_all.of(users)


@dataclass(frozen=True)
class Tells:
    """Fails, and says whose data it failed on."""

    def of(self, users: UserBlock) -> Sums:
        raise RuntimeError(f"person-7 has {users.shared.indices.tolist()}")


class InlineCluster:
    """A cluster of no machine: work is done at once, by whoever asks; ``done`` is what it was asked."""

    def __init__(self) -> None:
        self.done: list[tuple[str, Any]] = []

    def put(self, value: Any) -> Any:
        return pickle.loads(pickle.dumps(value))

    def get(self, refs: Any) -> Any:
        return refs

    def task(self, function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            self.done.append((function.__name__, arguments[-1]))
            return function(*arguments)

        return run

    def on_every_machine(self, function: Any, *arguments: Any) -> list[tuple[Machine, Any]]:
        return [(Machine(name, 2, 2**30), function(*arguments)) for name in ("one", "two")]

    def few_at_a_time(self, refs: Any) -> Any:
        return refs

    def told_plainly(self) -> Any:
        return nullcontext()


@dataclass(frozen=True)
class Slowly:
    """Takes its time over each block, and leaves a file while it does that names the process."""

    folder: Path
    of_all: Any

    def of(self, users: UserBlock) -> Sums:
        mark = self.folder / f"{os.getpid()}.summing"
        mark.touch()
        threading.Event().wait(0.2)
        found: Sums = self.of_all.of(users)
        mark.unlink()
        return found

    @staticmethod
    def pids(folder: Path) -> list[int]:
        """Processes that are at it, and live."""
        found = [int(mark.stem) for mark in folder.glob("*.summing")]
        return [pid for pid in found if Path(f"/proc/{pid}").exists()]
