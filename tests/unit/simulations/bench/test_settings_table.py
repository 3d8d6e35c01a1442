"""Settings under privacy by size of the federation: a function of the plan, and what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.config.federation import FederationPlan
from common.config.privacy import (
    SETTINGS_TABLE,
    TUNED_SETTINGS,
    ExpectedFigures,
    PrivacyConfig,
    reaching,
    tuned_setting,
)
from common.contributions.run_plan import RunPlan
from simulations.bench.settings import table as settings_table

MEASURED = Path(settings_table.__file__).with_suffix(".jsonl")
MOVIELENS = ExpectedFigures(users=4832, items=3706, history=165.6)


def test_the_table_is_what_was_measured() -> None:
    cells = [json.loads(line) for line in MEASURED.read_text(encoding="utf-8").splitlines()]
    first, *rows = SETTINGS_TABLE
    assert first == (4832, 3706, 165.6, 3, 1, 1, 1)
    assert rows == [settings_table.row_of(cell) for cell in cells]


@pytest.mark.parametrize("row", TUNED_SETTINGS, ids=lambda row: f"epsilon {row.epsilon:g}")
def test_where_the_defaults_were_found_they_stay(row: Any) -> None:
    assert tuned_setting(row.epsilon) == row
    assert tuned_setting(row.epsilon, MOVIELENS) == row


def test_a_small_federation_gets_settings_of_a_smaller_epsilon() -> None:
    small = tuned_setting(10.0, ExpectedFigures(users=300, items=1500, history=100))
    assert small.dimension < tuned_setting(10.0).dimension
    assert small.mechanism.kept_items < tuned_setting(10.0).mechanism.kept_items


def test_between_two_rows_settings_lie_between_theirs() -> None:
    low, high = TUNED_SETTINGS[2:]
    middle = reaching((low.epsilon * high.epsilon) ** 0.5)
    assert middle.dimension == round((low.dimension * high.dimension) ** 0.5)
    assert low.mechanism.kept_items < middle.mechanism.kept_items < high.mechanism.kept_items
    assert reaching(1e-3) == reaching(TUNED_SETTINGS[0].epsilon)
    assert reaching(1e3) == reaching(TUNED_SETTINGS[-1].epsilon)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 2.0, 8.0, 30.0])
@pytest.mark.parametrize("row", SETTINGS_TABLE, ids=str)
def test_every_row_makes_a_plan_that_keeps_its_promise(row: tuple[float, ...], epsilon: float) -> None:
    expect = {"users": row[0], "items": row[1], "history": row[2]}
    plan = FederationPlan.model_validate(
        {"platforms": 3, "model": "auto", "privacy": {"epsilon": epsilon, "expect": expect}}
    )
    releases = RunPlan.of(plan).release_plan()
    assert len(releases.rounds) == plan.setting.rounds
    assert releases.parameters == plan.setting.mechanism
    assert (releases.epsilon, releases.delta) == (epsilon, plan.delta)


def test_what_is_set_wins_over_the_table() -> None:
    expect = ExpectedFigures(users=300, items=1500, history=100)
    assert PrivacyConfig(expect=expect, kept_items=77).resolved().kept_items == 77


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "auto", "evaluate_rounds": False, "privacy": {"mode": "none"}}, "evaluate_rounds: true"),
        ({"model": {"feedback": "explicit"}, "auto_model": True, "privacy": {"mode": "none"}}, "implicit feedback"),
        ({"model": "auto", "privacy": {"tuned_training": False}}, "tuned_training: true"),
    ],
)
def test_auto_that_cannot_be_is_refused_with_the_mend(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        FederationPlan.model_validate(changes)


def test_auto_reads_and_writes_as_the_same_plan() -> None:
    plan = FederationPlan.model_validate({"model": "auto"})
    assert plan.auto_model
    assert FederationPlan.model_validate(plan.model_dump(mode="json")) == plan
    assert FederationPlan().differences(plan) == ["auto_model"]
