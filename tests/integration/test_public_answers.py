"""Answers, and how often they come, depend on public facts and noised values: they are the same for neighbouring data.

The aggregator of these tests asks for every kind of request with parameters chosen to break computations down. Two worlds
differ by one user's whole history. All that leaves is compared: codes, how many answers there are, names, types, shapes, and
of charged contributions the values, which without noise may differ by their sensitivity and no more. Whole runs of every kind
of contribution are compared with their noise: all but the noised values, and what was charged. These are the audit's matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from scipy.linalg import LinAlgError, cholesky

from client.agent import PlatformAgent
from client.data.reading.reader import as_numbers
from client.data.training import TrainingData
from common.config.federation import FederationPlan
from common.contributions.run_plan import RunPlan, read_plan
from common.contributions.tower_variables import initial_values, tower_variables
from common.wire.exchange import AgentReply, Arrays
from simulations.audit.audited.platforms import without_noise
from tests.private_support import (
    HandMade,
    by_hand,
    charges_of,
    private_plan,
    private_platforms,
    sent_by,
    whole_plan,
)
from tests.support import held_out_last, matrix, training_data
from tests.support.deep_plans import towers_of

NAME = "platform-0"
ITEMS = 13
ROWS = [[0, 1, 2], [2, 3], [4, 5, 6, 7], [8, 9], [10, 11, 12], [1, 5, 9], [3], [0, 12]]
VICTIMS = {
    "an average user": [1, 4, 7, 10],
    "one item": [6],
    "everything": list(range(ITEMS)),
    "nothing": [],
    "a weight that no application sends": {3: 1e30, 8: 1e-30, 11: -5.0},
}


def world(*more: Any) -> dict[str, TrainingData]:
    """The platform that is attacked, and two whose catalogues overlap with its own."""
    everything = held_out_last(matrix([*ROWS, *more], ITEMS))
    keys = [f"imdb:{item:07d}" for item in range(ITEMS)]
    others = {name: data for name, data in private_platforms().items() if name != NAME}
    return {NAME: training_data(keys, everything.history, validation=everything), **others}


def plan_of(noise: str, **parts: Any) -> FederationPlan:
    linear = {"regularization": 0.5, "privacy": {"share": 0.4, "kept_items": 10}}
    plan = private_plan(3, noise=noise, budget=1000.0)
    return read_plan(plan.model_dump() | ({"linear": linear} if noise == "per_platform" else {}) | parts)


def one_hot(m: int, row: int, item: int, scale: float) -> np.ndarray:
    parameters = np.zeros((m, row), dtype=np.float32)
    parameters[item] = scale
    return parameters


def breaking_row(plan: FederationPlan, scale: float, seed: int) -> np.ndarray:
    """A row for one item at which, by rounding alone, a user's system factorises without the item and not with it."""
    config, rng = plan.serving, np.random.default_rng(seed)
    for _ in range(10_000):
        row = (scale * rng.normal(size=plan.row)).astype(np.float32).astype(np.float64)
        outer, ridge = np.outer(row, row), config.regularization * np.eye(plan.row)
        if factorises(config.unobserved_weight * outer + ridge) and not factorises(
            (config.unobserved_weight + 1) * outer + ridge
        ):
            return row.astype(np.float32)
    raise AssertionError("no such row: the attack has lost its ground")


def factorises(system: np.ndarray) -> bool:
    try:
        cholesky(system)
    except LinAlgError:
        return False
    return True


