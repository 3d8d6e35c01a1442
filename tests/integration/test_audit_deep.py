"""The audit of the deep model's updates: sound code passes, and faults of its mechanism are found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from common.contributions.run_plan import RunPlan
from common.privacy.accounting import subsampled_epsilon
from simulations.audit.audited.faults import Fault, injected
from simulations.audit.audited.files import CANARIES, population
from simulations.audit.audited.plan import audit_plan
from simulations.audit.audited.platforms import audit_folder, make_identities, one_thread
from simulations.audit.canary.deep import deep_test
from simulations.audit.path.neighbours import USERS, World, compare_neighbours
from simulations.audit.path.noise import noise_checks
from simulations.audit.statistics.checks import flags_of


@pytest.fixture(autouse=True, scope="module")
def single_thread() -> Iterator[None]:
    with one_thread():
        yield


def test_the_plan_claims_what_the_accountant_says() -> None:
    updates = RunPlan.of(audit_plan(1.0, 1e-3, noise="per_platform", deep=True)).update_plan()
    found = subsampled_epsilon(updates.noise.noise_multiplier, updates.sampling_rate, updates.rounds, updates.delta)
    assert found == pytest.approx(0.5, rel=2e-2)
    assert (updates.epsilon, updates.delta) == (0.5, 5e-4)


def test_updates_of_the_code_that_ships_keep_their_claim() -> None:
    report = deep_test(1.0, runs=100)
    assert (report.flags, report.epsilon_claimed, report.runs) == ((), 0.5, 100)
    # About four standard errors about 1/z = 0.25, from 200 rounds without and 100 with the canary.
    assert -0.25 < report.mu_hat < 0.75


@pytest.mark.parametrize("fault", ["halved-sensitivity", "untouched-rows-without-noise", "reused-noise"])
def test_a_fault_of_the_noise_shows_in_updates(fault: Fault) -> None:
    with injected(fault):
        flags = deep_test(1.0, runs=20).flags
    assert any(flag.startswith("deep: the noise") for flag in flags), flags


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("oversampling", "deep: users do not take part at the declared sampling rate"),
        ("company", "deep: a user's gradient depends on who else takes part"),
    ],
)
def test_a_fault_of_sampling_or_gradients_shows(fault: Fault, said: str) -> None:
    with injected(fault):
        assert said in deep_test(1.0, runs=20).flags


@pytest.mark.parametrize(("fault", "share"), [(None, 1.0), ("no-clipping", 5.0)])
def test_a_person_takes_of_an_update_what_is_paid_for(fault: Fault | None, share: float) -> None:
    plan = audit_plan(1.0, 1e-3, noise="per_platform", deep=True)
    with audit_folder() as folder, injected(fault):
        found = compare_neighbours(folder, plan, {"every item": CANARIES["every item"]})
    assert bool(flags_of(found.checks)) == (fault is not None)
    assert 0.99 * share < found.taken["update"]
    assert fault is not None or found.taken["update"] <= 1


def test_every_entry_of_an_update_carries_its_noise() -> None:
    plan = audit_plan(1.0, 1e-3, noise="per_platform", deep=True)
    with audit_folder() as folder:
        checks = noise_checks(World.of(folder, plan, population(1, USERS), make_identities(folder / "identities")))
    assert flags_of(checks) == ()
    assert {check.name.rpartition(", ")[2] for check in checks} >= {"update 3", "update 4"}
