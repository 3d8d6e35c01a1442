"""Shows what a run would send, before anything is sent: every array of the contract, with its size and its noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from client.data.dataset import PlatformData
from client.data.training import shared_items
from client.steering.hidden import HiddenItems
from common.config.federation import FederationPlan
from common.contributions.kind import MASKED
from common.contributions.protocol import contribution_specs, plan_sizes, reply_specs
from common.contributions.registry import kinds_by_wire_name
from common.deploy.console import PlainTable
from common.deploy.roles import PlatformConfig


def preview_rows(config: PlatformConfig, data: PlatformData) -> list[dict[str, Any]]:
    """One dict for each array that leaves the platform in a run; sizes that depend on the others are None.

    Raises:
        ConfigError: the plan cannot be used.
    """
    shared = shared_items(data.items, config.catalogue, HiddenItems(config.state / "store").current())
    sizes = plan_sizes(config.plan, catalogue=int(shared.sum()))
    rows = []
    kinds = kinds_by_wire_name(config.plan)
    for spec in (*reply_specs(), *contribution_specs(config.plan)):
        derived = spec.kind in kinds
        times = len(kinds[spec.kind].rounds(config.plan)) if derived else 1
        for array in spec.arrays:
            shape = [size if isinstance(size, int) else sizes.get(size) for size in array.shape]
            known = [size for size in shape if size is not None]
            whole = len(known) == len(shape)
            rows.append(
                {
                    "kind": spec.kind,
                    "array": array.name,
                    "dtype": str(np.dtype(array.dtype)),
                    "shape": shape,
                    "bytes": math.prod(known) * np.dtype(array.dtype).itemsize if whole else None,
                    "times": times,
                    "from_interactions": derived,
                    "noise": _noise(config.plan, array.name) if derived else "—",
                }
            )
    return rows


def preview_table(rows: list[dict[str, Any]]) -> PlainTable:
    """The same for people."""
    headings = ("message", "array", "type", "shape", "bytes", "times", "made from", "noise")
    table = PlainTable(*headings, title="What a run would send")
    for row in rows:
        shape = " × ".join("?" if size is None else str(size) for size in row["shape"])
        size = "?" if row["bytes"] is None else f"{row['bytes']:,}"
        source = "interactions" if row["from_interactions"] else "no interactions"
        table.add_row(row["kind"], row["array"], row["dtype"], shape, size, str(row["times"]), source, row["noise"])
    return table


def _noise(plan: FederationPlan, array: str) -> str:
    if not plan.private:
        return "NONE (privacy.mode: none)"
    share = "a share, and masked" if array == MASKED else "all of it"
    return f"{share}; ε {plan.privacy.epsilon:g} for the whole run"
