"""Answers to applications: lists, similar items and reasons from the model that serves."""

from typing import TYPE_CHECKING

from common.public_names import public_names

if TYPE_CHECKING:
    from client.recommend.recommender import Recommender

__all__ = ["Recommender"]

__getattr__ = public_names(
    __name__,
    {"Recommender": "client.recommend.recommender"},
)
