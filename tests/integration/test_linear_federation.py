"""Federations with the item-item model from end to end: exact, noisy and masked; what is charged, kept, resumed and refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from client.agent import PlatformAgent
from client.contributions.contributor import Contributor
from client.contributions.membership import Membership
from client.data.training import TrainingData
from client.privacy.budget import mu_squared
from client.privacy.card import card_content, card_text
from common.config.federation import FederationPlan
from common.config.platform import PersonalizationConfig
from common.contributions.cooccurrence import users_from
from common.contributions.kind import ContributionKind
from common.contributions.registry import kinds_by_wire_name
from common.contributions.run_plan import RunPlan, read_plan
from common.errors import ConfigError, StoreError
from common.linalg import pack_symmetric, packed_size
from common.privacy.contribution import PrivatizedContribution
from common.privacy.gdp import compose
from common.wire.exchange import AgentRequest
from server.aggregation.cooccurrence import CooccurrencePhase
from server.aggregation.phase import phases_of
from server.federation.checkpoint import CheckpointStore
from server.federation.exchange import SilentObserver
from server.federation.state import FederationState, RoundRecord
from simulations.audit.audited.platforms import without_noise
from simulations.engine.federate import FederationOutcome
from tests.private_support import by_hand, charges_of, private_plan, private_platforms
from tests.support import (
    SECRET,
    Recorder,
    Tampered,
    Watch,
    agents_of,
    contributor_of,
    failing,
    federate,
    random_platforms,
    small_plan,
    stand_in,
    with_array,
)

SIZES, RIDGE, NAMES = (12, 8, 5), 3.0, ("platform-0", "platform-1", "platform-2")


def linear_plan(**changes: Any) -> FederationPlan:
    return read_plan(small_plan(rounds=2).model_dump() | {"linear": {"regularization": RIDGE} | changes})


def private_linear_plan(
    noise: str = "secure_sum", *, privacy: dict[str, Any] | None = None, **own: Any
) -> FederationPlan:
    linear = {"regularization": RIDGE, "privacy": {"share": 0.4, "kept_items": 10} | own}
    return read_plan(private_plan(3, noise=noise, **(privacy or {})).model_dump() | {"linear": linear})


def platforms_of() -> dict[str, TrainingData]:
    return random_platforms(1, SIZES, validated=True)


def on_vocabulary(data: TrainingData, state: FederationState) -> np.ndarray:
    """Who has what, users × m: written down from the interactions, by key."""
    row_of = {digest.tobytes(): row for row, digest in enumerate(state.vocabulary.digests)}
    dense = np.zeros((data.train.n_users, len(state.vocabulary)))
    for user, column in zip(data.train.entry_users(), data.train.indices, strict=True):
        dense[user, row_of[SECRET.digests([data.items.keys[column]])[0].tobytes()]] = 1
    return dense


@pytest.fixture(scope="module")
def exact(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[FederationOutcome, list[Recorder], dict[str, TrainingData]]:
    """A healthy run without privacy; read-only."""
    platforms, folder = platforms_of(), tmp_path_factory.mktemp("exact")
    recorders = [Recorder(agent) for agent in agents_of(platforms, linear_plan(), folder)]
    return federate(recorders, linear_plan(), folder), recorders, platforms


def test_each_platform_sends_its_pair_counts_once(exact: Any) -> None:
    outcome, recorders, platforms = exact
    for recorder, (name, data) in zip(recorders, platforms.items(), strict=True):
        (sent,) = recorder.replies("cooccurrence")
        own = np.sort(outcome.state.vocabulary.owners[name])
        dense = on_vocabulary(data, outcome.state)[:, own]
        assert sent.arrays.keys() == {"cooccurrence"}
        assert np.array_equal(sent.arrays["cooccurrence"], pack_symmetric(dense.T @ dense))
    first = outcome.state.history[0]
    assert (first.phase, first.round, first.platforms) == ("linear", 0, NAMES)
    assert first.bytes_up == sum(8 * packed_size(len(rows)) for rows in outcome.state.vocabulary.owners.values())
    assert [record.phase for record in outcome.state.history[1:]] == ["factors"] * 2


def linear_of(agent: Any) -> Any:
    """The item-item model's part of the model that an agent has stored."""
    (linear,) = (part for part in agent.store.load().cross.parts if part.name == "linear")
    return linear


