"""How many runs a lifetime budget pays for: against the ledger itself, and in the words that operators read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.deploy.doctor import examine
from client.privacy.ledger import BudgetLedger
from client.privacy.outbox import subsampled_budget
from common.config.federation import FederationPlan
from common.config.loader import load_yaml_model, parse_model
from common.config.privacy import PrivacyConfig
from common.contributions.run_plan import RunPlan, read_plan
from common.deploy.roles import AggregatorConfig, PlatformConfig
from common.errors import BudgetExceededError, ConfigError
from common.privacy.contribution import Release
from common.privacy.lifetime import budget_for, budget_policy, delta_for, epsilon_for, runs_paid
from server.deploy.provisioning import initialise, invite

DEEP = {"privacy": {"noise_multiplier": 2.0, "sampling_rate": 0.01}, "training": {"rounds": 3}}
WEEK = 7 * 86_400
SAID = "federation.yaml: schedule: budget 3 pays for 1 run of ε 3; your schedule makes 52 a year, and platforms refuse the "


def plan_of(*, deep: bool = False, linear: bool = False, **privacy: Any) -> FederationPlan:
    parts: dict[str, Any] = {"federation": "films", "platforms": 3, "privacy": privacy}
    return read_plan(parts | ({"towers": DEEP} if deep else {}) | ({"linear": {"max_items": 100}} if linear else {}))


def releases_of(plan: FederationPlan) -> list[Release]:
    """Everything that a run of the plan releases."""
    releases = list(RunPlan.of(plan).release_plan().releases())
    if plan.linear is not None:
        z = RunPlan.of(plan).item_item_noise().noise_multiplier
        releases.append(Release(kind="cooccurrence", mechanism="gaussian", noise_multiplier=z))
    return releases + (list(RunPlan.of(plan).update_plan().releases()) if plan.towers is not None else [])


def runs_that_fit(folder: Path, plan: FederationPlan, at_most: int) -> int:
    """Reserve and spend whole runs until the ledger refuses one."""
    ledger = BudgetLedger.open(folder, budget_policy(plan))
    releases = releases_of(plan)
    for number in range(at_most):
        try:
            ledger.reserve(
                f"run-{number}",
                releases,
                epsilon=plan.privacy.epsilon,
                delta=plan.delta,
                subsampled=subsampled_budget(plan),
            )
        except BudgetExceededError:
            return number
        ledger.charge(f"run-{number}", 1, releases, f"{number:064x}")
    return at_most


@pytest.mark.parametrize(
    ("parts", "runs"),
    [
        ({}, 1),
        ({"linear": True}, 1),
        ({"deep": True}, 1),
        ({"epsilon": 1.0, "budget": 3.0}, 7),
        ({"epsilon": 1.0, "budget": 3.0, "linear": True}, 7),
        ({"epsilon": 1.0, "budget": 3.0, "deep": True}, 1),
        ({"epsilon": 1.0, "budget": 3.5, "budget_delta": 1e-5, "deep": True}, 3),
        ({"epsilon": 1.0, "budget": 9.0, "budget_delta": 4e-6, "deep": True}, 4),
    ],
)
def test_the_ledger_accepts_as_many_runs_as_are_promised(tmp_path: Path, parts: dict[str, Any], runs: int) -> None:
    plan = plan_of(**parts)
    assert runs_paid(plan) == runs
    assert runs_that_fit(tmp_path, plan, runs + 2) == runs
    assert BudgetLedger.open(tmp_path).spend().left.runs == 0


def delta_oracle(mu: float, epsilon: float) -> float:
    """Balle & Wang 2018, Theorem 8, in 50 digits."""
    with mpmath.workdps(50):
        e, m = mpmath.mpf(epsilon), mpmath.mpf(mu)
        return float(mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m))


def test_runs_add_up_their_squared_mu_and_not_their_epsilon() -> None:
    plan = plan_of(epsilon=3.0, user_bound=1000)
    budget = budget_for(plan, 10)
    assert budget is not None
    assert budget < 13
    assert delta_oracle(math.sqrt(10) * RunPlan.of(plan).gaussian_mu, budget) <= plan.delta
    assert delta_oracle(math.sqrt(10) * RunPlan.of(plan).gaussian_mu, budget - 0.02) > plan.delta


@given(
    epsilon=st.floats(0.1, 10),
    runs=st.integers(1, 400),
    deep=st.booleans(),
    bound=st.sampled_from([100, 100_000, 10**7]),
)
@settings(max_examples=60, deadline=None)
def test_each_way_out_that_is_named_pays(epsilon: float, runs: int, deep: bool, bound: int) -> None:
    plan = plan_of(epsilon=epsilon, deep=deep, user_bound=bound)
    delta = delta_for(plan, runs)
    if delta > 1 / bound:
        assert budget_for(plan, runs) is epsilon_for(plan, runs) is None
        return
    privacy = plan.privacy.model_copy(update={"budget_delta": delta * (1 + 1e-12)})
    wide = plan.model_copy(update={"privacy": privacy})
    budget = budget_for(wide, runs)
    assert budget is not None
    assert (runs_paid(wide, budget) or 0) >= runs
    assert (runs_paid(wide, max(budget - 0.02, 1e-3)) or 0) < runs
    smaller = epsilon_for(wide, runs)
    assert smaller is not None
    fitting = wide.model_copy(update={"privacy": privacy.model_copy(update={"epsilon": smaller})})
    assert (runs_paid(fitting, epsilon) or 0) >= runs


def aggregator(schedule: dict[str, Any], plan: FederationPlan) -> AggregatorConfig:
    content = {"plan": plan.model_dump(mode="json"), "address": "h.example.org:9443", "schedule": schedule}
    return parse_model(content, AggregatorConfig, "federation.yaml")


@pytest.mark.parametrize(
    ("schedule", "parts", "said"),
    [
        (
            {"every": WEEK},
            {},
            f"{SAID}others: end it with schedule.runs: 1, or agree with all platforms on plan.privacy.budget: 32.43, or agree "
            "on plan.privacy.epsilon: 0.35 a run within the same budget",
        ),
        (
            {"at": "03:30"},
            {"epsilon": 1.0, "budget": 2.0},
            "budget 2 pays for 3 runs of ε 1; your schedule makes 365 a year",
        ),
        (
            {"every": WEEK, "runs": 4},
            {},
            "your schedule is to make 4, and platforms refuse the others: set schedule.runs: 1",
        ),
        ({"every": WEEK}, {"deep": True}, f"{SAID}others: end it with schedule.runs: 1"),
        ({"every": WEEK, "runs": 5}, {"deep": True}, "plan.privacy.budget: 15 and plan.privacy.budget_delta: 5e-06"),
        ({"runs": 3}, {}, "runs: ends a schedule, and there is none"),
    ],
)
def test_a_schedule_that_nobody_pays_for_is_refused(schedule: dict[str, Any], parts: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        aggregator(schedule, plan_of(**parts))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("schedule", "parts"),
    [
        ({}, {}),
        ({"every": WEEK, "runs": 1}, {}),
        ({"every": WEEK}, {"budget": 32.43}),
        ({"every": WEEK}, {"epsilon": 0.35, "budget": 3.0}),
        ({"every": WEEK, "runs": 5}, {"deep": True, "budget": 15.0, "budget_delta": 5e-6}),
        ({"every": WEEK}, {"mode": "none"}),
        ({"every": 60.0}, {"mode": "none"}),
        ({"every": 400 * 86_400.0}, {}),
    ],
)
def test_a_schedule_that_is_paid_for_is_taken(schedule: dict[str, Any], parts: dict[str, Any]) -> None:
    assert aggregator(schedule, plan_of(**parts)).plan.privacy.mode == parts.get("mode", "user")


def test_budgets_that_pay_for_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"privacy.*budget: 1 pays for no run of epsilon 3"):
        parse_model({"privacy": {"budget": 1.0}}, FederationPlan, "federation.yaml")
    content = {"name": "a", "aggregator": "h:1", "data": {"interactions": {"path": "x.csv"}}, "budget": 2.9}
    with pytest.raises(ConfigError, match=r"budget: 2\.9 pays for no run of the plan, which takes ε 3"):
        parse_model(content | {"plan": plan_of().model_dump(mode="json")}, PlatformConfig, "platform.yaml")
    assert parse_model(
        content | {"plan": plan_of(mode="none").model_dump(mode="json")}, PlatformConfig, "platform.yaml"
    ).budget == pytest.approx(2.9)


@pytest.mark.parametrize("delta", [9e-7, 1.1e-5])
def test_a_lifetime_delta_lies_between_a_runs_and_one_over_n(delta: float) -> None:
    with pytest.raises(ConfigError, match="budget_delta"):
        parse_model({"budget_delta": delta}, PrivacyConfig, "federation.yaml")


def test_defaults_of_init_and_join_allow_a_run(tmp_path: Path) -> None:
    made = initialise(tmp_path / "agg", plan_of(), "127.0.0.1:9")
    config = load_yaml_model(made.config, AggregatorConfig)
    assert "budget 3 pays for 1 run of epsilon 3; budget 11.32 would pay for 10." in made.config.read_text()
    invitation = invite(config, "cinema", tmp_path / "cinema.invitation")
    assert runs_paid(invitation.plan) == 1
    assert config.schedule.runs_a_year == 0


def test_doctor_counts_the_runs_that_are_paid_for(tmp_path: Path) -> None:
    content = {"name": "a", "aggregator": "127.0.0.1:9", "data": {"interactions": {"path": "x.csv"}}, "state": "state"}
    for budget, level, said in (
        (None, "ok", "ε 9 pays for 6 runs of ε 3; nothing is spent yet; 6 left"),
        (4.5, "note", "ε 4.5 pays for 2 runs of ε 3; nothing is spent yet; 2 left; the plan's budget pays for 6, so"),
    ):
        (tmp_path / "platform.yaml").write_text(
            repr(content | {"plan": plan_of(budget=9.0).model_dump(mode="json"), "budget": budget})
            .replace("None", "null").replace("True", "true").replace("False", "false")
        )  # fmt: skip
        [found] = [f for f in examine(tmp_path / "platform.yaml", devices=False) if f.what == "budget"]
        assert (found.level, found.detail[: len(said)]) == (level, said)
