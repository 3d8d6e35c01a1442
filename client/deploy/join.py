"""Joining a federation: check an invitation, make this platform's keys, write a configuration and a registration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from client.keys import KeyFolder, make_keys, new_token, registration_of
from common.config.loader import load_yaml_model
from common.deploy.provisioning import Invitation, Registration, plan_section
from common.deploy.roles import PlatformConfig
from common.deploy.tls import days_left, load_certificate
from common.errors import ConfigError
from common.files import make_folder, write_atomically

SUPERNODE_PORT, RECOMMENDER_PORT = 9094, 50061

_CONFIG_NOTE = """\
# Configuration of this platform. Everything that protects its users is decided here, and nowhere else: the agent refuses
# a run of any other plan, and takes no parameter of privacy from a message. docs/configuration.md explains every key.
"""


@dataclass(frozen=True)
class JoinedPlatform:
    """Holds what joining made.

    Attributes:
        config: ``platform.yaml``.
        registration_file: to send to the aggregator and the other platforms.
        registration: what is in it.
        kept: whether ``platform.yaml`` was there before; it is then left as it is.
        notes: one line for each option or part of the invitation that had no effect, and for what was replaced.
    """

    config: Path
    registration_file: Path
    registration: Registration
    kept: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Said:
    """Holds what the operator said; None is not said."""

    interactions: Path | None
    items: Path | None
    namespace: str | None
    supernode_port: int | None
    recommender_port: int | None


def join_federation(
    invitation_file: Path,
    folder: Path,
    *,
    name: str | None = None,
    interactions: Path | None = None,
    items: Path | None = None,
    namespace: str | None = None,
    ports: tuple[int | None, int | None] = (None, None),
) -> JoinedPlatform:
    """Make a platform's folder from an invitation; what is there already is kept, and what had no effect is named.

    Args:
        invitation_file: from the aggregator.
        folder: made when it is not there; becomes private.
        name: the platform's, where the invitation is for all; None: as the invitation says.
        interactions: the platform's interactions file; needed where there is no configuration yet.
        items: its items file; user-level privacy needs one.
        namespace: of the items' public ids.
        ports: of the SuperNode's runtime API and of the recommender, on loopback; 9094 and 50061 unless given.

    Raises:
        ConfigError: not an invitation, its certificate has expired, the folder is another platform's or of another
            federation, its configuration cannot be read, or there is none and ``interactions`` is not given.
    """
    said = _Said(interactions, items, namespace, *ports)
    invitation = Invitation.read(invitation_file).named(name)
    _check_authority(invitation, invitation_file)
    config_path = folder / "platform.yaml"
    there = load_yaml_model(config_path, PlatformConfig) if config_path.exists() else None
    if there is not None:
        _check_same(there, invitation, config_path)
    elif interactions is None:
        raise ConfigError(f"--interactions: needed, as {config_path} is not there yet")
    make_folder(folder, mode=0o700)
    keys, courier = KeyFolder(folder / "keys"), folder / "courier"
    make_keys(keys, courier / "node.key")
    notes = _keep_authority(courier / "ca.pem", invitation)
    if not (keys.folder / "api.token").exists():
        write_atomically(keys.folder / "api.token", new_token())
    registration = registration_of(invitation.name, invitation.plan.federation, keys, courier / "node.key")
    registration_file = folder / f"{invitation.name}.registration.json"
    registration.write(registration_file)
    if there is None:
        write_atomically(config_path, _config_text(invitation, said).encode())
    else:
        notes += _without_effect(there, invitation, said)
    return JoinedPlatform(config_path, registration_file, registration, kept=there is not None, notes=tuple(notes))


def _check_same(there: PlatformConfig, invitation: Invitation, path: Path) -> None:
    """Raises: ConfigError when a folder is of another platform or federation: its keys must not serve two."""
    for what, mine, invited in (
        ("platform", there.name, invitation.name),
        ("federation", there.plan.federation, invitation.plan.federation),
    ):
        if mine != invited:
            raise ConfigError(
                f"{path}: is of {what} {mine!r}, and the invitation is for {invited!r}; join in another folder, so that each "
                "has keys of its own"
            )


def _keep_authority(path: Path, invitation: Invitation) -> list[str]:
    """Write the authority's certificate where it is not in the file yet; a file with further ones stays as it is."""
    old = path.read_text() if path.exists() else ""
    if invitation.ca.strip() in old:
        return []
    write_atomically(path, invitation.ca.encode(), mode=0o644)
    return [f"{path}: had another authority's certificate; it is now that of the invitation"] if old.strip() else []


def _without_effect(there: PlatformConfig, invitation: Invitation, said: _Said) -> list[str]:
    """A line for each thing that was said and that the kept configuration has otherwise."""
    items = there.data.items
    pairs = (
        ("--interactions", said.interactions, "data.interactions.path", there.data.interactions.path),
        ("--items", said.items, "data.items.path", items.path),
        ("--namespace", said.namespace, "data.items.namespace", items.namespace),
        ("--supernode-port", said.supernode_port, "supernode.port", there.supernode.port),
        ("--recommender-port", said.recommender_port, "recommender.port", there.recommender.port),
        ("the invitation's aggregator", invitation.aggregator, "aggregator", there.aggregator),
    )
    notes = [
        f"{option} {given} had no effect: {key} is {'not set' if kept is None else kept}; change it there"
        for option, given, key, kept in pairs
        if given is not None and _resolved(given) != _resolved(kept)
    ]
    if differing := there.plan.differences(invitation.plan):
        notes.append(
            f"the invitation's plan had no effect: {', '.join(f'plan.{name}' for name in differing)} differ; every party needs "
            "the same plan, so change it there, or move the file away and join again"
        )
    return notes


def _resolved(value: object) -> object:
    return value.resolve() if isinstance(value, Path) else value


def _check_authority(invitation: Invitation, path: Path) -> None:
    left = days_left(load_certificate(invitation.ca.encode(), f"{path}: ca"))
    if left <= 0:
        raise ConfigError(f"{path}: the authority's certificate expired {-left:.0f} days ago; ask for a new invitation")


def _data_section(said: _Said) -> dict[str, object]:
    assert said.interactions is not None
    section: dict[str, object] = {"interactions": {"path": str(said.interactions.resolve())}}
    if said.items is not None:
        named = {} if said.namespace is None else {"namespace": said.namespace}
        section["items"] = {"path": str(said.items.resolve())} | named
    return section


def _config_text(invitation: Invitation, said: _Said) -> str:
    content = {
        "name": invitation.name,
        "aggregator": invitation.aggregator,
        "data": _data_section(said) | {"feedback": invitation.plan.model.feedback},
        "supernode": {"port": said.supernode_port or SUPERNODE_PORT},
        "recommender": {"port": said.recommender_port or RECOMMENDER_PORT},
    }
    return _CONFIG_NOTE + yaml.safe_dump(content, sort_keys=False, allow_unicode=True) + plan_section(invitation.plan)