def test_every_platform_keeps_ridge_weights_over_each_items_owners(exact: Any) -> None:
    outcome, recorders, platforms = exact
    state = outcome.state
    dense = {name: on_vocabulary(data, state) for name, data in platforms.items()}
    for recorder in recorders:
        agent: Any = recorder.agent
        kept = agent.store.load()
        assert kept.cross.weights["linear"] == PersonalizationConfig().linear_weight > 0
        linear = linear_of(agent)
        assert set(linear.targets) == set(np.flatnonzero(kept.foreign))
        for at, target in enumerate(linear.targets):
            x = np.concatenate([dense[name] for name in NAMES if target in state.vocabulary.owners[name]])
            below = np.vstack([x[:, linear.inputs], np.sqrt(RIDGE) * np.eye(len(linear.inputs))])
            right = np.concatenate([x[:, target], np.zeros(len(linear.inputs))])
            expected, *_ = np.linalg.lstsq(below, right, rcond=None)
            np.testing.assert_allclose(linear.weights[:, at], expected, atol=1e-5)


def test_the_weights_rank_what_the_platform_serves(exact: Any) -> None:
    _, recorders, _ = exact
    agent: Any = recorders[0].agent
    kept = agent.store.load()
    users = np.arange(kept.histories.n_users)
    histories = kept.on_vocabulary(kept.histories)
    with_linear = kept.cross_scorer().scores(histories, users)
    without = kept.cross_scorer(kept.cross.without("linear")).scores(histories, users)
    assert not np.allclose(with_linear[:, kept.foreign], without[:, kept.foreign])


class Noted(CooccurrencePhase):
    """Notes what the aggregator adds up."""

    def __init__(self, kind: ContributionKind, plan: FederationPlan) -> None:
        super().__init__(kind, plan)
        self.received: list[Any] = []

    def solve(self, state: FederationState, contributions: Any) -> Any:
        self.received = list(contributions)
        return super().solve(state, self.received)


