"""The fault that recorded feedback bypasses the reader: ids and values go into training as they were sent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from client.data.cleaning import load_platform_data
from client.data.dataset import PlatformData, UserItemMatrix
from client.recommend.feedback_file import FEEDBACK_LOG
from common.deploy.roles import PlatformConfig


def load_uncleaned(config: PlatformConfig) -> PlatformData:
    """The files as they are cleaned, and every line of the feedback log behind them, as it stands there."""
    data = load_platform_data(config.data, platform=config.name)
    column = {key: place for place, key in enumerate(data.items.keys)}
    row = {user: place for place, user in enumerate(data.user_ids)}
    matrix = data.interactions
    entries = {
        (int(user), int(item)): (float(value), int(time))
        for user, item, value, time in zip(
            matrix.entry_users(), matrix.indices, matrix.values, matrix.times, strict=True
        )
    }
    for _, _, user, key, value, time in _events(config.state / "store" / FEEDBACK_LOG):
        entries[row.setdefault(user, len(row)), column[key]] = value, time
    values = list(entries.values())
    interactions = UserItemMatrix.from_entries(
        np.array([user for user, _ in entries], dtype=np.int64),
        np.array([item for _, item in entries], dtype=np.int64),
        np.array([value for value, _ in values], dtype=np.float32),
        np.array([time for _, time in values], dtype=np.int64),
        n_users=len(row),
        n_items=matrix.n_items,
    )
    return replace(data, user_ids=tuple(row), interactions=interactions)


def _events(path: Path) -> list[list[Any]]:
    lines = path.read_bytes().splitlines()[1:]
    return [event for line in lines for event in json.loads(line.partition(b" ")[2])]