def attacks(plan: FederationPlan, m: int) -> dict[str, Arrays]:
    """Item parameters and counts that a malicious aggregator might send."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(m, plan.row)).astype(np.float32)
    edge = float(np.sqrt(0.99e9 * plan.serving.regularization))
    parameters = {
        "normal": normal,
        "huge": np.full_like(normal, 1e38),
        "at the bound": (edge * normal / np.linalg.norm(normal)).astype(np.float32),
        "tiny": (1e-38 * normal).astype(np.float32),
        "denormal": np.full_like(normal, 1e-45),
        "zero": np.zeros_like(normal),
        "rank-deficient": np.repeat(normal[:1], m, axis=0),
        "rank-deficient at the bound": np.full_like(normal, edge / np.sqrt(normal.size)),
        "NaN": np.full_like(normal, np.nan),
        "one NaN": np.where(np.arange(normal.size).reshape(normal.shape) == 4, np.nan, normal).astype(np.float32),
        "infinite": np.full_like(normal, np.inf),
    } | {f"one-hot {item}": one_hot(m, plan.row, item, edge / plan.row) for item in range(0, m, 5)}
    counts = np.arange(m, 0, -1, dtype=np.float64)
    sent: dict[str, Arrays] = {
        name: {"item_parameters": value, "item_counts": counts} for name, value in parameters.items()
    }
    strange = {"no": np.zeros(m), "negative": -counts, "huge": counts * 1e300, "denormal": np.full(m, 5e-324)}
    return sent | {
        f"{name} counts": {"item_parameters": normal, "item_counts": value} for name, value in strange.items()
    }


def refused(attack: str) -> bool:
    """Whether the contract refuses the parameters, or the counts."""
    return attack in ("huge", "NaN", "one NaN", "infinite", "huge counts")


def shown(reply: AgentReply) -> tuple[Any, ...]:
    """Return what can be seen of an answer besides its values."""
    arrays = {name: (array.dtype.str, array.shape) for name, array in reply.arrays.items()}
    return reply.platform, reply.kind, reply.server_round, reply.code, dict(reply.config), arrays


Steps = Iterator[tuple[str, AgentReply]]


@pytest.fixture
def noiseless() -> Iterator[None]:
    with without_noise(everybody=True):
        yield


def every_kind(asked: HandMade, plan: FederationPlan, attack: str, linear: bool) -> Steps:
    """One run in which all that can be asked is asked with one attack: too early, in order, again, and too late."""
    sent = attacks(plan, len(asked.vocabulary))[attack]
    last = plan.server_rounds
    m = len(asked.vocabulary)
    closing: dict[str, Any] = dict(sent)
    if linear:
        own = np.sort(asked.vocabulary.owners[NAME]).astype(np.int64)
        foreign = np.setdiff1d(np.arange(m), own)
        weights = np.full((2, 2), sent["item_parameters"].flat[0], dtype=np.float32)
        closing |= {"linear_inputs": own[:2], "linear_targets": foreign[:2], "linear_weights": weights}

    def ask(kind: str, server_round: int = 0, arrays: Any = None) -> AgentReply:
        return asked.ask(NAME, kind, server_round, arrays=arrays or {})

    def finish() -> AgentReply:
        return ask("finish", last, closing)

    yield "finish before the handshake", finish()
    yield "join", asked.ask(NAME, "join", config={"plan": plan.model_dump(mode="json")})
    yield "counts before the vocabulary", ask("counts")
    yield "vocabulary", asked.ask(NAME, "vocabulary", **asked.vocabulary_parts())
    yield "finish before any round", finish()
    yield "counts of another round", ask("counts", 1)
    yield "counts", ask("counts")
    if linear:
        yield "cooccurrence", ask("cooccurrence", 0, {"item_counts": sent["item_counts"]})
    for server_round in range(last + 2):
        yield "finish too early", ask("finish", min(server_round, last - 1), closing)
        yield f"statistics {server_round}", ask("statistics", server_round, sent)
        yield f"statistics {server_round} again", ask("statistics", server_round, sent)
    yield "secure_sum", ask("secure_sum", 0, {"message": np.zeros(8, dtype=np.uint8)})
    yield "finish", finish()
    yield "finish again", finish()
    yield "another finish", ask("finish", last, {**closing, "item_counts": sent["item_counts"] + 2})
    yield "counts after the finish", ask("counts")
    yield "join again", asked.ask(NAME, "join", config={"plan": plan.model_dump(mode="json")})
    yield "unknown", ask("users\x1b[2J\n")


def assert_neighbours_look_alike(
    here: list[tuple[str, AgentReply]], there: list[tuple[str, AgentReply]], bounds: Mapping[str, float]
) -> None:
    """Codes, forms, numbers of answers; and values of contributions within their sensitivity, in grid steps."""
    assert [(step, shown(reply)) for step, reply in here] == [(step, shown(reply)) for step, reply in there]
    for (step, one), (_, other) in zip(here, there, strict=True):
        for name, array in one.arrays.items():
            # Sealed cards have random nonces.
            if name in bounds:
                distance = np.linalg.norm(array.astype(np.float64) - other.arrays[name])
                assert distance <= bounds[name], (step, name)
            elif name != "cards":
                assert np.array_equal(array, other.arrays[name]), (step, name)


PER_PLATFORM = plan_of("per_platform")
ATTACKS = list(attacks(PER_PLATFORM, ITEMS))


SOME = ("normal", "at the bound", "rank-deficient at the bound", "one-hot 10")


@pytest.mark.parametrize("victim", VICTIMS)
def test_no_kind_of_request_tells_neighbouring_data_apart(tmp_path: Path, victim: str, noiseless: None) -> None:
    plan, run = PER_PLATFORM, RunPlan(PER_PLATFORM)
    released = run.release_plan()
    # Noise falls from round to round, and the grid with it: the last round's bound is the largest.
    noises = {"item_vectors": released.rounds[-1].item_vectors, "user_gram": released.rounds[-1].user_gram}
    noises |= {"counts": released.counts, "cooccurrence": run.item_item_noise()}
    bounds = {name: noise.sensitivity / noise.grid_step for name, noise in noises.items()}
    for attack in ATTACKS if victim == "everything" else SOME:
        seen = []
        for name, data in (("without", world()), ("with", world(VICTIMS[victim]))):
            asked = by_hand(data, plan, tmp_path / attack / name, joined=False)
            seen.append(list(every_kind(asked, plan, attack, linear=True)))
            built = asked.agents[NAME].wait_built()
            assert built.state == ("none" if refused(attack) else "built"), (attack, built.error)
        assert_neighbours_look_alike(*seen, bounds)
        codes = {step: reply.code for step, reply in seen[0]}
        assert codes["counts"] == codes["join"] == codes["vocabulary"] == "ok"
        assert {codes[step] for step in ("finish before any round", "finish too early")} <= {"out-of-order", "contract"}
        assert codes["finish"] == codes["finish again"], attack
        # What the contract admits is answered, and what it does not is refused, in every kind.
        assert codes["finish"] == codes["statistics 1"] == ("contract" if refused(attack) else "ok"), attack
        assert codes["another finish"] != "ok"


def journals(agents: Mapping[str, PlatformAgent]) -> list[Any]:
    """Return what the journal has of each message that left, in order, without what differs by design."""
    entries = sent_by(agents[NAME])
    return [(e["event"], e["kind"], e.get("code"), e.get("arrays"), e["bytes"]) for e in entries]


@pytest.mark.parametrize("victim", ["an average user", "everything"])
def test_under_secure_sum_only_forms_can_be_seen_and_they_are_alike(tmp_path: Path, victim: str) -> None:
    plan = plan_of("secure_sum")
    seen = []
    for name, data in (("without", world()), ("with", world(VICTIMS[victim]))):
        asked = by_hand(data, plan, tmp_path / name)
        replies = [("too early", asked.masked(NAME, 0))]
        asked.enrol()
        sent = attacks(plan, len(asked.vocabulary))
        for server_round, attack in ((0, "normal"), (1, "huge"), (1, "one-hot 5"), (1, "normal"), (2, "denormal")):
            kind = "masked_statistics" if server_round else "masked_counts"
            arrays = sent[attack] if server_round else {}
            replies.append((attack, asked.ask(NAME, kind, server_round, arrays=arrays)))
        for step in ("enrol", "receive", "survivors", "certificate", "no such step"):
            replies.append((step, asked.step(NAME, step, b"rubbish")))
        replies.append(("finish", asked.ask(NAME, "finish", 2, arrays=sent["rank-deficient at the bound"])))
        replies.append(("survivors", asked.step(NAME, "survivors", b"rubbish")))
        assert asked.agents[NAME].wait_built().state == "built"
        seen.append(([(step, shown(reply)) for step, reply in replies], journals(asked.agents)))
    assert seen[0] == seen[1]
    assert [code for _, (*_, code, _, _) in seen[0][0]].count("ok") == 4


@pytest.mark.parametrize("victim", ["one item", "everything", "a weight that no application sends"])
def test_without_privacy_codes_and_forms_depend_on_public_facts(tmp_path: Path, victim: str) -> None:
    plan = read_plan(
        {
            "rounds": 2,
            "tolerance": 0.0,
            "model": {"dimension": 3, "regularization": 0.3, "unobserved_weight": 0.2, "backend": "numba"},
            "linear": {"regularization": 0.5},
            "privacy": {"mode": "none"},
        }
    )
    for attack in ("huge", "denormal", "rank-deficient at the bound", "one-hot 5"):
        seen = []
        for name, data in (("without", world()), ("with", world(VICTIMS[victim]))):
            asked = by_hand(data, plan, tmp_path / attack / name, joined=False)
            seen.append([(step, shown(reply)) for step, reply in every_kind(asked, plan, attack, linear=True)])
            assert asked.agents[NAME].wait_built().state in ("built", "none")
        assert seen[0] == seen[1], attack


def deep_attacks(plan: FederationPlan, m: int) -> dict[str, Arrays]:
    """Shared variables of the deep model."""

    def filled(value: float) -> Arrays:
        assert plan.towers is not None
        return {
            variable.name: np.full(variable.full_shape(m), value, dtype=np.float32)
            for variable in tower_variables(plan.towers)
        }

    rng = np.random.default_rng(1)
    normal = {name: rng.normal(size=array.shape).astype(np.float32) for name, array in filled(0.0).items()}
    return {
        "normal": normal,
        "at the bound": {name: (9e5 * np.sign(array)).astype(np.float32) for name, array in normal.items()},
        "huge": filled(3e38),
        "denormal": filled(1e-45),
        "NaN": filled(np.nan),
    }


def test_deep_updates_of_neighbours_differ_within_the_clip_norm(tmp_path: Path, noiseless: None) -> None:
    own = {"sampling_rate": 0.5, "share": 0.5, "noise_multiplier": 3.0}
    rounds = {"rounds": 4, "negatives": 4}
    towers = towers_of(training=rounds, privacy=own, encoders=[], user_embedding=False)
    plan = plan_of("per_platform", towers=towers, linear=None)
    noise = RunPlan(plan).update_plan().noise
    seen = []
    for name, data in (("without", world()), ("with", world(VICTIMS["everything"]))):
        asked = by_hand(data, plan, tmp_path / name)
        replies = []
        for number, (attack, arrays) in enumerate(deep_attacks(plan, len(asked.vocabulary)).items()):
            replies.append((attack, asked.ask(NAME, "update", plan.server_rounds + 1 + number % 4, arrays=arrays)))
        normal = deep_attacks(plan, len(asked.vocabulary))["normal"]
        replies.append(("no such round", asked.ask(NAME, "update", 99, arrays=normal)))
        seen.append(replies)
    assert_neighbours_look_alike(*seen, {"update": noise.sensitivity / noise.grid_step})
    assert [reply.code for _, reply in seen[0]] == ["ok", "ok", "contract", "ok", "contract", "out-of-order"]


@pytest.mark.parametrize(
    ("others", "own"),
    [
        (["20", "30"], "33"),
        (["20", "30"], "nan"),
        (["20", "30"], "1e400"),
        (["20", "30"], "1e39"),
        ([None, None], "doctor"),
    ],
)
def test_a_cell_of_a_profile_moves_an_update_within_the_clip_norm(
    tmp_path: Path, noiseless: None, others: list[str | None], own: str
) -> None:
    """A cell that is no number made everybody's profile none, and with it every gradient of the platform zero."""
    towers = towers_of(
        training={"rounds": 2, "negatives": 4},
        privacy={"sampling_rate": 0.99, "share": 0.5, "noise_multiplier": 8.0},
        encoders=[],
        user_embedding=False,
        profile=["cell"],
    )
    plan = plan_of("per_platform", towers=towers, linear=None)
    noise = RunPlan(plan).update_plan().noise
    seen, sums = [], []
    for name, victims in (("without", []), ("with", [VICTIMS["everything"]])):
        told = {}
        for platform, data in world(*victims).items():
            cells = (others * data.train.n_users)[: data.train.n_users]
            if platform == NAME and victims:
                cells[-1] = own
            frame = pl.DataFrame({"cell": pl.Series(cells, dtype=pl.String)})
            told[platform] = replace(data, users=as_numbers(frame, "."))
        asked = by_hand(told, plan, tmp_path / name)
        normal = deep_attacks(plan, len(asked.vocabulary))["normal"]
        reply = asked.ask(NAME, "update", plan.server_rounds + 1, arrays=normal)
        seen.append([("normal", reply)])
        sums.append(reply.arrays["update"])
    assert all(np.any(array) for array in sums)
    assert_neighbours_look_alike(*seen, {"update": noise.sensitivity / noise.grid_step})


@pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")
@pytest.mark.parametrize("scale", [1e9, 1e12, 1e16])
def test_a_finish_reads_no_item_of_a_history(tmp_path: Path, scale: float) -> None:
    """The attack: one finish an item, with parameters at which the systems of those who have it break down.

    The code of the answer told for each item of a platform's catalogue whether the victim has it.
    """
    plan = private_plan(3, noise="per_platform")
    crowd = [[13, 14, 15], [15, 16], [17, 18, 19], [13, 19, 16]]
    read = []
    for name, victims in (("without", []), ("with", [[0, 2, 3, 7, 11, 12, 14]])):
        everything = held_out_last(matrix([*crowd, *victims], 20))
        keys = [f"imdb:{item:07d}" for item in range(20)]
        own = {NAME: training_data(keys, everything.history, validation=everything)}
        others = {other: data for other, data in private_platforms().items() if other != NAME}
        asked = by_hand(own | others, plan, tmp_path / name)
        codes = [try_items(asked, plan, scale)]
        assert asked.ask(NAME, "counts").code == "ok"
        for server_round in (1, 2):
            assert asked.ask(NAME, "statistics", server_round, arrays=asked.parameters()).code == "ok"
        codes.append(try_items(asked, plan, scale))
        read.append(codes)
    assert read[0] == read[1]
    assert {code for codes in read[0] for code in codes} <= {"contract", "out-of-order"}


