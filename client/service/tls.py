"""The TLS files that a recommender needs at an address that others can reach: an authority of the platform's own.

It has nothing to do with the aggregator's: the platform's applications trust it, and nobody else has to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.deploy.tls import CertifiedKey, certificate_days, issue_server_certificate, make_authority, read_certificate
from common.errors import ConfigError

_LOOPBACK = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class RecommenderTls:
    """The files, in a folder of the platform's.

    Attributes:
        folder: ``tls/`` beside the configuration.
    """

    folder: Path

    @property
    def authority(self) -> Path:
        """Return what applications trust; its private key lies beside it."""
        return self.folder / "applications-ca.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "recommender.pem"

    @property
    def key(self) -> Path:
        return self.folder / "recommender.key"

    def section(self, host: str) -> str:
        """The ``recommender`` section of ``platform.yaml`` that uses them; ports and token stay as they are."""
        return "\n".join(
            (
                "recommender:",
                f'  host: "{host}"',
                f"  certificate: {self.folder.name}/{self.certificate.name}",
                f"  key: {self.folder.name}/{self.key.name}",
            )
        )


def issue_recommender_tls(folder: Path, names: list[str], *, days: int = 397) -> RecommenderTls:
    """Make, or renew, the recommender's certificate; an authority that is there is kept, so that applications need nothing.

    Args:
        folder: made when it is not there.
        names: host names and addresses under which applications reach the recommender.
        days: that the certificate is good for.

    Raises:
        ConfigError: no name, or the authority is damaged or has expired.
        StoreError: a file cannot be written.
    """
    if not names:
        raise ConfigError("--name: give each host name and address under which applications reach the recommender")
    made = RecommenderTls(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority_key = made.authority.with_suffix(".key")
    if not made.authority.exists() and not authority_key.exists():
        make_authority("recommender").write(made.authority, authority_key)
    read_certificate(made.authority)
    if certificate_days(made.authority) <= 0:
        raise ConfigError(
            f"{made.authority}: has expired; move it and its key away, make anew, and hand the new one out"
        )
    try:
        authority = CertifiedKey(made.authority.read_bytes(), authority_key.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{authority_key}: cannot be read ({error.strerror}); restore it, or move both away"
        ) from None
    issued = issue_server_certificate(authority, list(dict.fromkeys((*names, *_LOOPBACK))), days=days)
    issued.write(made.certificate, made.key)
    return made
