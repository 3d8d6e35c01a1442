"""Signing a federation roster: find the own keys in it, compare its fingerprint, then trust it as a whole.

What one command does in place of one for each other platform: pins, plan, and the federation secret, which the roster's first
platform makes and seals for each of the others once all have compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from client.keys import KeyFolder, SealedSecret, registration_of
from common.agreement.federation_roster import FederationRoster, plan_differences, replace_plan
from common.config.base import FrozenModel
from common.config.loader import load_yaml_model, parse_text
from common.deploy.provisioning import Pins, Registration, plan_section
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError
from common.files import write_atomically

ROSTER_FILE = "federation.roster"
"""Beside ``platform.yaml``: what was signed last."""


class SealedSecrets(FrozenModel):
    """The federation secret, sealed for each platform of a roster but the one that made it."""

    roster: str
    """Fingerprint of the roster."""
    sealed: tuple[SealedSecret, ...]
    """One for each receiver."""


@dataclass(frozen=True)
class RosterView:
    """A roster that holds this platform's own keys, before its fingerprint is compared.

    Attributes:
        roster: as received.
        config: the platform's configuration.
        path: of it.
        others: names of the other platforms, all of whose operators must be heard.
        changes: of the plan, a line each.
    """

    roster: FederationRoster
    config: PlatformConfig
    path: Path
    others: tuple[str, ...]
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Signed:
    """Holds what signing did.

    Attributes:
        pinned: the other platforms, all of them pinned now.
        unpinned: those that were pinned and are not in the roster.
        secrets: the file to send to the others; None where another platform makes it.
        has_secret: whether this platform has the federation secret now.
    """

    pinned: tuple[str, ...]
    unpinned: tuple[str, ...]
    secrets: Path | None
    has_secret: bool


def look_at_roster(roster_file: Path, config_path: Path) -> RosterView:
    """Read a roster and find the own keys in it, as this platform made them.

    Raises:
        ConfigError: they are not there, or are others: somebody has exchanged them, and the fingerprint must not be read out.
    """
    roster, config = FederationRoster.read(roster_file), load_yaml_model(config_path, PlatformConfig)
    if roster.plan.federation != config.plan.federation:
        raise ConfigError(f"{roster_file}: is of federation {roster.plan.federation!r}, not {config.plan.federation!r}")
    own = registration_of(config.name, config.plan.federation, KeyFolder(config.keys), config.supernode.private_key)
    listed = roster.of(config.name)
    if listed is None:
        raise ConfigError(
            f"{roster_file}: {config.name!r} is not in it; send your registration to the aggregator again"
        )
    if listed != own:
        raise ConfigError(
            f"{roster_file}: what it says are the keys of {config.name!r} are not this platform's. If you have not made new "
            "ones since you sent your registration, SOMEBODY HAS EXCHANGED THEM: tell the other platforms, and sign nothing"
        )
    others = tuple(name for name in roster.names if name != config.name)
    return RosterView(roster, config, config_path, others, tuple(plan_differences(config.plan, roster.plan)))


def sign_roster(view: RosterView, heard: str, *, secrets: Path | None = None, output: Path | None = None) -> Signed:
    """Trust a roster whose fingerprint is the one that was heard from all other platforms.

    Args:
        view: of :func:`look_at_roster`.
        heard: the fingerprint, by a way that the aggregator does not control.
        secrets: the sealed secrets, from the roster's keeper.
        output: where the keeper puts them; ``FEDERATION.secrets`` beside ``platform.yaml`` unless given.

    Raises:
        ConfigError: the fingerprint is another, a pinned key has changed, or the secret cannot be opened; nothing is trusted.
    """
    roster, config = view.roster, view.config
    roster.compare(heard)
    text = _config_with(view)
    keys, own = KeyFolder(config.keys), roster.of(config.name)
    assert own is not None
    others = {name: registration for name in view.others if (registration := roster.of(name)) is not None}
    unpinned = Pins(config.pins).replace(others)
    if text is not None:
        write_atomically(view.path, text.encode(), mode=view.path.stat().st_mode & 0o777)
    made = None
    if config.name == roster.keeper:
        made = output or view.path.parent / f"{roster.plan.federation}.secrets"
        _seal_for(others.values(), keys, own, roster, made)
    elif secrets is not None:
        _open_from(secrets, keys, own, roster, others)
    roster.write(view.path.parent / ROSTER_FILE)
    return Signed(view.others, unpinned, made, keys.secret_path.exists())


def signed_roster(config_path: Path) -> FederationRoster | None:
    """Return what this platform has signed last; None where it has signed none, or that file is damaged."""
    path = config_path.parent / ROSTER_FILE
    try:
        return FederationRoster.read(path) if path.exists() else None
    except ConfigError:
        return None


def _config_with(view: RosterView) -> str | None:
    """The configuration's text under the roster's plan, checked whole; None where the plan is the same."""
    if not view.changes:
        return None
    text = replace_plan(view.path.read_text(encoding="utf-8"), plan_section(view.roster.plan))
    found = parse_text(text, PlatformConfig, view.path)
    if found.plan != view.roster.plan:
        raise ConfigError(
            f"{view.path}: the plan could not be written into it; write it by hand: {', '.join(view.changes)}"
        )
    return text


def _seal_for(
    others: Iterable[Registration], keys: KeyFolder, own: Registration, roster: FederationRoster, path: Path
) -> None:
    """Make the federation secret, unless it is there, and seal it for each of the others."""
    if not keys.secret_path.exists():
        keys.new_secret()
    sealed = tuple(SealedSecret.model_validate_json(keys.seal_secret(own, other)) for other in others)
    write_atomically(path, SealedSecrets(roster=roster.fingerprint, sealed=sealed).model_dump_json(indent=1).encode())


def _open_from(
    path: Path, keys: KeyFolder, own: Registration, roster: FederationRoster, others: Mapping[str, Registration]
) -> None:
    """Take the federation secret over from the roster's keeper."""
    found = load_yaml_model(path, SealedSecrets)
    if found.roster != roster.fingerprint:
        raise ConfigError(f"{path}: was made for another roster; ask {roster.keeper} for the newest")
    mine = [one for one in found.sealed if one.receiver == own.name]
    if len(mine) != 1 or mine[0].sender != roster.keeper:
        raise ConfigError(
            f"{path}: holds nothing from {roster.keeper!r} for {own.name!r}; ask {roster.keeper} for it again"
        )
    keys.open_sealed(mine[0], str(path), own, others)