class MaskedTap:
    """Notes what mechanisms of ``agents`` released before it was masked, and what the aggregator got."""

    def __init__(self, plan: FederationPlan, agents: Sequence[PlatformAgent]) -> None:
        self.released: list[PrivatizedContribution] = []
        self.phases = [Noted(one.kind, plan) if type(one) is CooccurrencePhase else one for one in phases_of(plan)]
        for agent in agents:
            stand_in(agent, "cooccurrence", self._release)

    def _release(self, real: Contributor, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        self.released.append(real.make(request, membership))
        return self.released[-1]

    @property
    def received(self) -> list[Any]:
        return next(one.received for one in self.phases if isinstance(one, Noted))

    def total(self, name: str) -> np.ndarray:
        """Return what the aggregator saw, all platforms together."""
        return np.sum([part.arrays[name] for part in self.received if name in part.arrays], axis=0)


def test_the_masked_sum_is_the_sum_of_releases_to_the_last_digit(tmp_path: Path) -> None:
    plan = private_linear_plan()
    agents = agents_of(private_platforms(3), plan, tmp_path)
    tap, recorders = MaskedTap(plan, agents), [Recorder(agent) for agent in agents]
    federate(recorders, plan, tmp_path, phases=tap.phases)
    assert [reply.arrays.keys() for reply in recorders[0].replies("masked_cooccurrence")] == [{"masked"}]
    assert len(tap.released) == 3
    for name in ("cooccurrence", "linear_users"):
        assert np.array_equal(tap.total(name), np.sum([part.arrays[name] for part in tap.released], axis=0))
    # In the open are nobody's arrays: each platform's answer holds the masked one alone.
    assert [part.platforms for part in tap.received if part.arrays] == [NAMES]


def laid_out(tap: MaskedTap, plan: FederationPlan, state: FederationState) -> np.ndarray:
    """Sums over all platforms of the kept items, float64 ``[k, k]``, in the exact sums' unit."""
    assert plan.linear is not None
    kept = plan.linear.columns(state.item_counts, state.vocabulary.ownership(), private=True)
    place, total = {int(item): at for at, item in enumerate(kept)}, np.zeros((len(kept), len(kept)))
    for part in tap.received:
        if "cooccurrence" not in part.arrays:
            continue
        own = [place[item] for item in kept.tolist() if plan.secure_sum or item in part.positions]
        rows, columns = np.triu_indices(len(own))
        block = np.zeros((len(own), len(own)))
        block[rows, columns] = part.arrays["cooccurrence"] * RunPlan.of(plan).item_item_noise().grid_step
        block[rows, columns] /= np.where(rows == columns, 1.0, np.sqrt(2.0))
        block[columns, rows] = block[rows, columns]
        total[np.ix_(own, own)] += block
    return total


@pytest.mark.parametrize("noise", ["per_platform", "secure_sum"])
def test_masked_and_open_statistics_are_the_dense_sums_to_the_grid(tmp_path: Path, noise: str) -> None:
    plan, platforms = private_linear_plan(noise), private_platforms(3)
    agents = agents_of(platforms, plan, tmp_path)
    tap = MaskedTap(plan, agents)
    with without_noise():
        state = federate(agents, plan, tmp_path, phases=tap.phases).state
    assert plan.linear is not None
    kept = plan.linear.columns(state.item_counts, state.vocabulary.ownership(), private=True)
    expected, users = np.zeros((len(kept), len(kept))), []
    for data in platforms.values():
        x = on_vocabulary(data, state)[:, kept]
        x /= np.sqrt(np.maximum(x.sum(axis=1, keepdims=True), 1))  # c = 1: min(1, 1/√n)
        expected += x.T @ x
        users.append(float((x.sum(axis=1) > 0).sum()))
    step = RunPlan.of(plan).item_item_noise().grid_step
    slack = sum(data.train.n_users for data in platforms.values()) * step + 1e-8
    assert np.abs(laid_out(tap, plan, state) - expected).max() <= slack
    if noise == "secure_sum":
        found = users_from(tap.total("linear_users"), plan.linear, step)
        assert found == pytest.approx(users, abs=4 * slack)


@pytest.mark.parametrize("noise", ["per_platform", "secure_sum"])
def test_a_private_run_charges_one_release_and_divides_the_rest(tmp_path: Path, noise: str) -> None:
    plan = private_linear_plan(noise)
    without = plan.model_copy(update={"linear": None})
    recorders = [Recorder(agent) for agent in agents_of(private_platforms(3), plan, tmp_path)]
    federate(recorders, plan, tmp_path)
    mu = RunPlan.of(without).release_plan().mu
    for recorder in recorders:
        agent: Any = recorder.agent
        charges = [(charge["round"], release) for charge in charges_of(agent) for release in charge["releases"]]
        own = [(number, release) for number, release in charges if release["kind"] == "cooccurrence"]
        assert [(number, release["mechanism"]) for number, release in own] == [(0, "gaussian")]
        assert own[0][1]["noise_multiplier"] == pytest.approx(1 / (mu * np.sqrt(0.4)))
        left = sum(1 / r["noise_multiplier"] ** 2 for _, r in charges if r["kind"] != "cooccurrence")
        assert left == pytest.approx(mu**2 * 0.6, rel=1e-9)
        (reserved,) = [e.content for e in agent._outbox.ledger.entries() if e.content["event"] == "reserved"]
        aside = [(r["kind"], r["noise_multiplier"]) for r in reserved["plan"]["releases"]]
        assert sorted(aside) == sorted((r["kind"], r["noise_multiplier"]) for _, r in charges), (
            "all of it, before the first"
        )
        releases = [r for run in agent._outbox.ledger.spend().runs for c in run.charges for r in c.releases]
        assert mu_squared(releases) == pytest.approx(mu**2, rel=1e-9)
    loud, soft = (RunPlan.of(each).release_plan().counts.noise_multiplier for each in (plan, without))
    louder = loud / soft
    assert louder == pytest.approx(1 / np.sqrt(0.6))
    card = card_content(plan, {recorder.agent.name: recorder.agent.spend() for recorder in recorders})  # type: ignore[attr-defined]
    assert card["linear"]["mu"] ** 2 + card["linear"]["mu_left"] ** 2 == pytest.approx(card["mu"] ** 2)
    text = card_text(plan, card)
    assert "40% of the budget" in text
    assert f"μ = {np.sqrt(0.6) * mu:.4f}" in text


def test_a_platform_lost_after_masking_is_named_and_the_sum_stands(tmp_path: Path) -> None:
    content = private_linear_plan(privacy={"dropouts": 1}).model_dump()
    plan = read_plan(content | {"platforms": 4})
    made = agents_of(private_platforms(4), plan, tmp_path)
    tap = MaskedTap(plan, made)
    agents = [
        Tampered(agent, "masked_cooccurrence", failing()) if agent.name == "platform-3" else agent for agent in made
    ]
    state = federate(agents, plan, tmp_path, phases=tap.phases).state
    assert state.history[0].platforms == NAMES
    assert list(state.history[0].failed) == ["platform-3"]
    assert np.array_equal(
        tap.total("cooccurrence"), np.sum([part.arrays["cooccurrence"] for part in tap.released[:3]], axis=0)
    )
    assert state.linear is not None
    assert list(state.linear) == [*NAMES, "platform-3"], "the lost one gets what the others know"
    assert [len(record.platforms) for record in state.history[1:]] == [4, 4]


def test_the_deep_models_share_is_set_aside_before_the_statistics() -> None:
    content = private_linear_plan().model_dump()
    alone = read_plan(content)
    towers = {"sequence": {"kind": "mean"}, "privacy": {"share": 0.5, "noise_multiplier": 1.0}}
    both = read_plan(content | {"towers": towers})
    assert RunPlan.of(both).gaussian_mu < RunPlan.of(alone).gaussian_mu
    for plan in (alone, both):
        spent = [RunPlan.of(plan).item_item_noise(), RunPlan.of(plan).release_plan().counts]
        multipliers = [*(noise.noise_multiplier for noise in spent)]
        multipliers += [r.noise_multiplier for part in RunPlan.of(plan).release_plan().rounds for r in part.releases()]
        assert compose(multipliers) == pytest.approx(RunPlan.of(plan).gaussian_mu, rel=1e-9)
        assert compose(multipliers) <= RunPlan.of(plan).gaussian_mu


class Killed(BaseException):
    """Ends a run from inside as a kill does: nothing catches it."""


class Killer(SilentObserver):
    """Dies at a platform's answer of one kind, or when a round of one phase is complete."""

    def __init__(self, at: str, platform: str | None = None) -> None:
        self._at, self._platform = at, platform

    def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
        if (kind, platform) == (self._at, self._platform):
            raise Killed

    def on_round(self, record: RoundRecord) -> None:
        if self._platform is None and record.phase == self._at:
            raise Killed


KILLS = [
    ("counts", "platform-2"),
    ("cooccurrence", "platform-0"),
    ("linear", None),
    ("factors", None),
    ("finish", "platform-1"),
]


@pytest.mark.parametrize(("at", "platform"), KILLS)
def test_a_killed_run_with_restarted_agents_ends_at_the_same_result(
    tmp_path: Path, exact: Any, at: str, platform: str | None
) -> None:
    straight, platforms, plan = exact[0], platforms_of(), linear_plan()
    with pytest.raises(Killed):
        federate(agents_of(platforms, plan, tmp_path), plan, tmp_path, observer=Killer(at, platform))
    recorders = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    resumed = federate(recorders, plan, tmp_path, run_id="another")
    assert np.array_equal(resumed.state.item_parameters, straight.state.item_parameters)
    for one, other in zip(recorders, exact[1], strict=True):
        mine, theirs = (linear_of(agent) for agent in (one.agent, other.agent))  # type: ignore[attr-defined]
        for name in ("inputs", "targets", "weights"):
            assert np.array_equal(getattr(mine, name), getattr(theirs, name)), "to the bit"
    # What is durable is not asked for again.
    assert len(recorders[0].replies("cooccurrence")) == (1 if at in ("counts", "cooccurrence", "linear") else 0)


@pytest.mark.parametrize(("noise", "at"), [("per_platform", "cooccurrence"), ("secure_sum", "masked_cooccurrence")])
def test_a_killed_private_release_repeats_its_bytes_and_one_charge(tmp_path: Path, noise: str, at: str) -> None:
    plan, platforms = private_linear_plan(noise), private_platforms(3)
    before = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    with pytest.raises(Killed):
        federate(before, plan, tmp_path, observer=Killer(at, "platform-1"))
    after = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    state = federate(after, plan, tmp_path, run_id="another").state
    assert [record.phase for record in state.history] == ["linear", "factors", "factors"]
    for first, again in zip(before[:2], after[:2], strict=True):
        (sent,), (repeated,) = first.replies(at), again.replies(at)
        assert all(np.array_equal(sent.arrays[name], repeated.arrays[name]) for name in sent.arrays)
    for recorder in after:
        agent: Any = recorder.agent
        kinds = [r["kind"] for charge in charges_of(agent) for r in charge["releases"]]
        assert kinds.count("cooccurrence") == 1


def test_a_run_resumed_without_its_weights_names_file_and_mend(tmp_path: Path) -> None:
    plan, platforms = linear_plan(), platforms_of()
    with pytest.raises(Killed):
        federate(agents_of(platforms, plan, tmp_path), plan, tmp_path, observer=Killer("factors"))
    (file,) = (tmp_path / "aggregator").rglob("linear.npz")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"linear\.npz: cannot be read; restore it from a backup, or start a new run"):
        federate(agents_of(platforms, plan, tmp_path), plan, tmp_path)


