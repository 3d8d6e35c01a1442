"""Private federations from end to end: what is charged, what leaves, what arrives, and that the sums are right."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare, kstest, norm

from client.agent import PlatformAgent
from client.data.training import TrainingData
from client.privacy.journal import pack
from client.privacy.secure_sum.masking import masked_units
from common.config.federation import FederationPlan
from common.config.privacy import PrivacyConfig
from common.contributions.run_plan import RunPlan
from common.errors import ConfigError
from common.privacy.secure_sum.wire import split_frame
from server.federation.state import FederationState
from simulations.audit.audited.platforms import without_noise
from simulations.engine.datasets import make_platforms
from simulations.run import simulate
from simulations.studies.sweep import run_sweep
from tests.private_support import (
    Tap,
    charged_mu_squared,
    charges_of,
    outbox_of,
    private_plan,
    private_platforms,
    private_scenario,
    sent_by,
)
from tests.support import SECRET, Recorder, agents_of, federate

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "secure_sum": (3, {}),
    "secure_sum with dropouts": (5, {"dropouts": 1}),
    "per_platform": (3, {"noise": "per_platform"}),
    "item_gram": (3, {"release": "item_gram"}),
    "item_gram per_platform": (3, {"release": "item_gram", "noise": "per_platform"}),
}
SECURE = [case for case in CASES if "per_platform" not in case]
OPEN = [case for case in CASES if "per_platform" in case]


@dataclass
class Federation:
    """One run, with all that crossed the wire, all that was released, and all that was solved."""

    plan: FederationPlan
    platforms: dict[str, TrainingData]
    recorders: list[Recorder]
    tap: Tap
    state: FederationState

    @property
    def agents(self) -> list[PlatformAgent]:
        return [recorder.agent for recorder in self.recorders]  # type: ignore[misc]

    def received(self, number: int) -> list[tuple[int, dict[str, NDArray[Any]]]]:
        """(round, arrays) of every contribution that the aggregator has of a platform."""
        seen = self.recorders[number].seen
        parts = [(q, r) for q, r in seen if q.kind.endswith(("counts", "statistics"))]
        return [(request.server_round, dict(reply.arrays)) for request, reply in parts]


def run(case: str, folder: Any) -> Federation:
    number, privacy = CASES[case]
    plan, platforms = private_plan(number, **privacy), private_platforms(number)
    agents = agents_of(platforms, plan, folder)
    tap, recorders = Tap(plan, agents), [Recorder(agent) for agent in agents]
    state = federate(recorders, plan, folder, phases=tap.phases).state
    return Federation(plan, platforms, recorders, tap, state)


@pytest.fixture(scope="module", params=CASES)
def noisy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Read-only: shared by the tests of this module."""
    numba.set_num_threads(1)
    return run(request.param, tmp_path_factory.mktemp("noisy"))


