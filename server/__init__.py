"""The aggregator: gathers contributions in rounds, solves for items, and keeps its books."""

from typing import TYPE_CHECKING

from common.public_names import public_names

if TYPE_CHECKING:
    from server.strategy import FederatedFactorization

__all__ = ["FederatedFactorization"]

__getattr__ = public_names(
    __name__,
    {"FederatedFactorization": "server.strategy"},
)
