"""Cleans a platform's files into tables of its users and items, split for training and measuring."""

from typing import TYPE_CHECKING

from common.public_names import public_names

if TYPE_CHECKING:
    from client.data.cleaning import load_platform_data
    from client.data.dataset import PlatformData, UserItemMatrix
    from client.data.training import TrainingData

__all__ = ["PlatformData", "TrainingData", "UserItemMatrix", "load_platform_data"]

__getattr__ = public_names(
    __name__,
    {
        "PlatformData": "client.data.dataset",
        "TrainingData": "client.data.training",
        "UserItemMatrix": "client.data.dataset",
        "load_platform_data": "client.data.cleaning",
    },
)
