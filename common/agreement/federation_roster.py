"""The federation roster: all platforms with their keys, and the plan, in one file with one fingerprint that everybody compares.

The aggregator puts it together from registrations, and is trusted with nothing: each platform finds its own keys in it, as it
made them, before it shows a fingerprint; and all platforms compare that one fingerprint in one conversation. Who has the same
fingerprint has the same file, so each entry was found right by its owner. Exchanging a key for one platform alone changes the
fingerprint there; exchanging it for all is seen by its owner.

The fingerprint has 256 bits, where that of a single key has 160: here the aggregator composes what is compared, and might look
for two rosters of one fingerprint (2¹²⁸ trials).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator

from common.config.base import FrozenModel
from common.config.federation import FederationPlan
from common.config.loader import load_yaml_model
from common.contributions.run_plan import CheckedPlan
from common.deploy.provisioning import Registration, normal_fingerprint
from common.errors import ConfigError
from common.files import write_atomically

_LABEL = b"crossfed federation roster v1\0"


class FederationRoster(FrozenModel):
    """Who takes part, with which keys, under which plan."""

    plan: CheckedPlan
    """What all agree on."""
    platforms: Annotated[tuple[Registration, ...], Field(min_length=1)]
    """In order of name."""

    @field_validator("platforms")
    @classmethod
    def _in_order(cls, platforms: tuple[Registration, ...]) -> tuple[Registration, ...]:
        return tuple(sorted(platforms, key=lambda registration: registration.name))

    @property
    def fingerprint(self) -> str:
        """Sixteen groups of four hex digits, to be read aloud and compared."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=True)
        return normal_fingerprint(hashlib.sha256(_LABEL + text.encode()).hexdigest())

    @property
    def names(self) -> tuple[str, ...]:
        """Of the platforms."""
        return tuple(registration.name for registration in self.platforms)

    @property
    def keeper(self) -> str:
        """The platform that makes the federation secret and seals it for the others: the first by name."""
        return self.platforms[0].name

    def of(self, name: str) -> Registration | None:
        """A platform's entry."""
        return next((registration for registration in self.platforms if registration.name == name), None)

    def check(self) -> None:
        """Raises: ConfigError when an entry is altered, of another federation, or shares a name or a key with another."""
        for registration in self.platforms:
            registration.check()
            if registration.federation != self.plan.federation:
                raise ConfigError(
                    f"roster: {registration.name!r} has registered for federation {registration.federation!r}, and the roster "
                    f"is of {self.plan.federation!r}"
                )
        for what in ("name", "identity", "sealing_key", "node_key"):
            value, count = Counter(getattr(registration, what) for registration in self.platforms).most_common(1)[0]
            if count > 1:
                named = repr(value) if what == "name" else "one key"
                raise ConfigError(f"roster: {what}: {named} is there {count} times; each platform has one of its own")
        wanted = self.plan.platforms
        if wanted is not None and len(self.platforms) != wanted:
            raise ConfigError(
                f"roster: has {len(self.platforms)} platforms and the plan {wanted}: wait for the other registrations, or "
                f"run crossfed-server plan set platforms={len(self.platforms)} min_platforms={len(self.platforms)}"
            )

    def compare(self, heard: str) -> None:
        """Raises: ConfigError when the fingerprint that was read out is another."""
        if normal_fingerprint(heard) != self.fingerprint:
            raise ConfigError(
                "the fingerprint that you heard is not the one of this file: somebody may have given the platforms different "
                "rosters. Trust none of them; ask for the file by another way, and compare again"
            )

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_atomically(path, self.model_dump_json(indent=1).encode(), mode=0o644)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check.

        Raises:
            ConfigError: not a roster, or one that does not hold together.
        """
        roster = load_yaml_model(path, cls)
        roster.check()
        return roster


def replace_plan(text: str, section: str) -> str:
    """A configuration file's text with another ``plan:``; everything else, comments included, stays.

    Args:
        text: YAML with block keys at its left.
        section: begins with ``plan:`` and ends with a line end.

    Raises:
        ConfigError: there is no such section, or it is written in one line.
    """
    lines = text.splitlines(keepends=True)
    begin = next((place for place, line in enumerate(lines) if line.rstrip() == "plan:"), None)
    if begin is None:
        raise ConfigError("the configuration has no section plan: of lines of its own; write the plan into it by hand")
    end = begin + 1
    while end < len(lines) and (lines[end].startswith((" ", "\t")) or not lines[end].strip()):
        end += 1
    return "".join(lines[:begin]) + section + "".join(lines[end:])


def plan_differences(mine: FederationPlan, theirs: FederationPlan) -> list[str]:
    """Return what a platform agrees to anew, a line each: key, old value, new value."""
    old, new = mine.model_dump(mode="json"), theirs.model_dump(mode="json")
    return [f"plan.{name}: {_value(old, name)} becomes {_value(new, name)}" for name in mine.differences(theirs)]


def _value(content: object, name: str) -> str:
    for part in name.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return json.dumps(content)


def is_roster(path: Path) -> bool:
    """Whether a file looks like a roster, and not like one platform's registration."""
    try:
        return b'"platforms"' in path.read_bytes()
    except OSError:
        return False