def test_a_late_platform_has_the_statistics_gathered_again(tmp_path: Path) -> None:
    plan, platforms = linear_plan(), platforms_of()
    early = {name: platforms[name] for name in NAMES[:2]}
    with pytest.raises(Killed):
        federate(agents_of(early, plan, tmp_path), plan, tmp_path, observer=Killer("factors"))
    before = CheckpointStore(tmp_path / "aggregator" / "checkpoints").latest(plan)
    assert before is not None
    after = federate(agents_of(platforms, plan, tmp_path), plan, tmp_path).state
    assert before.linear is not None
    assert after.linear is not None
    assert (list(before.linear), list(after.linear)) == ([*NAMES[:2]], [*NAMES])
    assert len(after.linear["platform-0"].targets) > len(before.linear["platform-0"].targets)


Change = Callable[[np.ndarray], np.ndarray]
RUBBISH: dict[str, tuple[Change, str]] = {
    "too short": (lambda sums: sums[:-1], "contract"),
    "of another type": (lambda sums: sums.astype(np.float32), "contract"),
    "not a number": (lambda sums: np.where(np.arange(len(sums)) == 3, np.nan, sums), "contract"),
    "no sum over users": (lambda sums: np.where(np.arange(len(sums)) == 0, -1e9, sums), "contract"),
}


