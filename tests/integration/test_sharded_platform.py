"""A federation in which one platform's users are in shards learns what it would learn if they were in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.agent import PlatformAgent
from client.data.training import TrainingData
from client.deploy.loading import load_training_data
from client.personalization.store import PlatformStore
from client.privacy.outbox import Outbox
from client.sharding.platform import source_of_shards
from client.sharding.ray_engine import RayEngine
from common.config.federation import FederationPlan
from common.deploy.roles import PlatformConfig
from common.privacy.lifetime import budget_policy
from server.federation.state import FederationState
from simulations.audit.audited.platforms import without_noise
from tests.private_support import private_plan
from tests.support import FAST, SECRET, agents_of, federate, random_platforms, small_plan
from tests.support.sharded import InlineCluster, local, partitioned, sharded_config


@pytest.fixture
def config(tmp_path: Path) -> PlatformConfig:
    return partitioned(sharded_config(tmp_path))


def others() -> dict[str, TrainingData]:
    return {f"other-{number}": data for number, data in enumerate(random_platforms(3, (20, 30)).values())}


def sharded_agent(config: PlatformConfig, plan: FederationPlan, home: Path) -> tuple[PlatformAgent, InlineCluster]:
    data, cluster = load_training_data(config), InlineCluster()
    there: Any = cluster
    agent = PlatformAgent(
        "cinema",
        plan,
        SECRET,
        data,
        outbox=Outbox(home, budget_policy(plan), plan, home / "store"),
        store=PlatformStore(home / "store"),
        personalization=FAST,
        engine=RayEngine(there, source_of_shards(config, data)),
    )
    return agent, cluster


def whole(config: PlatformConfig, plan: FederationPlan, folder: Path) -> FederationState:
    platforms = {"cinema": load_training_data(local(config)), **others()}
    return federate(agents_of(platforms, plan, folder), plan, folder).state


def in_shards(config: PlatformConfig, plan: FederationPlan, folder: Path) -> FederationState:
    agents = agents_of(others(), plan, folder)
    agent, cluster = sharded_agent(config, plan, folder / "cinema")
    state = federate([agent, *agents], plan, folder).state
    assert {name for name, _ in cluster.done} == {"sum_of_shard", "sum_of_sums"}
    model = agent.store.load()
    assert set(model.user_ids) == set(load_training_data(config).user_ids)
    return state


def test_under_privacy_it_is_the_same_to_the_bit(config: PlatformConfig, tmp_path: Path) -> None:
    plan = private_plan(noise="per_platform", user_bound=1000)
    with without_noise():
        one, other = (run(config, plan, tmp_path / run.__name__) for run in (whole, in_shards))
    assert one.item_parameters.tobytes() == other.item_parameters.tobytes()
    assert np.any(one.item_parameters)


@pytest.mark.parametrize("changes", [{}, {"model": {"solver": "cg"}}])
def test_without_privacy_it_is_the_same_but_for_rounding(
    config: PlatformConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    plan = small_plan(**changes)
    one, other = (run(config, plan, tmp_path / run.__name__) for run in (whole, in_shards))
    np.testing.assert_allclose(other.item_parameters, one.item_parameters, rtol=1e-3, atol=1e-5)
    last, same = one.history[-1], other.history[-1]
    assert last.objective == pytest.approx(same.objective, rel=1e-5)


def test_explicit_feedback_is_the_same_but_for_rounding(tmp_path: Path) -> None:
    config = partitioned(sharded_config(tmp_path, feedback="explicit"))
    plan = small_plan(model={"feedback": "explicit"})
    agent, _ = sharded_agent(config, plan, tmp_path / "sharded")
    [alone] = agents_of({"cinema": load_training_data(local(config))}, plan, tmp_path / "alone")
    one, other = (federate([a], plan, tmp_path / n).state for a, n in ((alone, "one"), (agent, "other")))
    np.testing.assert_allclose(other.item_parameters, one.item_parameters, rtol=1e-3, atol=1e-5)