def of_cases(cases: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("noisy", cases, indirect=True)


def test_every_platform_is_charged_exactly_the_plan(noisy: Federation) -> None:
    releases = RunPlan.of(noisy.plan).release_plan()
    for agent in noisy.agents:
        run_spend = outbox_of(agent).ledger.spend().runs[0]
        assert tuple(r for charge in run_spend.charges for r in charge.releases) == releases.releases()
        assert [charge["round"] for charge in charges_of(agent)] == [0, 1, 2]
        assert charged_mu_squared(agent) == pytest.approx(releases.mu**2, rel=1e-9)
        assert run_spend.closed


def test_the_plan_keeps_its_promise_by_the_textbook_formula(noisy: Federation) -> None:
    releases = RunPlan.of(noisy.plan).release_plan()
    mu = np.sqrt(sum(1 / release.noise_multiplier**2 for release in releases.releases()))
    delta = norm.cdf(mu / 2 - releases.epsilon / mu) - np.exp(releases.epsilon) * norm.cdf(
        -mu / 2 - releases.epsilon / mu
    )
    assert delta == pytest.approx(releases.delta, rel=1e-6)
    assert (releases.epsilon, releases.delta) == (3.0, 1 / (10 * 100))


def test_the_journal_says_what_the_aggregator_received_to_the_byte(noisy: Federation) -> None:
    for number, agent in enumerate(noisy.agents):
        sent = [entry for entry in sent_by(agent) if entry["event"] == "sent"]
        received = noisy.received(number)
        assert [entry["round"] for entry in sent] == [0, 1, 2] == [server_round for server_round, _ in received]
        for entry, (_, arrays) in zip(sent, received, strict=True):
            assert entry["digest"] == hashlib.sha256(pack(arrays)).hexdigest()
            assert entry["arrays"] == [[n, a.dtype.name, list(a.shape)] for n, a in sorted(arrays.items())]
            assert entry["bytes"] == sum(array.nbytes for array in arrays.values())
            assert entry["private"] is True
            assert "norm" not in entry
        replies = [reply for _, reply in noisy.recorders[number].seen]
        assert [entry["kind"] for entry in sent_by(agent)] == [reply.kind for reply in replies]
        assert agent.spend().messages == len(replies)
        assert agent.spend().bytes == sum(reply.nbytes for reply in replies)
        assert outbox_of(agent).journal.verify() == len(outbox_of(agent).journal.entries())


def test_nothing_else_leaves(noisy: Federation) -> None:
    """No metric, objective, number of users or verdict, neither as an array nor as a field."""
    for recorder in noisy.recorders:
        for _, reply in recorder.seen:
            assert reply.code == "ok"
            assert set(reply.config) <= {"secret_fingerprint"}
    assert [(record.objective, record.recall) for record in noisy.state.history] == [(None, None)] * 2
    assert noisy.state.value_mean == 0


@of_cases(SECURE)
def test_under_secure_sum_nothing_arrives_unmasked_but_the_noisy_gram(noisy: Federation) -> None:
    payloads = []
    for number in range(len(noisy.agents)):
        for server_round, arrays in noisy.received(number):
            assert set(arrays) == ({"masked"} if server_round == 0 else {"masked", "user_gram"})
            payloads.append(bytes(split_frame(arrays["masked"].tobytes())[1]))
    # What is masked is uniform; unmasked sums in a ring of 32 bits would have many high bytes of 0 or 255.
    assert uniform(b"".join(payloads)) > 1e-7
    unmasked = [masked_units(part).astype("<i4").tobytes() for part in noisy.tap.released]
    assert uniform(b"".join(unmasked)) < 1e-7, "the test could tell"
    assert sorted(map(len, unmasked)) == sorted(map(len, payloads))


def uniform(content: bytes) -> float:
    """p of a χ² test that all high halves of bytes are equally likely."""
    return float(chisquare(np.bincount(np.frombuffer(content, dtype=np.uint8) >> 4, minlength=16)).pvalue)


@of_cases(SECURE)
def test_the_open_gram_carries_all_of_its_noise(noisy: Federation) -> None:
    for noise in RunPlan.of(noisy.plan).release_plan().rounds:
        assert (noise.user_gram.shares, noise.user_gram.masked) == (1, False)
        assert (noise.item_vectors.shares, noise.item_vectors.masked) == (
            len(noisy.agents) - 1 - noisy.plan.privacy.dropouts,
            True,
        )


@of_cases(SECURE)
def test_every_item_carries_noise_from_every_platform_had_or_not(noisy: Federation) -> None:
    m, seen = len(noisy.state.vocabulary), []
    for server_round in (0, 1, 2):
        parts = noisy.tap.of_round(server_round)
        assert len(parts) == len(noisy.agents)
        for name, part in zip(noisy.platforms, parts, strict=True):
            lacking = np.setdiff1d(np.arange(m), noisy.state.vocabulary.owners[name])
            assert len(lacking)
            for masked in part.masked:
                rows = part.arrays[masked][:m]
                assert len(rows) == m
                assert np.count_nonzero(rows[lacking]) > 0.99 * rows[lacking].size
                seen.append(rows[lacking].ravel() / 2**16)
    assert kstest(np.concatenate(seen), "norm").pvalue > 1e-6


@of_cases(OPEN)
def test_per_platform_covers_the_own_catalogue_only(noisy: Federation) -> None:
    for number, (name, data) in enumerate(noisy.platforms.items()):
        own = len(data.items)
        assert own < len(noisy.state.vocabulary)
        assert len(noisy.state.vocabulary.owners[name]) == own
        for server_round, arrays in noisy.received(number):
            if server_round == 0:
                assert {n: a.shape for n, a in arrays.items()} == {"counts": (own + 1,)}
            else:
                assert arrays["item_vectors"].shape == (own, 3)
                assert arrays["user_gram"].shape == (6,)
    assert all(not part.masked for part in noisy.tap.released)


def test_the_aggregator_solves_from_the_exact_sum_of_the_releases(noisy: Federation) -> None:
    """To the last grid step, masks and noise and all."""
    secure = noisy.plan.privacy.noise == "secure_sum"
    for server_round, solved in enumerate(noisy.tap.solved, start=1):
        vectors, item_grams, gram = solved.item_vectors, solved.item_grams, np.zeros((3, 3))
        noise = RunPlan.of(noisy.plan).release_plan().rounds[server_round - 1]
        expected = {"item_vectors": np.zeros(vectors.shape), "item_grams": np.zeros((len(vectors), 6))}
        for name, part in zip(noisy.platforms, noisy.tap.of_round(server_round), strict=True):
            rows = np.arange(len(vectors)) if secure else noisy.state.vocabulary.owners[name]
            for array in set(expected) & set(part.arrays):
                expected[array][rows] += part.arrays[array]
            values, axes = np.linalg.eigh(unpacked(part.arrays["user_gram"] * noise.user_gram.grid_step))
            gram += (axes * np.maximum(values, 0)) @ axes.T
        assert solved.user_gram == pytest.approx(gram, abs=1e-9)
        steps = vectors / noise.item_vectors.grid_step
        assert steps == pytest.approx(expected["item_vectors"], abs=1e-6)
        if noise.item_grams is None:
            assert item_grams is None
        else:
            step = noise.item_grams.grid_step
            assert item_grams == pytest.approx(
                np.stack([unpacked(row) for row in expected["item_grams"] * step]), rel=1e-12
            )


def test_the_solve_reckons_with_the_noise_that_is_there(noisy: Federation) -> None:
    for server_round, sigma in enumerate((solved.item_sigma for solved in noisy.tap.solved), start=1):
        step = RunPlan.of(noisy.plan).release_plan().rounds[server_round - 1].item_vectors.grid_step
        if noisy.plan.privacy.noise == "secure_sum":
            shares = np.full(len(sigma), len(noisy.agents))
        else:
            shares = noisy.state.vocabulary.ownership().sum(axis=1)
            assert len(set(shares.tolist())) > 1
        assert sigma == pytest.approx(step * 2**16 * np.sqrt(shares), rel=1e-12)


def test_every_platform_ends_with_a_model_that_it_can_serve(noisy: Federation) -> None:
    for agent in noisy.agents:
        model = agent.store.load()
        assert np.array_equal(model.shared.item_parameters, noisy.state.item_parameters)
        assert np.isfinite(model.shared.item_parameters).all()
        assert model.server_round == 2


def unpacked(triangle: NDArray[np.float64]) -> NDArray[np.float64]:
    """A released triangle, row by row with off-diagonals times √2, as a matrix of 3 × 3."""
    a, b, c, d, e, f = triangle
    r = np.sqrt(0.5)
    return np.array([[a, r * b, r * c], [r * b, d, r * e], [r * c, r * e, f]])


class DenseReleases:
    """Counts, item vectors and Gram matrices by textbook loops over dense rows; no line shared with the product."""

    def __init__(self, data: TrainingData, digests: NDArray[np.uint8], plan: FederationPlan) -> None:
        place = {digest.tobytes(): row for row, digest in enumerate(digests)}
        self.columns = [place[SECRET.digests([key])[0].tobytes()] for key in data.items.keys]
        self.rows = [
            {self.columns[item] for item in data.train.indices[data.train.indptr[u] : data.train.indptr[u + 1]]}
            for u in range(data.train.n_users)
        ]
        self.m, self.plan, self.settings = len(digests), plan, plan.privacy

    def counts(self) -> NDArray[np.float64]:
        total = np.zeros(self.m + 1)
        for row in self.rows:
            for item in row:
                total[item] += min(1.0, (self.settings.max_count_contribution / len(row)) ** 0.5)
            total[-1] += 1
        return total

    def statistics(
        self, factors: NDArray[np.float64], counts: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        settings, model = self.settings, self.plan.model
        ranked = sorted(range(self.m), key=lambda item: (-counts[item], item))
        weight = {item: counts[item] ** -settings.popularity_exponent for item in ranked[: settings.kept_items]}
        catalogue = [item for item in self.columns if item in weight]
        vectors, gram = np.zeros((self.m, 3)), np.zeros((3, 3))
        grams = np.zeros((self.m, 3, 3))
        for row in self.rows:
            kept = [item for item in row if item in weight]
            if not kept:
                continue
            system = model.regularization * np.eye(3)
            for item in catalogue:
                system += ((item in row) + model.unobserved_weight) * np.outer(factors[item], factors[item])
            user = np.linalg.solve(system, sum(factors[item] for item in kept))
            user *= min(1.0, settings.clip_norm / np.linalg.norm(user))
            norm = sum(weight[item] ** 2 for item in kept) ** 0.5
            for item in kept:
                w = settings.weight_total**0.5 * weight[item] / norm
                vectors[item] += w * user
                grams[item] += w * np.outer(user, user)
            gram += np.outer(user, user)
        return vectors, gram, grams


@pytest.mark.parametrize("case", CASES)
def test_without_noise_the_solve_gets_what_a_dense_oracle_computes(tmp_path: Any, case: str) -> None:
    with without_noise():
        federation = run(case, tmp_path)
    plan, state, requests = federation.plan, federation.state, federation.recorders[0].seen
    digests = state.vocabulary.digests
    oracles = {name: DenseReleases(data, digests, plan) for name, data in federation.platforms.items()}
    users = sum(len(oracle.rows) for oracle in oracles.values())
    counts = sum(oracle.counts() for oracle in oracles.values())
    # Each user's contribution is rounded toward zero to whole grid steps, after a shrink by 2⁻³⁰.
    slack = users * RunPlan.of(plan).release_plan().counts.grid_step + 1e-6
    assert state.item_counts == pytest.approx(np.maximum(counts[:-1], 1.0), abs=slack)
    assert sum(state.user_counts.values()) == pytest.approx(users, abs=slack)
    assert (counts[:-1] > 1).sum() > 8, "the clamp must not decide"

    for server_round, solved in enumerate(federation.tap.solved, start=1):
        vectors, item_grams = solved.item_vectors, solved.item_grams
        (sent,) = [q for q, _ in requests if q.kind.endswith("statistics") and q.server_round == server_round]
        factors, released = sent.arrays["item_parameters"].astype(np.float64), sent.arrays["item_counts"]
        assert (np.abs(factors).sum(axis=1) > 0).sum() <= plan.privacy.kept_items or server_round == 1
        parts = {name: oracle.statistics(factors, released) for name, oracle in oracles.items()}
        # Factors leave the trainer as 32-bit floats.
        assert vectors == pytest.approx(sum(part[0] for part in parts.values()), abs=2e-3)
        assert np.linalg.norm(vectors) > 1
        assert solved.user_gram == pytest.approx(sum(part[1] for part in parts.values()), abs=2e-3)
        if item_grams is not None:
            assert item_grams == pytest.approx(sum(part[2] for part in parts.values()), abs=2e-3)


@pytest.mark.parametrize("noise", ["secure_sum", "per_platform"])
def test_a_platform_that_shares_nothing_reads_along_whatever_its_size(tmp_path: Any, noise: str) -> None:
    plan, platforms = private_plan(3, noise=noise, minimum_users=10), private_platforms(3)
    reader = platforms["platform-2"]
    assert reader.train.n_users < 10
    platforms["platform-2"] = TrainingData(
        user_ids=reader.user_ids,
        items=reader.items,
        train=reader.train,
        validation=reader.validation,
        shared=np.zeros(len(reader.items), dtype=bool),
    )
    with without_noise():
        recorders = [Recorder(agent) for agent in agents_of(platforms, plan, tmp_path)]
        state = federate(recorders, plan, tmp_path).state
    assert [record.failed for record in state.history] == [{}, {}]
    assert sum(state.user_counts.values()) == pytest.approx(20 + 12 + (noise == "per_platform"), abs=0.05)
    assert state.vocabulary.owners["platform-2"].size == 0
    assert recorders[2].agent.store.load().shared.item_parameters.shape == state.item_parameters.shape


def everything_written(folder: Path) -> dict[str, str]:
    """All that is for others' eyes: the card, the results, and journals as anyone who may read them sees them."""
    return {path.name: path.read_text() for path in (folder / "privacy.md", folder / "result.json")}


def test_a_private_simulation_writes_its_card_and_names_no_user(tmp_path: Path) -> None:
    scenario = private_scenario(tmp_path / "data")
    result = simulate(scenario, tmp_path / "out")
    written = everything_written(tmp_path / "out")
    content = json.loads(written["result.json"])["privacy"]
    assert content == result.content["privacy"]
    assert (content["epsilon"], content["delta"], content["noise"]) == (3.0, 1e-3, "secure_sum")
    for agent in result.outcome.agents:
        line = content["platforms"][agent.name]
        assert line["epsilon_spent"] == pytest.approx(3.0, rel=1e-6)
        assert line["bytes"] == sum(entry["bytes"] for entry in sent_by(agent))
        assert f"| {agent.name} | 3 | 0.001 | 3.0 | 8 |" in written["privacy.md"]
        written[f"egress of {agent.name}"] = repr([entry.content for entry in outbox_of(agent).journal.entries()])
        written[f"ledger of {agent.name}"] = repr([entry.content for entry in outbox_of(agent).ledger.entries()])
    assert any("visitor-" in user for agent in result.outcome.agents for user in agent.data.user_ids)
    for name, text in written.items():
        assert "visitor" not in text, name
        assert "example.org" not in text, name
    # Without a test set of its own the run shows no metric that was measured inside a platform.
    assert all(record["recall"] is None for record in result.content["rounds"])


def test_what_the_noise_cost_stands_beside_what_was_released(tmp_path: Path) -> None:
    scenario = private_scenario(tmp_path / "data")
    content = simulate(scenario, tmp_path / "private").content
    plan = scenario.plan.model_copy(
        update={"privacy": PrivacyConfig(mode="none"), "tolerance": 0.0, "rounds": scenario.plan.rounds}
    )
    exact = simulate(scenario.model_copy(update={"plan": plan}), tmp_path / "exact").content
    for name, part in content["platforms"].items():
        without = exact["platforms"][name]
        assert "shared_without_noise" not in without["own"]
        for task in ("own", "cross"):
            assert part[task]["shared_without_noise"]["ndcg@10"] == pytest.approx(without[task]["shared"]["ndcg@10"])
        assert part["own"]["shared"] != part["own"]["shared_without_noise"]


def test_a_simulation_without_privacy_says_so_on_its_card(tmp_path: Path) -> None:
    plan = private_plan().model_dump(mode="json") | {"privacy": {"mode": "none"}}
    scenario = private_scenario(tmp_path / "data", plan=plan)
    content = simulate(scenario, tmp_path / "out").content["privacy"]
    assert {part["epsilon_spent"] for part in content["platforms"].values()} == {None}
    assert "It is not private" in (tmp_path / "out" / "privacy.md").read_text()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cleaning": {"k_core": 2}}, r"partition\.data\.cleaning\.k_core"),
        ({"cleaning": {"min_item_interactions": 2}}, r"partition\.data\.cleaning\.min_item_interactions"),
        ({"catalogue": "interactions"}, r"partition\.data\.catalogue"),
        ({"items": {}}, r"partition\.data\.items\.path"),
    ],
)
@pytest.mark.parametrize("how", ["private", "price", "sweep"])
def test_data_settings_that_depend_on_others_are_refused_if_private(
    tmp_path: Path, change: dict[str, Any], named: str, how: str
) -> None:
    scenario = private_scenario(tmp_path / "data")
    assert scenario.partition is not None
    content = scenario.partition.model_dump(mode="json") | {"platforms": None}
    content["data"] |= change
    open_plan = {"plan": scenario.plan.model_dump(mode="json") | {"privacy": {"mode": "none"}}}
    parts: dict[str, Any] = {"private": {}, "price": open_plan | {"price_at": [3]}, "sweep": open_plan}[how]
    scenario = private_scenario(tmp_path / "data", partition=content, **parts)

    def run_it() -> None:
        if how == "sweep":
            run_sweep(scenario, [3.0], draws=1, folder=tmp_path / "out", on_stage=lambda text: None)
        else:
            simulate(scenario, tmp_path / "out")

    with pytest.raises(ConfigError, match=f"{named}: one user's presence would change"):
        run_it()


def test_without_privacy_the_same_settings_are_fine(tmp_path: Path) -> None:
    plan = private_plan().model_dump(mode="json") | {"privacy": {"mode": "none"}}
    scenario = private_scenario(tmp_path / "data", plan=plan)
    assert scenario.partition is not None
    content = scenario.partition.model_dump(mode="json")
    content["data"] |= {"cleaning": {"min_item_interactions": 2}}
    assert make_platforms(private_scenario(tmp_path / "data", plan=plan, partition=content))
