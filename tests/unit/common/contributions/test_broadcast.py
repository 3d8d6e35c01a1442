from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contributions.broadcast import round_context, vocabulary_digest
from common.proto.convert import request_from_proto, request_to_proto
from common.wire.exchange import AgentRequest
from common.wire.messages import array_record, request_content

DIGESTS = np.arange(5 * 32, dtype=np.uint8).reshape(5, 32)
OWNERS = np.array([[1, 0], [1, 1], [0, 1], [1, 1], [1, 0]], dtype=np.uint8)
NAMES = ("a", "b")
REQUEST = AgentRequest(
    kind="masked_statistics",
    run_id="run",
    server_round=3,
    config={"value_mean": 0.1 + 0.2, "tower_round": 1},
    arrays={
        "item_parameters": np.arange(12, dtype=np.float32).reshape(4, 3),
        "item_counts": np.linspace(1, 2, 4),
    },
)
TOLD = round_context(REQUEST, vocabulary_digest(NAMES, DIGESTS, OWNERS))


@given(data=st.data())
def test_one_bit_of_anything_that_was_broadcast_changes_the_context(data: st.DataObject) -> None:
    arrays = {name: np.array(array) for name, array in REQUEST.arrays.items()}
    arrays |= {"digests": DIGESTS.copy(), "owners": OWNERS.copy()}
    changed = arrays[data.draw(st.sampled_from(sorted(arrays)))].reshape(-1).view(np.uint8)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    vocabulary = vocabulary_digest(NAMES, arrays.pop("digests"), arrays.pop("owners"))
    assert round_context(replace(REQUEST, arrays=arrays), vocabulary) != TOLD


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "masked_update"},
        {"run_id": "another"},
        {"server_round": 4},
        {"config": {"value_mean": 0.3, "tower_round": 1}},
        {"config": {}},
        {"arrays": {"item_parameters": REQUEST.arrays["item_parameters"]}},
        {"arrays": {name: array.reshape(-1) for name, array in REQUEST.arrays.items()}},
    ],
)
def test_every_part_of_a_request_counts(change: dict[str, object]) -> None:
    assert round_context(replace(REQUEST, **change), vocabulary_digest(NAMES, DIGESTS, OWNERS)) != TOLD  # type: ignore[arg-type]


def test_names_and_shapes_of_the_vocabulary_count() -> None:
    digests = {
        vocabulary_digest(NAMES, DIGESTS, OWNERS),
        vocabulary_digest(("b", "a"), DIGESTS, OWNERS),
        vocabulary_digest(("ab",), DIGESTS, OWNERS),
        vocabulary_digest(NAMES, DIGESTS[:4], OWNERS),
        vocabulary_digest(NAMES, DIGESTS[[1, 0, 2, 3, 4]], OWNERS),
    }
    assert len(digests) == 5


def test_what_was_sent_and_what_arrives_have_the_same_context() -> None:
    """Over Flower and over the agent's socket: both sides compute it from their own copy."""
    content = request_content(REQUEST, array_record(REQUEST.arrays))
    config = json.loads(str(content.config_records["crossfed"]["config"]))
    flower = {name: array.numpy() for name, array in content.array_records["arrays"].items()}
    vocabulary = vocabulary_digest(NAMES, DIGESTS, OWNERS)
    assert round_context(replace(REQUEST, arrays=flower, config=config), vocabulary) == TOLD
    assert round_context(request_from_proto(request_to_proto(REQUEST)), vocabulary) == TOLD
    turned = {name: np.asfortranarray(array) for name, array in REQUEST.arrays.items()}
    assert round_context(replace(REQUEST, arrays=turned), vocabulary) == TOLD