def try_items(asked: HandMade, plan: FederationPlan, scale: float) -> list[str]:
    codes = []
    for position in np.sort(asked.vocabulary.owners[NAME]):
        parameters = np.zeros((len(asked.vocabulary), plan.row), dtype=np.float32)
        parameters[position] = breaking_row(plan, scale, int(position))
        arrays = {"item_parameters": parameters, "item_counts": np.ones(len(parameters))}
        codes.append(asked.ask(NAME, "finish", 2, arrays=arrays).code)
    return codes


# Whole runs of every kind, noise and all.

NOISY = ("counts", "cooccurrence", "statistics", "update")


Models = Literal["none yet", "built", "failed"]


def wild(asked: HandMade, attack: str) -> Arrays:
    """The deep model's shared variables, their rows as wild as the attack's item parameters."""
    values = initial_values(RunPlan.of(asked.plan).tower_variables, len(asked.vocabulary), asked.plan.seed)
    size = np.abs(attacks(asked.plan, len(asked.vocabulary))[attack]["item_parameters"]).max()
    return {name: array * np.float32(size) for name, array in values.items()}


def whole_run(asked: HandMade, shared: Arrays, attack: str) -> Iterator[AgentReply]:
    """Everything after the handshake: early, in order, and again."""
    prefix = "masked_" if asked.plan.secure_sum else ""
    own = np.sort(asked.vocabulary.owners[NAME]).astype(np.int64)
    foreign = np.setdiff1d(np.arange(len(asked.vocabulary)), own)
    weights = np.full((2, 2), 1e6, dtype=np.float32)
    told = {"linear_inputs": own[:2], "linear_targets": foreign[:2], "linear_weights": weights}
    told |= wild(asked, "normal")

    def finish(arrays: Arrays) -> AgentReply:
        return asked.ask(NAME, "finish", 2, arrays={**arrays, **told})

    def kind(name: str, server_round: int, arrays: Arrays, **config: int) -> AgentReply:
        return asked.ask(NAME, prefix + name, server_round, arrays=arrays, config=config)

    yield finish(shared)
    yield kind("counts", 0, {})
    yield kind("cooccurrence", 0, {"item_counts": shared["item_counts"]})
    for server_round in (1, 2, 2):
        yield kind("statistics", server_round, shared)
    yield finish(shared)
    for server_round in (3, 4, 4):
        yield kind("update", server_round, wild(asked, attack), tower_round=server_round - 2)
    yield finish(shared)
    yield finish(shared)
    yield finish(asked.parameters(9))
    yield kind("statistics", 2, asked.parameters(9))