@pytest.mark.parametrize("case", RUBBISH)
def test_a_platform_that_sends_rubbish_is_named_and_left_out(tmp_path: Path, case: str) -> None:
    change, code = RUBBISH[case]
    plan, watch = linear_plan(), Watch()
    agents = [
        Tampered(agent, "cooccurrence", with_array("cooccurrence", change)) if agent.name == "platform-1" else agent
        for agent in agents_of(platforms_of(), plan, tmp_path)
    ]
    state = federate(agents, plan, tmp_path, observer=watch).state
    assert watch.failures == [(0, "platform-1", code)]
    assert state.history[0].platforms == ("platform-0", "platform-2")
    assert state.history[0].failed == {"platform-1": code}
    assert state.linear is not None
    assert all(np.isfinite(part.weights).all() for part in state.linear.values())
    assert state.linear["platform-1"].weights.any(), "it gets what the others know all the same"


def test_an_undeclared_array_is_refused_on_both_sides(tmp_path: Path) -> None:
    plan, watch = linear_plan(), Watch()

    def more(_: AgentRequest, reply: Any) -> Any:
        return replace(reply, arrays=dict(reply.arrays) | {"histories": np.zeros(3)})

    agents = [
        Tampered(agent, "cooccurrence", more) if agent.name == "platform-1" else agent
        for agent in agents_of(platforms_of(), plan, tmp_path)
    ]
    federate(agents, plan, tmp_path, observer=watch)
    assert watch.failures == [(0, "platform-1", "contract")]


