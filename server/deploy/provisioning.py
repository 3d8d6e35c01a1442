"""Setting an aggregator up: authority, certificate, secret, configuration; and invitations to platforms."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from common.config.federation import FederationPlan
from common.config.loader import load_yaml_model, parse_model
from common.contributions.run_plan import spends_on_depth
from common.deploy.provisioning import Invitation, plan_section
from common.deploy.roles import AggregatorConfig
from common.deploy.tls import CertifiedKey, days_left, issue_server_certificate, make_authority, read_certificate
from common.errors import ConfigError
from common.files import make_folder, write_atomically

_LOOPBACK = ("localhost", "127.0.0.1")
_NOTE = (
    "# The aggregator of a federation. The plan is what every platform agrees to; docs/deploy.md explains every key.\n"
)


@dataclass(frozen=True)
class AggregatorFolder:
    """The files of an aggregator, as ``crossfed-server init`` lays them out."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "federation.yaml"

    @property
    def authority(self) -> tuple[Path, Path]:
        """Certificate and private key. The key signs server certificates and may be kept elsewhere."""
        return self.folder / "tls" / "ca.pem", self.folder / "tls" / "ca.key"

    @property
    def server(self) -> tuple[Path, Path]:
        """Certificate and private key."""
        return self.folder / "tls" / "server.pem", self.folder / "tls" / "server.key"


def initialise(
    folder: Path, plan: FederationPlan, address: str, *, superlink_port: int = 9091, names: tuple[str, ...] = ()
) -> AggregatorFolder:
    """Make an aggregator's folder.

    Args:
        folder: made when it is not there.
        plan: what platforms will be asked to agree to.
        address: host and port at which platforms reach the fleet API.
        superlink_port: of Flower's own port, on loopback.
        names: further host names of the aggregator, for its certificate.

    Raises:
        ConfigError: there is an aggregator in this folder already, or a setting cannot be; nothing is written.
        StoreError: the folder cannot be made.
    """
    made = AggregatorFolder(folder)
    if made.config.exists():
        raise ConfigError(
            f"{made.config}: there already; choose another folder, or renew what is in it (crossfed-server renew)"
        )
    content = _checked_settings(plan, address, superlink_port)
    host = address.rpartition(":")[0]
    authority = make_authority(plan.federation)
    server = issue_server_certificate(authority, _certificate_names(host, names))
    make_folder(folder / "tls", mode=0o700)
    authority.write(*made.authority)
    server.write(*made.server)
    write_atomically(folder / "tls" / "superexec.secret", os.urandom(32))
    text = _NOTE + yaml.safe_dump(content, sort_keys=False, allow_unicode=True) + plan_section(plan)
    write_atomically(made.config, text.encode(), mode=0o640)
    invite_all(load_yaml_model(made.config, AggregatorConfig), folder)
    return made


def _checked_settings(plan: FederationPlan, address: str, superlink_port: int) -> dict[str, object]:
    """The settings of a new aggregator beside its plan, refused before anything is written."""
    if refused := spends_on_depth(plan):
        raise ConfigError(refused)
    content: dict[str, object] = {"address": address, "superlink_port": superlink_port}
    whole = content | {"plan": plan.model_dump(mode="json")}
    parse_model(whole, AggregatorConfig, "init")
    host, _, port = address.rpartition(":")
    content["proxy"] = {"port": int(port)} | ({"host": "127.0.0.1"} if host in _LOOPBACK else {})
    parse_model(whole | content, AggregatorConfig, "init")
    return content


def renew_certificate(config_path: Path, names: tuple[str, ...] = ()) -> float:
    """A new server certificate from the same authority; returns the days that it is good for. Restart to use it.

    Raises:
        ConfigError: the authority's key is not there, or the authority itself has expired.
    """
    config = load_yaml_model(config_path, AggregatorConfig)
    authority_key = config.tls.ca.with_suffix(".key")
    if days_left(read_certificate(config.tls.ca)) <= 0:
        raise ConfigError(
            f"{config.tls.ca}: the authority has expired; docs/deploy.md, Rotation, says how to replace it"
        )
    try:
        authority = CertifiedKey(config.tls.ca.read_bytes(), authority_key.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{authority_key}: cannot be read ({error.strerror}); bring the authority's key here first"
        ) from None
    host = config.address.rpartition(":")[0]
    issue_server_certificate(authority, _certificate_names(host, names)).write(config.tls.certificate, config.tls.key)
    return days_left(read_certificate(config.tls.certificate))


def invite_all(config: AggregatorConfig, folder: Path) -> Path:
    """Write the invitation for all platforms, ``FEDERATION.invitation``; returns its path."""
    path = folder / f"{config.plan.federation}.invitation"
    invite(config, "", path)
    return path


def invite(config: AggregatorConfig, name: str, path: Path) -> Invitation:
    """Write a platform's invitation to ``path``; without a name it is for all, and each says its own.

    Raises:
        ConfigError: the name cannot be one, or the certificate is missing.
    """
    read_certificate(config.tls.ca)
    content = {
        "name": name,
        "aggregator": config.address,
        "ca": config.tls.ca.read_text(),
        "plan": config.plan.model_dump(mode="json"),
    }
    invitation = parse_model(content, Invitation, f"invite {name}")
    invitation.write(path)
    return invitation


def _certificate_names(host: str, names: tuple[str, ...]) -> list[str]:
    if not all(name.strip() for name in names):
        raise ConfigError("--name: is empty; give a host name or an address")
    return list(dict.fromkeys((host.strip("[]"), *names, *_LOOPBACK)))
