"""Federations with a deep model from end to end: exact and private, what leaves, who is left out, what is charged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.agent import PlatformAgent
from client.data.training import TrainingData
from common.config.federation import FederationPlan
from common.errors import ConfigError, FederationError, PrivacyError
from common.exchange import AgentReply
from common.privacy.accounting import calibrate_subsampled
from common.protocol import ROW_POSITIONS
from server.exchange import SilentObserver
from server.state import FederationState, RoundRecord
from simulations.engine import FederationOutcome
from tests.private_support import charges_of, private_plan, private_platforms
from tests.support import (
    Recorder,
    Tampered,
    Watch,
    agents_of,
    federate,
    matrix,
    random_platforms,
    run_platforms,
    small_plan,
    training_data,
    with_array,
)

SIZES, D, ROUNDS = (12, 8, 5), 4, 3
TOWERS: dict[str, Any] = {
    "dimension": D,
    "encoders": [{"attribute": "genres", "kind": "multi_hot", "buckets": 8, "width": 4, "length": 2}],
    "sequence": {"kind": "mean", "length": 6},
    "user_embedding": True,
    "training": {"rounds": ROUNDS, "batch_users": 16, "learning_rate": 0.02},
}


def towers_of(**changes: Any) -> dict[str, Any]:
    training = TOWERS["training"] | changes.pop("training", {})
    return TOWERS | changes | {"training": training}


def deep_plan(**changes: Any) -> FederationPlan:
    return FederationPlan.model_validate(small_plan(rounds=2).model_dump() | {"towers": towers_of(**changes)})


def deep_private_plan(
    noise: str = "secure_sum", *, privacy: dict[str, Any] | None = None, **changes: Any
) -> FederationPlan:
    plan = private_plan(3, noise=noise).model_dump()
    rate, share = 0.5, 0.5
    z = calibrate_subsampled(share * 3.0, rate, ROUNDS, share / 1000)
    own = {"sampling_rate": rate, "share": share, "noise_multiplier": z} | (privacy or {})
    training = {"negatives": 4} | changes.pop("training", {})
    return FederationPlan.model_validate(plan | {"towers": towers_of(training=training, privacy=own, **changes)})


def deep_rounds(state: FederationState) -> list[RoundRecord]:
    return [record for record in state.history if record.phase == "towers"]


def same_state(left: FederationState, right: FederationState) -> bool:
    pairs = [(left.towers, right.towers), (left.tower_slots, right.tower_slots)]
    return all(a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a) for a, b in pairs)


@pytest.fixture(scope="module")
def exact(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[FederationOutcome, list[Recorder], dict[str, TrainingData]]:
    """A healthy run without privacy; read-only."""
    plan, platforms = deep_plan(), random_platforms(1, SIZES, validated=True)
    folder = tmp_path_factory.mktemp("exact")
    recorders = [Recorder(agent) for agent in agents_of(platforms, plan, folder)]
    return federate(recorders, plan, folder), recorders, platforms


def test_a_run_trains_the_deep_model_after_the_factors_and_every_platform_keeps_it(exact: Any) -> None:
    outcome, recorders, platforms = exact
    state = outcome.state
    assert [record.phase for record in state.history] == ["factors"] * 2 + ["towers"] * ROUNDS
    assert state.tower_round == ROUNDS
    losses = [record.objective for record in deep_rounds(state)]
    assert losses == sorted(losses, reverse=True)
    assert all(record.platforms == tuple(platforms) and not record.failed for record in state.history)
    for recorder in recorders:
        agent: Any = recorder.agent
        kept = agent.store.load()
        assert kept.towers is not None
        live = agent._towers._model
        assert np.array_equal(kept.towers.item_vectors, np.asarray(live.item_vectors()))
        for name in state.towers:
            assert np.array_equal(np.asarray(live.shared[name]), state.towers[name]), "the final variables, as sent"
        users = np.arange(kept.histories.n_users)
        scores = kept.towers.on_own().scores(kept.histories, users)
        assert scores.shape == (len(users), len(agent.data.items))
        assert np.isfinite(scores).all()


def test_nothing_private_and_no_row_of_another_catalogue_leaves(exact: Any) -> None:
    outcome, recorders, _ = exact
    declared = {variable.name for variable in recorders[0].agent.plan.tower_variables}
    for recorder in recorders:
        updates = recorder.replies("update")
        assert len(updates) == ROUNDS
        for reply in updates:
            assert reply.arrays.keys() == declared | {"example_weight", "loss", ROW_POSITIONS, "row_weights"}
            positions = reply.arrays[ROW_POSITIONS]
            assert len(np.unique(positions)) == len(positions) == len(reply.arrays["item_rows"])
            assert positions.max() < len(recorder.agent.data.shared_columns)


def test_an_upload_is_the_share_of_the_rows_that_were_trained(exact: Any) -> None:
    """Against dense FedAvg, which sends every variable whole: at most the share of the trained rows and 5 %."""
    outcome, recorders, _ = exact
    state: FederationState = outcome.state
    dense = sum(value.nbytes for value in state.towers.values())
    encoders = sum(value.nbytes for name, value in state.towers.items() if name != "item_rows")
    rows = state.towers["item_rows"]
    for recorder in recorders:
        for reply in recorder.replies("update"):
            sent = sum(array.nbytes for array in reply.arrays.values())
            share = len(reply.arrays[ROW_POSITIONS]) / len(rows)
            # A row's position and weight go with it: 12 bytes, 5 % of a row of 60 numbers and more.
            overhead = len(reply.arrays[ROW_POSITIONS]) * 12 + 16
            assert sent == encoders + share * rows.nbytes + overhead
            at_sixty_four = encoders + share * rows.nbytes * 64 / D + overhead
            assert at_sixty_four <= encoders + (share + 0.05) * rows.nbytes * 64 / D
            assert sent < dense + overhead


@pytest.mark.parametrize("noise", ["per_platform", "secure_sum"])
def test_a_private_run_charges_its_rounds_and_sends_nothing_but_noisy_sums(tmp_path: Path, noise: str) -> None:
    plan = deep_private_plan(noise)
    recorders = [Recorder(agent) for agent in agents_of(private_platforms(3), plan, tmp_path)]
    state = federate(recorders, plan, tmp_path).state
    assert [record.phase for record in state.history] == ["factors"] * 2 + ["towers"] * ROUNDS
    assert [record.objective for record in state.history] == [None] * (2 + ROUNDS)
    updates = plan.update_plan()
    for recorder in recorders:
        agent: Any = recorder.agent
        charged = [r for charge in charges_of(agent) for r in charge["releases"] if r["kind"] == "update"]
        assert len(charged) == ROUNDS
        assert {(r["mechanism"], r["noise_multiplier"], r["sampling_rate"]) for r in charged} == {
            ("subsampled-gaussian", updates.noise.noise_multiplier, 0.5)
        }
        kind = "masked_update" if noise == "secure_sum" else "update"
        replies = recorder.replies(kind)
        assert len(replies) == ROUNDS
        for reply in replies:
            assert reply.arrays.keys() == {"masked" if noise == "secure_sum" else "update"}
        if noise == "per_platform":
            assert len(replies[0].arrays["update"]) == plan.update_layout(len(state.vocabulary)).size
        assert agent.store.load().towers is not None
    assert all(np.isfinite(value).all() for value in state.towers.values())
