"""A small certificate authority: enough to give one federation's connections TLS, with names, dates and rotation.

It protects transport and nothing else. What a platform trusts about other platforms are identity keys compared out of
band (:mod:`common.privacy.secure_sum.identity`); whoever runs this authority cannot forge those.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import ConfigError
from common.files import write_atomically

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397
# Clocks of different hosts are apart; a certificate must not be refused as "not yet valid" on the day it is made.
_CLOCK_SLACK = timedelta(hours=1)


@dataclass(frozen=True)
class CertifiedKey:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes

    def write(self, certificate: Path, key: Path) -> None:
        """Write both, the key readable by its owner only.

        Raises:
            StoreError: a folder is missing or not writable.
        """
        write_atomically(key, self.key, mode=0o600)
        write_atomically(certificate, self.certificate, mode=0o644)


def make_authority(name: str, *, days: int = AUTHORITY_DAYS) -> CertifiedKey:
    """A self-signed authority on P-384."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _subject(f"{name} authority")
    certificate = (
        _builder(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return _certified(certificate, key)


def issue_server_certificate(authority: CertifiedKey, names: Sequence[str], *, days: int = SERVER_DAYS) -> CertifiedKey:
    """A server certificate for host names and IP addresses, signed by ``authority``.

    Args:
        authority: as :func:`make_authority` makes it.
        names: all names under which clients connect; the first is the common name.
        days: from now until it expires.
    """
    issuer = load_certificate(authority.certificate, "authority")
    signer = _private_key(authority.key)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            "the authority's key is damaged, or not an elliptic-curve key in PEM; restore it from your backup"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_subject(names[0]), issuer.subject, key.public_key(), days)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
        .sign(signer, hashes.SHA384())
    )
    return _certified(certificate, key)


def _private_key(pem: bytes) -> object:
    """The key, or None where it is none."""
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def load_certificate(pem: bytes, place: str) -> x509.Certificate:
    """Raises: ConfigError when ``pem`` is not a certificate; the message names ``place``."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise ConfigError(f"{place}: not a certificate in PEM format") from None


def read_certificate(path: Path) -> x509.Certificate:
    """Raises: ConfigError when the file is not there or not a certificate."""
    try:
        return load_certificate(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: the certificate cannot be read ({error.strerror})") from None


def days_left(certificate: x509.Certificate, now: datetime | None = None) -> float:
    """Days until it expires; negative once it has."""
    return (certificate.not_valid_after_utc - (now or datetime.now(UTC))) / timedelta(days=1)


def certificate_days(path: Path) -> float:
    """Days until the certificate in ``path`` expires; one that cannot be read has none left."""
    try:
        return days_left(read_certificate(path))
    except ConfigError:
        return 0.0


def names_of(certificate: x509.Certificate) -> list[str]:
    """Host names and addresses that the certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether ``authority`` signed ``certificate``."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + timedelta(days=days)) - _CLOCK_SLACK)
        .not_valid_after(now + timedelta(days=days))
    )


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return x509.DNSName(name)


def _certified(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> CertifiedKey:
    return CertifiedKey(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