def contribution_with(change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], agent: PlatformAgent) -> None:
    """The agent's own contribution is changed before egress sees it."""
    linear = contributor_of(agent, "cooccurrence")
    make = linear.make

    def contribution(*arguments: Any) -> PrivatizedContribution:
        from common.contributions.factors import PlainMechanism

        return PlainMechanism().release("cooccurrence", 0, change(dict(make(*arguments).arrays)))

    linear.make = contribution


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays | {"histories": np.zeros(3)},
        lambda arrays: {"cooccurrence": arrays["cooccurrence"][:-1].copy()},
        lambda arrays: {"cooccurrence": arrays["cooccurrence"].astype(np.float32)},
        lambda arrays: {},
    ],
    ids=["undeclared", "misshapen", "other type", "missing"],
)
def test_egress_lets_nothing_out_that_the_contract_does_not_declare(tmp_path: Path, change: Any) -> None:
    plan, watch = linear_plan(), Watch()
    agents = agents_of(platforms_of(), plan, tmp_path)
    contribution_with(change, agents[1])
    recorders = [Recorder(agent) for agent in agents]
    federate(recorders, plan, tmp_path, observer=watch)
    assert watch.failures == [(0, "platform-1", "internal")]
    assert recorders[1].replies("cooccurrence")[0].arrays == {}


def test_a_plan_without_item_item_model_admits_no_request_of_it(tmp_path: Path) -> None:
    aggregator = by_hand(private_platforms(3), private_plan(3), tmp_path)
    counts = np.ones(len(aggregator.vocabulary))
    for kind in ("cooccurrence", "masked_cooccurrence"):
        assert aggregator.ask("platform-0", kind, arrays={"item_counts": counts}).code == "contract"


def test_repeated_requests_are_free_and_other_counts_are_refused(tmp_path: Path) -> None:
    plan = private_linear_plan("per_platform", share=0.6)
    aggregator = by_hand(private_platforms(3), plan, tmp_path)
    counts = np.arange(len(aggregator.vocabulary), 0.0, -1)
    ask = partial(aggregator.ask, "platform-0", "cooccurrence")
    first, again = ask(arrays={"item_counts": counts}), ask(arrays={"item_counts": counts})
    assert (first.code, again.code) == ("ok", "ok")
    assert np.array_equal(first.arrays["cooccurrence"], again.arrays["cooccurrence"])
    assert ask(arrays={"item_counts": counts[::-1].copy()}).code == "out-of-order"
    assert len(charges_of(aggregator.agents["platform-0"])) == 1


def test_a_platform_with_another_item_item_model_is_refused_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan, other, watch = linear_plan(), linear_plan(user_weighting=0.25), Watch()
    platforms = platforms_of()
    odd = {"platform-1": platforms.pop("platform-1")}
    agents = [*agents_of(platforms, plan, tmp_path), *agents_of(odd, other, tmp_path)]
    federate(agents, plan, tmp_path, observer=watch)
    assert [code for _, _, code in watch.failures] == ["plan-differs"]
    assert "linear.user_weighting" in caplog.text


def test_a_vocabulary_above_the_limit_is_refused_at_the_handshake(tmp_path: Path) -> None:
    plan, platforms = linear_plan(max_items=22), platforms_of()
    recorders = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
    with pytest.raises(
        ConfigError, match=r"the vocabulary has 24 items, more than linear\.max_items = 22; set linear\.kept_items"
    ):
        federate(recorders, plan, tmp_path)
    assert {request.kind for recorder in recorders for request, _ in recorder.seen} == {"join"}
    pruned = linear_plan(max_items=22, kept_items=22)
    outcome = federate(agents_of(platforms, pruned, tmp_path / "pruned"), pruned, tmp_path / "pruned")
    assert outcome.state.history[0].phase == "linear"


def test_a_platform_above_the_limit_refuses_by_itself_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    platforms = platforms_of()
    largest = max(len(data.items) for data in platforms.values())
    aggregator = by_hand(platforms, linear_plan(max_items=largest - 1), tmp_path, joined=False)
    plan = {"plan": aggregator.plan.model_dump(mode="json")}
    codes = {name: aggregator.ask(name, "join", config=plan).code for name in NAMES}
    assert codes == {name: "config" if len(platforms[name].items) == largest else "ok" for name in NAMES}
    assert f"this platform has {largest} items, more than linear.max_items = {largest - 1}" in caplog.text
    # Whatever the aggregator makes of it, who has joined refuses the vocabulary.
    name = next(name for name, code in codes.items() if code == "ok")
    assert aggregator.ask(name, "vocabulary", **aggregator.vocabulary_parts()).code == "config"


