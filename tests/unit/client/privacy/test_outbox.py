from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.privacy.outbox import Outbox
from common.errors import (
    BudgetExceededError,
    ContractError,
    EgressRefusedError,
    FailedContributionError,
    InternalError,
    PrivacyError,
)
from common.privacy.contribution import PrivatizedContribution
from common.privacy.lifetime import BudgetPolicy
from common.wire.exchange import AgentRequest, digest_of
from tests.support import small_plan
from tests.support.outbox import RELEASES, REQUEST, SIZES, counts

PLAN = small_plan()


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    box = Outbox(tmp_path, BudgetPolicy(epsilon=None, delta=1e-5), PLAN, tmp_path / "store")
    box.reserve("run", RELEASES, PLAN)
    return box


def contribute(
    box: Outbox, request: AgentRequest, releases: Any, make: Callable[[], PrivatizedContribution], sizes: Any
) -> Any:
    """The steps of the agent that are the outbox's."""
    receipt = box.charge(request, releases)
    sent = box.replay(receipt)
    if sent is None:
        with box.one_attempt(receipt):
            sent = box.send(make(), request.kind, sizes, receipt)
    return sent


def test_charge_comes_before_making_and_journal_before_leaving(outbox: Outbox) -> None:
    def make() -> PrivatizedContribution:
        assert [entry.content["event"] for entry in outbox.ledger.entries()][-1] == "charged"
        return counts()

    sent = contribute(outbox, REQUEST, RELEASES, make, SIZES)
    assert sent["item_counts"].tolist() == [1, 2]
    assert [entry.content["event"] for entry in outbox.journal.entries()][-1] == "sent"


def test_a_refused_budget_makes_nothing(tmp_path: Path) -> None:
    box = Outbox(tmp_path, BudgetPolicy(epsilon=1.0, delta=1e-5), PLAN, tmp_path / "store")
    with pytest.raises(BudgetExceededError):
        box.reserve("run", RELEASES, PLAN)
    with pytest.raises(PrivacyError):
        contribute(box, REQUEST, RELEASES, lambda: pytest.fail("made"), SIZES)


def test_a_repeated_request_is_made_once_and_another_is_charged(outbox: Outbox) -> None:
    first = contribute(outbox, REQUEST, RELEASES, counts, SIZES)
    again = contribute(outbox, replace(REQUEST), RELEASES, lambda: pytest.fail("made again"), SIZES)
    assert first["item_counts"].tobytes() == again["item_counts"].tobytes()
    other = replace(REQUEST, config={"a": 2})
    contribute(outbox, other, RELEASES, counts, SIZES)
    assert [entry.content["event"] for entry in outbox.ledger.entries()].count("charged") == 2


def test_a_badly_made_contribution_is_made_anew_for_its_charge(outbox: Outbox) -> None:
    with pytest.raises(FailedContributionError, match="item_counts"):
        contribute(outbox, REQUEST, RELEASES, lambda: counts([1.0, np.nan]), SIZES)
    contribute(outbox, REQUEST, RELEASES, counts, SIZES)
    assert [entry.content["event"] for entry in outbox.ledger.entries()].count("charged") == 1


def test_a_contribution_cannot_leave_as_a_plain_reply(outbox: Outbox) -> None:
    with pytest.raises(EgressRefusedError, match="counts"):
        outbox.reply("counts", dict(counts().arrays), {}, SIZES)


def test_a_refusal_is_journaled_as_its_code_alone(outbox: Outbox) -> None:
    assert outbox.refuse("counts", InternalError("private-user")) == "internal"
    assert outbox.refuse("made-up private-user", ContractError("x")) == "contract"
    assert "private-user" not in repr([entry.content for entry in outbox.journal.entries()])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (np.zeros(2), np.zeros((1, 2))),
        (np.zeros(2), np.zeros(2, dtype=np.int64)),
        (np.array([0.0]), np.array([-0.0])),
        (np.zeros(2, dtype=">f8"), np.zeros(2, dtype="<f8")),
    ],
)
def test_arrays_that_differ_have_different_digests(left: Any, right: Any) -> None:
    first, second = (replace(REQUEST, arrays={"x": array}) for array in (left, right))
    assert digest_of(first) != digest_of(second)


fields = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["counts", "statistics"]),
        "run_id": st.sampled_from(["a", "b"]),
        "server_round": st.integers(0, 3),
        "config": st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=2),
        "arrays": st.dictionaries(
            st.sampled_from(["x", "y"]),
            st.sampled_from(
                [np.zeros(2), np.zeros(2, dtype=np.float32), np.zeros((1, 2)), np.ones(2), np.array([0.0, -0.0])]
            ),
            max_size=2,
        ),
    }
)


@given(fields, fields)
def test_two_requests_have_one_digest_only_if_they_say_the_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    def said(parts: dict[str, Any]) -> Any:
        arrays = {n: (a.dtype.str, a.shape, a.tobytes()) for n, a in parts["arrays"].items()}
        return parts | {"arrays": arrays}

    equal = digest_of(AgentRequest(**left)) == digest_of(AgentRequest(**right))
    assert equal == (said(left) == said(right))
