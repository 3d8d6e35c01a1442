"""The deep model of small federations, as a plan states it."""

from __future__ import annotations

from typing import Any

D, ROUNDS = 4, 3
TOWERS: dict[str, Any] = {
    "dimension": D,
    "encoders": [{"attribute": "genres", "kind": "multi_hot", "buckets": 8, "width": 4, "length": 2}],
    "sequence": {"kind": "mean", "length": 6},
    "user_embedding": True,
    "training": {"rounds": ROUNDS, "batch_users": 16, "learning_rate": 0.02},
}


def towers_of(**changes: Any) -> dict[str, Any]:
    training = TOWERS["training"] | changes.pop("training", {})
    return TOWERS | changes | {"training": training}