def test_under_privacy_a_large_vocabulary_is_pruned_and_not_refused(tmp_path: Path) -> None:
    plan = private_linear_plan()
    assert plan.linear is not None
    plan = plan.model_copy(update={"linear": plan.linear.model_copy(update={"max_items": 9})})
    state = federate(agents_of(private_platforms(3), plan, tmp_path), plan, tmp_path).state
    assert (
        kinds_by_wire_name(plan)["masked_cooccurrence"].masked_length(plan, len(state.vocabulary)) == packed_size(9) + 3
    )
    assert state.linear is not None
    for part in state.linear.values():
        assert len(part.inputs) + len(part.targets) <= 9


def test_a_plan_whose_statistics_fit_no_ring_is_refused_on_reading() -> None:
    # Nearly all of the budget for the statistics: little noise, so many grid steps a user.
    many = {"user_bound": 50_000_000_000, "epsilon": 10.0}
    with pytest.raises(
        ValidationError, match=r"privacy\.user_bound: sums over 3 platforms .* lower user_bound to at most"
    ):
        private_linear_plan(privacy=many, share=0.99)
    assert private_linear_plan(privacy=many, share=0.5).linear is not None
    assert private_linear_plan("per_platform", privacy=many, share=0.99).linear is not None


def test_explicit_ratings_have_no_item_item_model() -> None:
    content = linear_plan().model_dump()
    content["model"]["feedback"] = "explicit"
    with pytest.raises(ValidationError, match=r"linear: item-item statistics say who has what"):
        read_plan(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda own, foreign, m: {"linear_inputs": foreign[:1], "linear_targets": foreign[1:2]},
        lambda own, foreign, m: {"linear_inputs": own[:1], "linear_targets": own[1:2]},
        lambda own, foreign, m: {"linear_inputs": own[:1], "linear_targets": np.array([m])},
        lambda own, foreign, m: {"linear_inputs": np.array([-1]), "linear_targets": foreign[:1]},
        lambda own, foreign, m: {"linear_weights": np.full((1, 1), np.nan, dtype=np.float32)},
        lambda own, foreign, m: {"linear_weights": np.zeros((2, 1), dtype=np.float32)},
    ],
    ids=["from foreign", "to own", "beyond", "negative", "not a number", "misshapen"],
)
def test_a_platform_takes_no_weights_that_lead_elsewhere(tmp_path: Path, change: Any) -> None:
    aggregator = by_hand(platforms_of(), linear_plan(), tmp_path)
    own = np.sort(aggregator.vocabulary.owners["platform-0"]).astype(np.int64)
    m = len(aggregator.vocabulary)
    foreign = np.setdiff1d(np.arange(m), own)
    for server_round in range(1, linear_plan().server_rounds + 1):
        aggregator.ask("platform-0", "statistics", server_round, arrays=aggregator.parameters())
    sound = {
        **aggregator.parameters(),
        "linear_inputs": own[:1],
        "linear_targets": foreign[:1],
        "linear_weights": np.ones((1, 1), dtype=np.float32),
    }
    assert aggregator.ask("platform-0", "finish", 2, arrays=sound | change(own, foreign, m)).code == "contract"
    assert aggregator.ask("platform-0", "finish", 2, arrays=sound).code == "ok"


def test_a_platform_by_itself_gets_no_weights_and_serves_without(tmp_path: Path) -> None:
    plan = linear_plan()
    agents = agents_of({"platform-0": platforms_of()["platform-0"]}, plan, tmp_path)
    federate(agents, plan, tmp_path)
    kept = agents[0].store.load()
    assert "linear" not in kept.cross.weights


def test_no_version_of_a_run_without_the_item_item_model_has_any(tmp_path: Path) -> None:
    plan = small_plan(rounds=1)
    agents = agents_of(platforms_of(), plan, tmp_path)
    outcome = federate(agents, plan, tmp_path)
    assert outcome.state.linear is None
    manifest = json.loads((agents[0].store.root / "versions" / "000001" / "manifest.json").read_text())
    assert "linear" not in manifest["cross"]["weights"]
    assert "linear" not in {part.name for part in agents[0].store.load().cross.parts}
