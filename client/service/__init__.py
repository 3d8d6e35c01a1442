"""gRPC services of a platform and their client."""

from typing import TYPE_CHECKING

from common.public_names import public_names

if TYPE_CHECKING:
    from client.service.client import RecommenderClient
    from client.service.server import serve_recommender

__all__ = ["RecommenderClient", "serve_recommender"]

__getattr__ = public_names(
    __name__,
    {"RecommenderClient": "client.service.client", "serve_recommender": "client.service.server"},
)
