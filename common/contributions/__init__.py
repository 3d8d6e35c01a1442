"""Kinds of contribution as both sides of the wire know them."""

from typing import TYPE_CHECKING

from common.public_names import public_names

if TYPE_CHECKING:
    from common.contributions.run_plan import RunPlan, read_plan

__all__ = ["RunPlan", "read_plan"]

__getattr__ = public_names(
    __name__,
    {"RunPlan": "common.contributions.run_plan", "read_plan": "common.contributions.run_plan"},
)
