"""Answers, and how often they come, depend on public facts and noised values, whatever the aggregator asks.

An aggregator of its own choice takes a platform and its neighbour, which has one user less, through a whole run of every kind
of request. All that leaves is compared but the noised values themselves: codes, names, forms and number of messages, the
bytes of what holds no noise, and what was charged. The values are the audit's matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.data.training import TrainingData
from client.personalization.personalize import Personalizer
from common.contributions.run_plan import RunPlan
from common.contributions.tower_variables import initial_values
from common.errors import DataError
from common.wire.exchange import AgentReply, Arrays
from tests.private_support import HandMade, by_hand, charges_of, private_platforms, sent_by, whole_plan

NAME = "platform-0"
NOISY = ("counts", "cooccurrence", "statistics", "update")
SHAPES = ("usual", "huge", "at the bound", "tiny", "denormal", "one line", "zero", "not a number", "that user's")
BOTH = pytest.mark.parametrize("noise", ["secure_sum", "per_platform"])


@pytest.fixture(autouse=True)
def _no_accountant(monkeypatch: pytest.MonkeyPatch) -> None:
    # The deep model's ε is not what is asked here, and an accountant takes seconds to load.
    monkeypatch.setattr("client.contributions.towers._cost", lambda updates: 0.0)


def without_first_user(data: TrainingData) -> TrainingData:
    return replace(data, user_ids=data.user_ids[1:], train=data.train.select_users(np.arange(1, data.train.n_users)))


def parameters(asked: HandMade, shape: str, user: NDArray[np.intp]) -> Arrays:
    """Item parameters that an attacker could choose, where ``user`` are positions of the one user's items."""
    m, row = len(asked.vocabulary), asked.plan.row
    largest = np.sqrt(0.99e9 * 0.3)
    line = np.outer(np.ones(m), np.arange(1, row + 1))
    one_hot = np.zeros((m, row))
    one_hot[user, 0] = 1
    chosen = {
        "usual": asked.parameters()["item_parameters"],
        "huge": np.full((m, row), 1e30),
        "at the bound": line / np.linalg.norm(line) * largest,
        "tiny": line * 1e-30,
        "denormal": line * 1e-42,
        "one line": line * 0.1,
        "zero": np.zeros((m, row)),
        "not a number": np.full((m, row), np.nan),
        "that user's": one_hot * largest / np.sqrt(len(user)),
    }
    return asked.parameters() | {"item_parameters": chosen[shape].astype(np.float32)}


def last(asked: HandMade, shared: Arrays) -> Arrays:
    """The arrays of a finish."""
    own = np.sort(asked.vocabulary.owners[NAME]).astype(np.int64)
    foreign = np.setdiff1d(np.arange(len(asked.vocabulary)), own)
    linear = {
        "linear_inputs": own[:2],
        "linear_targets": foreign[:2],
        "linear_weights": np.full((2, 2), 1e6, dtype=np.float32),
    }
    return {**shared, **towers(asked), **linear}


def towers(asked: HandMade) -> dict[str, NDArray[np.float32]]:
    return initial_values(RunPlan.of(asked.plan).tower_variables, len(asked.vocabulary), asked.plan.seed)


def requests(asked: HandMade, shared: Arrays) -> Iterator[tuple[str, int, Arrays]]:
    """Kind, round and arrays of everything after the handshake, early, in order, and again."""
    prefix = "masked_" if asked.plan.secure_sum else ""
    counts = {"item_counts": shared["item_counts"]}
    yield "finish", 2, last(asked, shared)
    yield f"{prefix}counts", 0, {}
    yield f"{prefix}cooccurrence", 0, counts
    for server_round in (1, 2, 2):
        yield f"{prefix}statistics", server_round, shared
    yield "finish", 2, last(asked, shared)
    for server_round in (3, 4, 4):
        # Their rows as wild as the contract lets them be.
        size = float(np.abs(shared["item_parameters"]).max())
        yield f"{prefix}update", server_round, {key: array * np.float32(size) for key, array in towers(asked).items()}
    yield "finish", 2, last(asked, shared)
    yield "finish", 2, last(asked, shared)
    yield "finish", 2, last(asked, asked.parameters(9))
    yield f"{prefix}statistics", 2, asked.parameters(9)


def told(reply: AgentReply) -> dict[str, Any]:
    """All of a reply but noised values."""
    noisy = reply.kind.removeprefix("masked_") in NOISY
    return {
        "kind": reply.kind,
        "round": reply.server_round,
        "code": reply.code,
        "config": dict(reply.config),
        "arrays": {
            name: (array.dtype.str, array.shape, b"" if noisy else array.tobytes())
            for name, array in reply.arrays.items()
        },
    }


def transcript(data: dict[str, TrainingData], noise: str, shape: str, user: list[str], folder: Path) -> dict[str, Any]:
    # Nobody may miss a round, so that a finish before the last one is out of order.
    asked = by_hand(data, whole_plan(noise).model_copy(update={"min_platforms": 3}), folder)
    agent = asked.agents[NAME]
    if noise == "secure_sum":
        asked.enrol()  # its keys are random, and nothing in it is of users
    own = {agent.data.items.keys[column]: place for place, column in enumerate(agent.data.shared_columns)}
    positions = asked.vocabulary.owners[NAME][[own[key] for key in user]]
    shared = parameters(asked, shape, positions)
    answers = []
    with np.errstate(over="ignore", invalid="ignore"):
        for kind, server_round, arrays in requests(asked, shared):
            extra = {"config": {"tower_round": server_round - 2}} if kind.endswith("update") else {}
            answers.append(told(asked.ask(NAME, kind, server_round, arrays=arrays, **extra)))
    return {
        "answers": answers,
        "left": [(entry["event"], entry["kind"]) for entry in sent_by(agent)],
        "charged": [(entry["round"], entry["releases"]) for entry in charges_of(agent)],
    }


@pytest.mark.parametrize(
    ("noise", "shape"),
    [("per_platform", shape) for shape in SHAPES]
    # Users are solved alike whatever masks their sum.
    + [("secure_sum", shape) for shape in ("usual", "at the bound", "not a number", "that user's")],
)
def test_no_request_is_answered_otherwise_for_one_user_less(tmp_path: Path, noise: str, shape: str) -> None:
    data = private_platforms()
    target = data[NAME]
    first = target.train.indices[: target.train.row_lengths[0]]
    user = [target.items.keys[column] for column in first]
    smaller = data | {NAME: without_first_user(target)}
    seen = [transcript(world, noise, shape, user, tmp_path / f"{n}") for n, world in enumerate((data, smaller))]
    assert seen[0] == seen[1]
    codes = [(answer["kind"], answer["code"]) for answer in seen[0]["answers"]]
    assert codes[0][1] != "ok", "nothing was paid for yet"
    if shape in ("huge", "not a number"):
        assert [code for kind, code in codes if "statistics" in kind] == ["contract"] * 3 + ["ok"]
    if shape == "usual":
        assert [code for kind, code in codes if kind == "finish"] == ["out-of-order"] * 2 + ["ok"] * 2 + [
            "out-of-order"
        ]


@BOTH
def test_a_model_that_cannot_be_built_changes_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: str
) -> None:
    """Read one bit at a time, that answer gave away a whole history."""
    data = private_platforms()
    user = [data[NAME].items.keys[0]]
    sound = transcript(data, noise, "usual", user, tmp_path / "sound")

    def broken(self: Personalizer, view: Any) -> Any:
        raise DataError("this user's system has no factorisation")

    monkeypatch.setattr(Personalizer, "build", broken)
    assert transcript(data, noise, "usual", user, tmp_path / "broken") == sound
