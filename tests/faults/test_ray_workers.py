"""Real clusters of several sizes: what they sum is the same to the bit, also where workers are killed from outside."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np

from client.contributions.factor_sums import PlainStatistics
from client.deploy.loading import load_training_data
from client.sharding.platform import make_engine
from client.training.engine import Engine, Sums
from common.config.model import FactorizationConfig
from common.deploy.roles import PlatformConfig
from simulations.engine.cluster import local_cluster
from tests.support.sharded import N_ITEMS, Slowly, at, partitioned, sharded_config

MODEL = FactorizationConfig(dimension=3, regularization=2.0, unobserved_weight=0.2, backend="numba")
ITEMS = np.random.default_rng(2).normal(size=(N_ITEMS, 3)).astype(np.float32)
WHAT = PlainStatistics(MODEL, 0.0, ITEMS, metrics=("recall@20",))


def bits(sums: Sums) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in sums.items()}


def engine_at(config: PlatformConfig, address: str) -> Engine:
    return make_engine(at(config, address), load_training_data(config))


def test_two_and_four_workers_agree_to_the_bit(tmp_path: Path) -> None:
    config = partitioned(sharded_config(tmp_path, users=400), shards=20)
    found = []
    for workers in (2, 4):
        with local_cluster(workers) as cluster:
            found.append(bits(engine_at(config, cluster.address).sum(WHAT)))
    assert found[0] == found[1]


def test_four_workers_of_whom_some_are_killed_change_no_bit(tmp_path: Path) -> None:
    config = partitioned(sharded_config(tmp_path, users=400), shards=12)
    with local_cluster(4) as cluster:
        engine = engine_at(config, cluster.address)
        expected, killed, ended = bits(engine.sum(WHAT)), 0, threading.Event()

        def kill() -> None:
            nonlocal killed
            while not ended.wait(1.5) and killed < 3:
                for pid in Slowly.pids(tmp_path)[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1

        killer = threading.Thread(target=kill)
        killer.start()
        found = bits(engine.sum(Slowly(tmp_path, WHAT)))
        ended.set()
        killer.join()
    assert killed
    assert found == expected
