"""A finish tells a platform its items' parameters as the others alone have made them, where that shows no part of a sum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.agent import PlatformAgent
from client.data.training import TrainingData
from common.config.federation import FederationPlan
from common.contributions.factor_kinds import PARAMETERS_WITHOUT, parts_are_seen
from common.linalg import solve_posdef
from common.wire.exchange import AgentReply, AgentRequest
from server.federation.state import FederationState
from simulations.audit.audited.platforms import without_noise
from tests.private_support import private_plan, private_platforms
from tests.support import (
    Recorder,
    agents_of,
    federate,
    random_matrix,
    random_platforms,
    small_plan,
    training_data,
)

NAMES = ("platform-0", "platform-1", "platform-2")


class Stopped(Recorder):
    """The run's process ends when it asks for the finish."""

    def exchange(self, request: AgentRequest) -> AgentReply:
        if request.kind == "finish":
            raise KeyboardInterrupt
        return super().exchange(request)


class Silent(Recorder):
    """An aggregator that does not tell parameters without own."""

    def exchange(self, request: AgentRequest) -> AgentReply:
        kept = {name: array for name, array in request.arrays.items() if name != PARAMETERS_WITHOUT}
        return super().exchange(replace(request, arrays=kept))


def finishes(
    platforms: dict[str, TrainingData], plan: FederationPlan, folder: Path, **options: Any
) -> tuple[dict[str, NDArray[np.float32] | None], list[Recorder], FederationState]:
    """Return what each platform was told, who asked what, and the end of the run."""
    recorders = [Recorder(agent) for agent in agents_of(platforms, plan, folder)]
    outcome = federate(recorders, plan, folder, **options)
    told = {
        name: r.requests("finish")[-1].arrays.get(PARAMETERS_WITHOUT) for name, r in zip(NAMES, recorders, strict=True)
    }
    return told, recorders, outcome.state


def test_exact_parameters_without_own_are_the_others_solve(tmp_path: Path) -> None:
    plan = small_plan(model={"regularization_exponent": 0.5, "item_regularization": 1.5})
    told, recorders, state = finishes(random_platforms(3, (20, 12, 8)), plan, tmp_path)
    sent = {name: r.replies("statistics")[-1].arrays for name, r in zip(NAMES, recorders, strict=True)}
    counted = {name: r.replies("counts")[-1].arrays for name, r in zip(NAMES, recorders, strict=True)}
    config, owners = plan.training, state.vocabulary.owners
    for name in NAMES:
        rows = told[name]
        assert rows is not None
        assert len(rows) == len(owners[name])
        for place, item in enumerate(owners[name]):
            system, rhs, counts, users = np.zeros((4, 4)), np.zeros(4), 0.0, 0.0
            for other in NAMES:
                found = np.flatnonzero(owners[other] == item)
                if other == name or not len(found):
                    continue
                gram = np.zeros((4, 4))
                gram[np.triu_indices(4)] = sent[other]["gram"][found[0]]
                system += gram + np.triu(gram, 1).T + config.unobserved_weight * sent[other]["user_gram"]
                rhs += sent[other]["rhs"][found[0]]
                counts += counted[other]["item_counts"][found[0]]
                users += counted[other]["totals"][0]
            if users == 0:
                assert not rows[place].any(), "nobody else has it: nothing is said"
                continue
            ridge = 1.5 * (counts + config.unobserved_weight * users) ** 0.5
            wanted = solve_posdef((system + ridge * np.eye(4))[None], rhs[None])[0]
            np.testing.assert_allclose(rows[place], wanted, rtol=2e-3, atol=2e-5)


def test_own_users_have_no_say_in_what_a_platform_is_told(tmp_path: Path) -> None:
    """One round from the same random parameters: the others' contributions are then the same whoever the own users are."""
    plan, platforms = small_plan(rounds=1), random_platforms(3, (20, 12, 8))
    told, _, _ = finishes(platforms, plan, tmp_path / "a")
    own = platforms["platform-0"]
    fewer = replace(own, train=own.train.select_entries(np.arange(own.train.nnz) % 2 == 0))
    again, _, _ = finishes({**platforms, "platform-0": fewer}, plan, tmp_path / "b")
    np.testing.assert_allclose(told["platform-0"], again["platform-0"], rtol=1e-4, atol=1e-6)
    assert not np.allclose(told["platform-1"], again["platform-1"]), "others' users have"


