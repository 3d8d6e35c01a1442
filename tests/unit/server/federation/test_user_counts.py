"""How many users each platform has, as the aggregator tells it with the finish and as a platform takes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.catalogue import Vocabulary
from common.errors import ContractError
from common.wire.exchange import AgentRequest, user_counts_of
from server.aggregation.private_factors import ALL_USERS
from server.federation.state import fresh_state


def state_of(counts: dict[str, float]) -> Any:
    digests = np.zeros((1, 32), dtype=np.uint8)
    vocabulary = Vocabulary.empty().extended(dict.fromkeys(("a", "b", "c"), digests))
    return replace(fresh_state("run", 2), vocabulary=vocabulary, user_counts=counts)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"a": 10.0, "b": 20.0, "c": 30.0}, (10, 20, 30)),
        ({"a": 10.0, "c": 30.0}, (10, 20, 30)),
        ({ALL_USERS: 90.0}, (30, 30, 30)),
        ({}, (0, 0, 0)),
    ],
)
def test_each_platform_has_its_number_or_an_even_share(counts: dict[str, float], expected: tuple[float, ...]) -> None:
    assert state_of(counts).users_by_platform() == pytest.approx(expected)


def request_of(told: Any) -> AgentRequest:
    return AgentRequest(kind="finish", run_id="r", server_round=1, config={} if told is None else {"user_counts": told})


def test_a_platform_takes_a_number_for_each_platform() -> None:
    assert user_counts_of(request_of([3, 4.5]), 2) == (3.0, 4.5)
    assert user_counts_of(request_of(None), 2) is None, "an older aggregator does not tell"


@pytest.mark.parametrize(
    "told", [[1.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")], [1.0, True], "ab", 3, [1, "2"]]
)
def test_other_answers_are_refused(told: Any) -> None:
    with pytest.raises(ContractError, match="user_counts"):
        user_counts_of(request_of(told), 2)
