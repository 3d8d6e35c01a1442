"""Every engine in turn: sums over all users, however these are divided and whatever goes on meanwhile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.contributions.factor_sums import PlainCounts, PlainStatistics, PrivateCounts, PrivateStatistics
from client.deploy.loading import load_training_data
from client.sharding.looking import examine_cluster
from client.sharding.platform import catalogue_of, make_engine, open_shards, source_of_shards
from client.sharding.ray_engine import RayEngine
from client.training.engine import Engine, LocalEngine
from common.config.model import FactorizationConfig
from common.contributions.factors import UserLevelMechanism
from common.contributions.run_plan import RunPlan
from common.deploy.roles import PlatformConfig
from common.errors import InternalError
from simulations.engine.cluster import LocalCluster, local_cluster
from tests.private_support import private_plan
from tests.support.sharded import N_ITEMS, DiesOnce, InlineCluster, Tells, at, local_engine, partitioned, sharded_config

PLAN = private_plan(noise="per_platform")
OLD_RAY = """
import sys
import ray
from client.sharding.cluster import RayCluster
from common.config.platform import EngineConfig
from common.errors import ConfigError

ray.__version__ = "1.0"
try:
    RayCluster(EngineConfig(engine="ray", address=sys.argv[1]))
except ConfigError as error:
    print(error)
"""
MODEL = FactorizationConfig(dimension=3, regularization=2.0, unobserved_weight=0.2, backend="numba")
ITEMS = np.random.default_rng(2).normal(size=(N_ITEMS, 3)).astype(np.float32)
SUMS: dict[str, Any] = {
    "counts": PlainCounts(),
    "statistics": PlainStatistics(MODEL, 0.0, ITEMS, metrics=("recall@20",)),
    "statistics by conjugate gradients": PlainStatistics(
        MODEL.model_copy(update={"solver": "cg"}), 0.0, ITEMS, metrics=("recall@20", "ndcg@20"), objective=False
    ),
}


def private_sums() -> dict[str, Any]:
    mechanism = UserLevelMechanism(RunPlan.of(PLAN).release_plan())
    positions = np.random.default_rng(3).permutation(50)[:N_ITEMS].astype(np.int32)
    weights = np.random.default_rng(5).uniform(0.1, 1, 50)
    weights[::7] = 0
    return {
        "counts": PrivateCounts(mechanism, None, N_ITEMS),
        "counts in the vocabulary": PrivateCounts(mechanism, positions, 50),
        "statistics": PrivateStatistics(mechanism, None, N_ITEMS, 1, PLAN.training, ITEMS, weights[:N_ITEMS]),
        "in the vocabulary": PrivateStatistics(mechanism, positions, 50, 2, PLAN.training, ITEMS, weights),
    }


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PlatformConfig:
    return partitioned(sharded_config(tmp_path_factory.mktemp("platform")))


@pytest.fixture(scope="module")
def whole(config: PlatformConfig) -> LocalEngine:
    """All users in this process: the oracle."""
    return local_engine(config)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster(workers=2) as running:
        yield running


class EngineContract:
    """Every engine's ``engine`` is over the users that ``whole`` has in this process."""

    @pytest.mark.parametrize("name", private_sums())
    def test_whole_numbers_are_the_same_to_the_bit(self, engine: Engine, whole: LocalEngine, name: str) -> None:
        found, expected = engine.sum(private_sums()[name]), whole.sum(private_sums()[name])
        assert found.keys() == expected.keys()
        for array in expected:
            assert found[array].dtype == np.int64
            assert np.array_equal(found[array], expected[array]), array
            assert np.any(expected[array])

    @pytest.mark.parametrize("name", SUMS)
    def test_floats_agree_with_one_process(self, engine: Engine, whole: LocalEngine, name: str) -> None:
        found, expected = engine.sum(SUMS[name]), whole.sum(SUMS[name])
        assert {name: array.dtype for name, array in found.items()} == {n: a.dtype for n, a in expected.items()}
        for array in expected:
            np.testing.assert_allclose(found[array], expected[array], rtol=1e-5, atol=1e-6, err_msg=array)

    @pytest.mark.parametrize("name", SUMS)
    def test_floats_are_the_same_to_the_bit_each_time(self, engine: Engine, name: str) -> None:
        once, again = engine.sum(SUMS[name]), engine.sum(SUMS[name])
        assert {array: once[array].tobytes() for array in once} == {array: again[array].tobytes() for array in again}

    def test_it_counts_all_users(self, engine: Engine, whole: LocalEngine) -> None:
        assert engine.n_users == whole.n_users

    def test_it_names_its_kernels(self, engine: Engine) -> None:
        assert engine.solver(PLAN.training).startswith("numba")


class TestLocalEngine(EngineContract):
    @pytest.fixture
    def engine(self, config: PlatformConfig) -> Engine:
        return local_engine(config)


class TestShards(EngineContract):
    """The engine of shards, but for Ray."""

    @pytest.fixture
    def engine(self, config: PlatformConfig) -> Engine:
        cluster: Any = InlineCluster()
        return RayEngine(cluster, source_of_shards(config, load_training_data(config)))


class TestRayEngine(EngineContract):
    @pytest.fixture
    def engine(self, config: PlatformConfig, cluster: LocalCluster) -> Engine:
        return make_engine(at(config, cluster.address), load_training_data(config))

    def test_a_killed_worker_changes_no_bit(self, engine: Engine, whole: LocalEngine, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        asked = private_sums()["statistics"]
        found, expected = engine.sum(DiesOnce(mark, asked)), whole.sum(asked)
        assert mark.exists()
        assert all(np.array_equal(found[array], expected[array]) for array in expected)

    def test_an_error_of_a_worker_tells_its_kind_alone(self, engine: Engine) -> None:
        with pytest.raises(InternalError) as caught:
            engine.sum(Tells())
        assert str(caught.value).endswith("a worker met RuntimeError")
        assert caught.value.__suppress_context__

    def test_the_doctor_finds_the_cluster_sound(self, config: PlatformConfig, cluster: LocalCluster) -> None:
        users = open_shards(config, catalogue_of(config).items)
        findings = list(examine_cluster(at(config, cluster.address).training, PLAN, users))
        assert [finding.detail for finding in findings if finding.level != "ok"] == []
        assert len(findings) == 5

    def test_another_version_of_ray_is_told_as_such(self, cluster: LocalCluster) -> None:
        done = subprocess.run(
            [sys.executable, "-c", OLD_RAY, cluster.address], capture_output=True, text=True, check=False
        )
        assert "runs another version of Ray or Python than this process (Ray 1.0, Python" in done.stdout

    def test_the_clusters_files_hold_no_id(self, engine: Engine, cluster: LocalCluster) -> None:
        """The workers have read everybody by now, and one has met an error that names somebody."""
        with pytest.raises(InternalError):
            engine.sum(Tells())
        logs = [path for path in cluster.folder.rglob("*") if path.is_file()]
        assert any("worker" in path.name for path in logs)
        assert [path.name for path in logs if b"person-" in path.read_bytes()] == []