@pytest.mark.parametrize("private", [False, True])
def test_a_platform_that_lacks_no_item_is_told_nothing(tmp_path: Path, *, private: bool) -> None:
    plan = private_plan(noise="per_platform") if private else small_plan()
    platforms = private_platforms() if private else random_platforms(3, (20, 12, 8))
    keys = sorted({key for data in platforms.values() for key in data.items.keys})
    train = random_matrix(np.random.default_rng(1), platforms["platform-0"].train.n_users, len(keys))
    platforms["platform-0"] = training_data(keys, train)
    told, _, _ = finishes(platforms, plan, tmp_path)
    assert told["platform-0"] is None
    assert told["platform-1"] is not None


def test_noisy_parameters_without_own_are_post_processing_of_releases(tmp_path: Path) -> None:
    plan = private_plan(noise="per_platform")
    with without_noise():
        told, recorders, state = finishes(private_platforms(), plan, tmp_path)
    for name, recorder in zip(NAMES, recorders, strict=True):
        rows, shared = told[name], state.item_parameters[state.vocabulary.owners[name]]
        assert rows is not None
        assert rows.shape == shared.shape
        assert np.isfinite(rows).all()
        assert np.array_equal(rows.any(axis=1) & ~shared.any(axis=1), np.zeros(len(rows), dtype=bool))
        assert recorder.replies("finish")[-1].code == "ok"
    # What is said of an item that one other platform has is that platform's alone.
    assert any(np.linalg.norm(told[name]) > 0 for name in NAMES)  # type: ignore[arg-type]


def test_of_a_secure_sum_no_part_is_told(tmp_path: Path) -> None:
    plan = private_plan(noise="secure_sum")
    assert not parts_are_seen(plan)
    told, recorders, state = finishes(private_platforms(), plan, tmp_path)
    assert list(told.values()) == [None] * 3
    assert not any("counts" in state.results or "statistics" in state.results for _ in NAMES)
    # And none is taken: an aggregator that sends one deviates from the contract.
    request = recorders[0].requests("finish")[-1]
    part = np.zeros((len(state.vocabulary.owners[NAMES[0]]), plan.row), dtype=np.float32)
    asked = replace(request, arrays={**request.arrays, PARAMETERS_WITHOUT: part})
    agent = recorders[0].agent
    assert isinstance(agent, PlatformAgent)
    assert agent.exchange(asked).code == "contract"


def test_a_run_killed_before_its_finish_tells_the_same(tmp_path: Path) -> None:
    plan, platforms = small_plan(), random_platforms(3, (20, 12, 8))
    straight, _, _ = finishes(platforms, plan, tmp_path / "straight")
    killed = [Stopped(agent) for agent in agents_of(platforms, plan, tmp_path / "killed")]
    with pytest.raises(KeyboardInterrupt):
        federate(killed, plan, tmp_path / "killed")
    resumed, _, _ = finishes(platforms, plan, tmp_path / "killed")
    for name in NAMES:
        np.testing.assert_allclose(resumed[name], straight[name], rtol=1e-5, atol=1e-7)


def test_a_run_that_stops_early_tells_it_too(tmp_path: Path) -> None:
    told, _, state = finishes(random_platforms(3, (20, 12, 8)), small_plan(rounds=30, tolerance=0.05), tmp_path)
    assert state.server_round < 30
    assert all(rows is not None and rows.any() for rows in told.values())


def test_a_finish_of_an_aggregator_that_does_not_tell_is_taken(tmp_path: Path) -> None:
    plan, platforms = small_plan(), random_platforms(3, (20, 12, 8))
    agents = [Silent(agent) for agent in agents_of(platforms, plan, tmp_path)]
    federate(agents, plan, tmp_path)
    assert [agent.replies("finish")[-1].code for agent in agents] == ["ok"] * 3
