"""How steering would change a run's lists as a whole, for its report; holds no user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.batch.coverage import before_and_after
from client.steering.coverage import Spread
from common.config.base import FrozenModel
from common.config.loader import load_yaml_model
from common.config.serving import SteeringConfig

QUANTITIES: Final = ("coverage", "gini", "novelty", "foreign_share", "most_shown")
_DEPTH: Final = 20


@dataclass(frozen=True, kw_only=True)
class Steered:
    """One platform's lists of own and others' items, by score alone and as steered."""

    platform: str
    before: Spread
    after: Spread


class _Steering(FrozenModel):
    """A file with a section ``steering``, as ``platform.yaml`` has it."""

    steering: SteeringConfig


def read_steering(path: Path) -> SteeringConfig:
    """The section ``steering`` of a YAML file.

    Raises:
        ConfigError: there is none, or a key of it is wrong.
    """
    return load_yaml_model(path, _Steering).steering


def steered_lists(run: Path, steering: SteeringConfig, platforms: list[str], *, users: int = 500) -> list[Steered]:
    """Each platform's lists before and after, of ``users`` of its users; platforms whose stores are gone are left out."""
    found = []
    for platform in platforms:
        store = run / "platforms" / platform / "store"
        if store.is_dir():
            before, after = before_and_after(store, steering, _DEPTH, "all", users=users)
            found.append(Steered(platform=platform, before=before, after=after))
    return found
