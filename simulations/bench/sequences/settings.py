"""The settings that are compared, chosen among on validation items alone."""

from __future__ import annotations

from dataclasses import dataclass

from common.config.towers import SequenceConfig, TowerConfig, TowerTraining


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One model, on all users in one place or spread over platforms.

    Attributes:
        config: ``training.rounds`` at most; fewer where the time is over before.
        platforms: 1 is pooled.
    """

    config: TowerConfig
    platforms: int = 1


def _setting(
    kind: str,
    width: int,
    blocks: int,
    *,
    heads: int = 4,
    dropout: float = 0.2,
    platforms: int = 1,
    batch: int = 128,
    passes: float = 1.0,
    rounds: int = 150,
    **fields: str | float,
) -> Setting:
    weigh = fields.pop("weigh", "targets")
    sequence = {"kind": kind, "length": 200, "blocks": blocks, "heads": heads, "dropout": dropout, **fields}
    training = {"batch_users": batch, "local_epochs": passes, "rounds": rounds, "schedule": "warmup_cosine"}
    return Setting(
        config=TowerConfig(
            dimension=width,
            sequence=SequenceConfig.model_validate(sequence),
            training=TowerTraining.model_validate({**training, "weigh": weigh}),
        ),
        platforms=platforms,
    )


SETTINGS: dict[str, Setting] = {
    "hstu-128x4": _setting("hstu", 128, 4),
    "hstu-128x4-users": _setting("hstu", 128, 4, weigh="users"),
    "hstu-128x4-start": _setting("hstu", 128, 4, positions="start"),
    "hstu-128x8": _setting("hstu", 128, 8, dropout=0.3),
    "hstu-256x4": _setting("hstu", 256, 4, dropout=0.3),
    "hstu-256x4-drop5": _setting("hstu", 256, 4, dropout=0.5),
    "transformer-128x2": _setting("transformer", 128, 2, feed_forward=4),
    "federated-hstu-128x4": _setting("hstu", 128, 4, platforms=4, batch=64, passes=2.0, rounds=75),
    "federated-hstu-256x4": _setting("hstu", 256, 4, dropout=0.3, platforms=4, batch=64, passes=2.0, rounds=75),
    "federated-hstu-256x4-drop5": _setting("hstu", 256, 4, dropout=0.5, platforms=4, batch=64, passes=2.0, rounds=75),
    "federated-hstu-256x4-drop5-often": _setting("hstu", 256, 4, dropout=0.5, platforms=4, batch=64, rounds=150),
    "federated-hstu-256x4-drop5-large": _setting("hstu", 256, 4, dropout=0.5, platforms=4, passes=2.0, rounds=75),
    "smoke": _setting("hstu", 8, 1, heads=2, batch=8, rounds=2),
    "federated-smoke": _setting("hstu", 8, 1, heads=2, platforms=2, batch=8, rounds=2),
}
"""By name. Compared unless named otherwise: all but the smokes."""
