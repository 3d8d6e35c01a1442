"""States of a federation as checkpoints hold them."""

from __future__ import annotations

import numpy as np

from common.catalogue import Vocabulary
from server.federation.state import FederationState, RoundRecord
from tests.support import SECRET, small_plan

PLAN = small_plan()


def state_after(server_round: int) -> FederationState:
    rng = np.random.default_rng(server_round)
    vocabulary = Vocabulary.empty().extended({"b": SECRET.digests(["x:1", "x:2"]), "a": SECRET.digests(["x:2", "x:3"])})
    record = RoundRecord(
        round=1,
        seconds=0.5,
        bytes_up=10,
        bytes_down=20,
        objective=3.5,
        recall=None,
        platforms=("b",),
        failed={"a": "data"},
    )
    return FederationState(
        run_id="run",
        server_round=server_round,
        vocabulary=vocabulary,
        item_parameters=rng.standard_normal((3, 4)).astype(np.float32),
        item_counts=rng.random(3),
        user_counts={"a": 3.0, "b": 1.0},
        value_mean=0.25,
        history=(record,) * server_round,
    )