def all_but_noise(reply: AgentReply) -> tuple[Any, ...]:
    noised = reply.kind.removeprefix("masked_") in NOISY
    bytes_of = {name: b"" if noised else array.tobytes() for name, array in reply.arrays.items()}
    return shown(reply), bytes_of


def transcript(
    data: dict[str, TrainingData], noise: str, attack: str, folder: Path, *, models: Models = "none yet"
) -> Any:
    """All that left, and all that was charged; ``models`` says what became of the model before the last requests."""
    # Nobody may miss a round, so that a finish before the last one is out of order.
    asked = by_hand(data, whole_plan(noise).model_copy(update={"min_platforms": 3}), folder)
    agent = asked.agents[NAME]
    if models == "failed":
        (agent.store.root / "versions").write_text("a file in the place of the models")
    if noise == "secure_sum":
        asked.enrol()  # its keys are random, and nothing in it is of users
    shared = attacks(asked.plan, len(asked.vocabulary))[attack]
    with np.errstate(over="ignore", invalid="ignore"):
        answers = []
        for reply in whole_run(asked, shared, attack):
            answers.append(all_but_noise(reply))
            if models != "none yet" and reply.kind == "finish" and reply.code == "ok":
                assert agent.wait_built().state == models
    left = [(entry["event"], entry["kind"]) for entry in sent_by(agent)]
    return answers, left, [(entry["round"], entry["releases"]) for entry in charges_of(agent)]


