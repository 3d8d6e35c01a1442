"""Setting an aggregator up: authority, certificate, secret, configuration; and invitations to platforms."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from common.config.deploy import AggregatorConfig
from common.config.federation import FederationPlan
from common.config.loader import load_yaml_model
from common.errors import ConfigError
from common.files import write_atomically
from common.provisioning import Invitation, plan_section
from common.tls import CertifiedKey, days_left, issue_server_certificate, make_authority, read_certificate

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
        ConfigError: there is an aggregator in this folder already.
    """
    made = AggregatorFolder(folder)
    if made.config.exists():
        raise ConfigError(
            f"{made.config}: there already; choose another folder, or renew what is in it (crossfed-server renew)"
        )
    (folder / "tls").mkdir(parents=True, exist_ok=True, mode=0o700)
    host, _, port = address.rpartition(":")
    authority = make_authority(plan.federation)
    authority.write(*made.authority)
    issue_server_certificate(authority, _certificate_names(host, names)).write(*made.server)
    write_atomically(folder / "tls" / "superexec.secret", os.urandom(32))
    content = {
        "address": address,
        "superlink_port": superlink_port,
        "proxy": {"port": int(port)} | ({"host": "127.0.0.1"} if host in _LOOPBACK else {}),
    }
    text = _NOTE + yaml.safe_dump(content, sort_keys=False, allow_unicode=True) + plan_section(plan)
    write_atomically(made.config, text.encode(), mode=0o640)
    load_yaml_model(made.config, AggregatorConfig)
    return made


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


def invite(config: AggregatorConfig, name: str, path: Path) -> Invitation:
    """Write a platform's invitation to ``path``.

    Raises:
        ConfigError: the name cannot be one, or the certificate is missing.
    """
    read_certificate(config.tls.ca)
    invitation = Invitation(name=name, aggregator=config.address, ca=config.tls.ca.read_text(), plan=config.plan)
    invitation.write(path)
    return invitation


def _certificate_names(host: str, names: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys((host.strip("[]"), *names, *_LOOPBACK)))
