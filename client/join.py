"""Joining a federation: check an invitation, make this platform's keys, write a configuration and a registration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from client.keys import KeyFolder, make_keys, new_token, registration_of
from common.errors import ConfigError
from common.files import write_atomically
from common.provisioning import Invitation, Registration, plan_section
from common.tls import days_left, load_certificate

_CONFIG_NOTE = """\
# Configuration of this platform. Everything that protects its users is decided here, and nowhere else: the agent refuses
# a run of any other plan, and takes no parameter of privacy from a message. docs/deploy.md explains every key.
"""


@dataclass(frozen=True)
class JoinedPlatform:
    """What joining made."""

    config: Path
    registration_file: Path
    registration: Registration


def join_federation(
    invitation_file: Path,
    folder: Path,
    *,
    interactions: Path,
    items: Path | None = None,
    namespace: str | None = None,
    ports: tuple[int, int] = (9094, 50061),
) -> JoinedPlatform:
    """Make a platform's folder from an invitation; what is there already is kept.

    Args:
        invitation_file: from the aggregator.
        folder: made when it is not there; becomes private.
        interactions: the platform's interactions file.
        items: its items file; user-level privacy needs one.
        namespace: of the items' public ids.
        ports: of the SuperNode's runtime API and of the recommender, on loopback.

    Raises:
        ConfigError: not an invitation, its certificate has expired, or the folder is another platform's.
    """
    invitation = Invitation.read(invitation_file)
    _check_authority(invitation, invitation_file)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    config_path = folder / "platform.yaml"
    keys, courier = KeyFolder(folder / "keys"), folder / "courier"
    make_keys(keys, courier / "node.key")
    write_atomically(courier / "ca.pem", invitation.ca.encode(), mode=0o644)
    if not (keys.folder / "api.token").exists():
        write_atomically(keys.folder / "api.token", new_token())
    registration = registration_of(invitation.name, invitation.plan.federation, keys, courier / "node.key")
    registration_file = folder / f"{invitation.name}.registration.json"
    registration.write(registration_file)
    if not config_path.exists():
        data = _data_section(interactions, items, namespace) | {"feedback": invitation.plan.model.feedback}
        write_atomically(config_path, _config_text(invitation, data, ports).encode())
    return JoinedPlatform(config_path, registration_file, registration)


def _check_authority(invitation: Invitation, path: Path) -> None:
    left = days_left(load_certificate(invitation.ca.encode(), f"{path}: ca"))
    if left <= 0:
        raise ConfigError(f"{path}: the authority's certificate expired {-left:.0f} days ago; ask for a new invitation")


def _data_section(interactions: Path, items: Path | None, namespace: str | None) -> dict[str, object]:
    section: dict[str, object] = {"interactions": {"path": str(interactions.resolve())}}
    if items is not None:
        section["items"] = {"path": str(items.resolve())} | ({} if namespace is None else {"namespace": namespace})
    return section


def _config_text(invitation: Invitation, data: dict[str, object], ports: tuple[int, int]) -> str:
    content = {
        "name": invitation.name,
        "aggregator": invitation.aggregator,
        "data": data,
        "supernode": {"port": ports[0]},
        "recommender": {"port": ports[1]},
    }
    return _CONFIG_NOTE + yaml.safe_dump(content, sort_keys=False, allow_unicode=True) + plan_section(invitation.plan)
