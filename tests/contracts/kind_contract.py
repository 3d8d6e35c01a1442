"""Every kind of contribution keeps this contract; each kind's test inherits it."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from client.contributions.contributor import Contributor
from common.config.federation import FederationPlan
from common.contributions.kind import MASKED, ContributionKind
from common.contributions.masked_rounds import round_index, secure_rounds
from common.contributions.registry import all_kinds, half, kind_of_release, kinds_by_wire_name, kinds_of
from common.contributions.run_plan import RunPlan, read_plan
from common.privacy.gdp import compose
from server.aggregation.phase import Phase
from tests.private_support import private_plan
from tests.support import small_plan

N_ITEMS = 7
TOWERS = {
    "training": {"rounds": 2},
    "privacy": {"share": 0.5, "sampling_rate": 0.5, "noise_multiplier": 5.0},
}
OPTIONAL_KINDS: dict[str, Any] = {"linear": {"privacy": {"share": 0.4, "kept_items": 5}}, "towers": TOWERS}
PLANS = {
    "none": read_plan(small_plan(rounds=2).model_dump() | OPTIONAL_KINDS | {"auto_model": True}),
    "per platform": read_plan(private_plan(noise="per_platform").model_dump() | OPTIONAL_KINDS),
    "secure sum": read_plan(private_plan().model_dump() | OPTIONAL_KINDS),
    "item grams": read_plan(private_plan(release="item_gram").model_dump() | OPTIONAL_KINDS),
}
PRIVATE = [name for name in PLANS if name != "none"]


def plan_with(kind: ContributionKind, mode: str) -> FederationPlan:
    """The plan of :data:`PLANS`. A kind that takes no part in private runs has no message there, and nothing more is asked."""
    plan = PLANS[mode]
    assert kind.takes_part(PLANS["none"])
    if not kind.takes_part(plan):
        assert kind.name not in {each.name for each in kinds_by_wire_name(plan).values()}
        pytest.skip("it takes no part in such runs")
    return plan


class KindContract:
    """Tests of one kind, which the fixture ``kind`` gives; it must be registered and take part in :data:`PLANS`."""

    @pytest.fixture
    def kind(self) -> ContributionKind:
        raise NotImplementedError

    def test_both_halves_are_where_it_says(self, kind: ContributionKind) -> None:
        assert half(kind.client_half, Contributor)
        assert half(kind.server_half, Phase)

    def test_its_names_are_its_own(self, kind: ContributionKind) -> None:
        others = [other for other in all_kinds() if other is not kind]
        assert len(others) == len(all_kinds()) - 1
        assert kind.name not in [other.name for other in others]
        assert all(kind_of_release(name) is kind for name in kind.released)
        assert kind.card_key is None or kind.card_key not in [other.card_key for other in others]

    @pytest.mark.parametrize("mode", PLANS)
    def test_its_rounds_follow_those_of_earlier_kinds(self, kind: ContributionKind, mode: str) -> None:
        plan = plan_with(kind, mode)
        kinds = kinds_of(plan)
        rounds = [each.rounds(plan) for each in kinds]
        assert len(rounds[kinds.index(kind)]) > 0
        assert all(a[-1] <= b[0] for a, b in pairwise(rounds))

    @pytest.mark.parametrize("mode", PLANS)
    def test_a_run_releases_what_its_rounds_do(self, kind: ContributionKind, mode: str) -> None:
        plan = plan_with(kind, mode)
        by_round = [kind.releases(plan, number) for number in kind.rounds(plan)]
        assert all(by_round)
        assert {release.kind for part in by_round for release in part} <= set(kind.released)
        if plan.private:
            assert kind.run_releases(plan) == tuple(release for part in by_round for release in part)
        else:
            assert {release.mechanism for release in kind.run_releases(plan)} == {"none"}

    @pytest.mark.parametrize("mode", PRIVATE)
    def test_with_it_a_run_keeps_to_its_budget(self, kind: ContributionKind, mode: str) -> None:
        plan = plan_with(kind, mode)
        gaussian = [r for each in kinds_of(plan) for r in each.run_releases(plan) if r.mechanism == "gaussian"]
        assert compose(release.noise_multiplier for release in gaussian) <= RunPlan.of(plan).gaussian_mu * (1 + 1e-9)

    @pytest.mark.parametrize("mode", PRIVATE)
    def test_noisy_arrays_are_whole_numbers(self, kind: ContributionKind, mode: str) -> None:
        plan = plan_with(kind, mode)
        assert {spec.dtype for spec in (*kind.noisy(plan), *kind.unmasked_specs(plan))} == {"int64"}

    def test_what_is_masked_leaves_masked_alone(self, kind: ContributionKind) -> None:
        plan = plan_with(kind, "secure sum")
        first, *beside = kind.reply(plan)
        assert (first.name, first.dtype) == (MASKED, "uint8")
        assert tuple(beside) == kind.unmasked_specs(plan)
        assert kind.wire_name(plan) == f"masked_{kind.name}"
        hidden = {spec.name for spec in kind.noisy(plan)} - {spec.name for spec in beside}
        assert hidden, "something has to be masked"

    @pytest.mark.parametrize("mode", ["secure sum", "item grams"])
    def test_a_masked_sum_is_split_in_the_order_of_masking(self, kind: ContributionKind, mode: str) -> None:
        plan = plan_with(kind, mode)
        total = np.arange(kind.masked_length(plan, N_ITEMS), dtype=np.int64)
        parts = kind.split(plan, total, N_ITEMS)
        again = np.concatenate([np.asarray(parts[name]).ravel() for name in sorted(parts)])
        np.testing.assert_array_equal(again, total)

    @pytest.mark.parametrize("mode", ["secure sum", "item grams"])
    def test_each_of_its_rounds_has_a_place_and_a_ring(self, kind: ContributionKind, mode: str) -> None:
        plan = plan_with(kind, mode)
        specs = secure_rounds(plan, platforms=3, n_items=N_ITEMS)
        for number in kind.rounds(plan):
            spec = specs[round_index(plan, kind, number)]
            assert spec.label == kind.label(plan, number)
            most = max(n.sensitivity / n.grid_step for n in kind.noises(plan, number)) * plan.privacy.user_bound
            assert math.ceil(most) <= spec.ring.max_abs_per_platform

    @pytest.mark.parametrize("mode", PRIVATE)
    def test_the_privacy_card_can_say_what_it_is(self, kind: ContributionKind, mode: str) -> None:
        facts = kind.facts(plan_with(kind, mode))
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts
        assert bool(facts) == (kind.card_key is not None)
        text = kind.paragraph(facts) if facts else ""
        assert text == "" or (text.startswith("- ") and text.endswith("\n"))
        assert kind.title
