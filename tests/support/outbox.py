"""One request for counts, and what an outbox may send for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.contributions.factors import PlainMechanism
from common.privacy.contribution import PrivatizedContribution
from common.wire.exchange import AgentRequest

SIZES = {"catalogue": 2, "counts": 3, "row": 4, "packed": 10}


REQUEST = AgentRequest(kind="counts", run_id="run", server_round=0, arrays={"x": np.arange(3)}, config={"a": 1})


RELEASES = PlainMechanism().releases("counts")


def counts(values: Any = (1.0, 2.0)) -> PrivatizedContribution:
    arrays = {"item_counts": np.array(values), "totals": np.array([2.0, 3.0, 3.0])}
    return PlainMechanism().release("counts", 0, arrays)