@pytest.mark.parametrize(
    ("noise", "attack"),
    [
        ("per_platform", "normal"),
        ("per_platform", "at the bound"),
        ("per_platform", "NaN"),
        # Users are solved alike whatever masks their sum.
        ("secure_sum", "one-hot 10"),
    ],
)
def test_whole_runs_tell_neighbouring_data_apart_by_noise_alone(tmp_path: Path, noise: str, attack: str) -> None:
    seen = [
        transcript(data, noise, attack, tmp_path / f"{n}")
        for n, data in enumerate((world(), world(VICTIMS["an average user"])))
    ]
    assert seen[0] == seen[1]
    codes = [(kind, code) for (_, kind, _, code, *_), _ in seen[0][0]]
    finishes = [code for kind, code in codes if kind == "finish"]
    assert finishes[0] != "ok", "nothing was paid for yet"
    if attack == "NaN":
        assert [code for kind, code in codes if "statistics" in kind] == ["contract"] * 3 + ["ok"]
    else:
        assert finishes == ["out-of-order"] * 2 + ["ok"] * 2 + ["out-of-order"]


@pytest.mark.parametrize("noise", ["secure_sum", "per_platform"])
def test_a_model_that_cannot_be_built_changes_no_answer(tmp_path: Path, noise: str) -> None:
    """Read one bit at a time, that answer gave away a whole history."""
    built = transcript(world(), noise, "normal", tmp_path / "built", models="built")
    assert transcript(world(), noise, "normal", tmp_path / "failed", models="failed") == built
