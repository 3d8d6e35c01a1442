"""Serves both doctors: a finding, the checks that any role needs, and how findings are printed.

Nothing heavy is imported into the doctor's own process: TensorFlow and PyTorch are looked at from outside or in a process
of their own, since a broken installation of one must not take the doctor down with it.
"""

from __future__ import annotations

import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any, Literal

from common.config.federation import FederationPlan
from common.contributions.run_plan import spends_on_depth
from common.deploy.console import PlainConsole, say_json, styled
from common.deploy.roles import Port
from common.deploy.tls import days_left, is_issued_by, names_of, read_certificate
from common.errors import ConfigError
from common.visible import visible

Level = Literal["ok", "note", "wrong"]
_STYLE = {"ok": "green", "note": "yellow", "wrong": "red"}
_MIN_FREE_BYTES = 1 << 30
_RENEW_DAYS = 30
# Flower refuses a signature from more than 5 s in its future, or older than 5 minutes; some is left for the way.
_MAX_AHEAD_SECONDS, _MAX_BEHIND_SECONDS = 4.0, 240.0
_PROBE_SECONDS = 120


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ok; note: works, and should be known; wrong: must be mended.
        what: that was looked at.
        detail: what was found, and the mend.
    """

    level: Level
    what: str
    detail: str


def print_findings(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print; returns the exit status: 1 if something is wrong."""
    found = list(findings)
    if as_json:
        say_json([asdict(finding) for finding in found])
    else:
        console = PlainConsole(soft_wrap=True)
        for finding in found:
            level = styled(f"{finding.level:5}", _STYLE[finding.level])
            detail = visible(finding.detail, lines=True).replace("\n", "\n      ")
            console.print(level, f"{visible(finding.what)}: {detail}")
    return int(any(finding.level == "wrong" for finding in found))


def check_python(packages: Sequence[str]) -> list[Finding]:
    """Python's version and that of each package."""
    current = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info < (3, 13)
    findings = [Finding("ok" if fits else "wrong", "Python", current if fits else f"{current}; needs 3.11 or 3.12")]
    for package in packages:
        try:
            findings.append(Finding("ok", package, version(package)))
        except PackageNotFoundError:
            findings.append(Finding("wrong", package, "not installed; install crossfed with the extra of this role"))
    return findings


def check_cudnn(names: Iterable[str] | None = None) -> Finding:
    """Whether two wheels of cuDNN have written the same files: the last one installed wins, silently.

    Args:
        names: of the installed distributions; this installation's unless given.
    """
    installed = {dist.metadata["Name"].lower() for dist in distributions()} if names is None else set(names)
    wheels = sorted(name for name in installed if name.startswith("nvidia-cudnn-cu"))
    if len(wheels) > 1:
        return Finding(
            "wrong",
            "cuDNN",
            f"{' and '.join(wheels)} have overwritten each other's files; install PyTorch's CPU build (it is needed for "
            "accounting only), remove both wheels and install tensorflow[and-cuda] again",
        )
    return Finding("ok", "cuDNN", wheels[0] if wheels else "none; the CPU is used")


def check_devices() -> Finding:
    """Return what TensorFlow sees, asked in a process of its own."""
    code = "import tensorflow as tf; print([d.name for d in tf.config.list_physical_devices()])"
    try:
        done = subprocess.run(  # noqa: S603 -- this Python and a constant
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding("wrong", "devices", f"TensorFlow did not start within {_PROBE_SECONDS} s")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return Finding("wrong", "devices", f"TensorFlow cannot be imported: {lines[-1]}")
    return Finding("ok", "devices", done.stdout.strip().splitlines()[-1])


def check_certificate(path: Path, authority: Path | None = None, names: Sequence[str] = ()) -> Finding:
    """Its dates, its authority, and that it is for ``names``."""
    try:
        certificate = read_certificate(path)
        left = days_left(certificate)
        if left <= 0:
            return Finding("wrong", str(path), f"expired {-left:.0f} days ago; renew it")
        if authority is not None and not is_issued_by(certificate, read_certificate(authority)):
            return Finding("wrong", str(path), f"not issued by {authority}; platforms that trust that one refuse it")
    except ConfigError as error:
        return Finding("wrong", "certificate", str(error))
    missing = sorted(set(names) - set(names_of(certificate)))
    if missing:
        return Finding("wrong", str(path), f"not for {', '.join(missing)}; renew it with --name")
    return Finding("note" if left < _RENEW_DAYS else "ok", str(path), f"{left:.0f} days left")


def check_private(path: Path) -> Finding:
    """That a file is there and closed to other users."""
    if not path.exists():
        return Finding("wrong", str(path), "missing")
    if path.stat().st_mode & 0o077:
        return Finding("wrong", str(path), "open to other users of this machine; chmod 600 it")
    return Finding("ok", str(path), "private")


def check_database(path: Path, what: str) -> Finding:
    """That a SQLite database holds together; it may be in use."""
    if not path.exists():
        return Finding("ok", path.name, f"{what}: none yet")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)) as database:
            said = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        said = str(error)
    if said != "ok":
        return Finding("wrong", path.name, f"{what} at {path} is damaged ({said}); restore it, or move it away")
    return Finding("ok", path.name, f"{what}: sound")


def check_spending(plan: FederationPlan) -> Iterator[Finding]:
    """A note where ε is spent on a federated deep model; a federation that agreed on it before goes on with it."""
    if said := spends_on_depth(plan):
        yield Finding("note", "deep model", said)


def check_disk(folder: Path) -> Finding:
    """Free space where state is kept."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    enough = free >= _MIN_FREE_BYTES
    return Finding("ok" if enough else "wrong", f"disk of {folder}", f"{free / 1e9:.1f} GB free")


def check_port(host: str, port: Port, what: str) -> Finding:
    """That a port can be opened, or is open already because the role is running."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Finding("note", f"port {port}", f"{what}: in use ({error.strerror}); right if this role is running")
    return Finding("ok", f"port {port}", f"{what}: free")


@dataclass(frozen=True)
class Probe:
    """Holds what one request to the aggregator's fleet API showed.

    Attributes:
        findings: as the doctor prints them.
        clock_ahead: seconds by which this host's clock is ahead of the aggregator's; None where it did not answer.
        certificate_days: until its certificate expires; None as above.
    """

    findings: list[Finding]
    clock_ahead: float | None = None
    certificate_days: float | None = None


def check_aggregator(address: str, ca: Path) -> list[Finding]:
    """That the fleet API answers with a certificate that ``ca`` has issued, and that the clocks agree."""
    return probe_aggregator(address, ca).findings


def probe_aggregator(address: str, ca: Path) -> Probe:
    """Ask the fleet API one thing, the same for everybody.

    Node authentication signs the time: a clock that is ahead by seconds, or behind by minutes, is refused.
    """
    what = f"aggregator {address}"
    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=str(ca))
        connection = HTTPSConnection(host.strip("[]"), int(port), timeout=10, context=context)
        connection.request("POST", "/v1/fleet/pull-messages")
        certificate = connection.sock.getpeercert() if isinstance(connection.sock, ssl.SSLSocket) else None
        answer = connection.getresponse()
        date = answer.getheader("Date")
        connection.close()
    except ssl.SSLCertVerificationError as error:
        return Probe([Finding("wrong", what, f"its certificate is refused: {error.verify_message}")])
    except (OSError, HTTPException) as error:
        return Probe([Finding("wrong", what, f"cannot be reached: {error}")])
    findings = [Finding("ok", what, "answers")]
    if answer.status == HTTPStatus.NOT_FOUND:
        findings = [Finding("wrong", what, "answers, but has no fleet API there; check host and port")]
    ahead = _seconds_ahead(date)
    if ahead is not None:
        level: Level = "ok" if -_MAX_BEHIND_SECONDS <= ahead <= _MAX_AHEAD_SECONDS else "wrong"
        where = "ahead of" if ahead > 0 else "behind"
        findings.append(Finding(level, "clock", f"{abs(ahead):.0f} s {where} the aggregator's; NTP keeps both right"))
    return Probe(findings, ahead, _days_left(certificate))


def _seconds_ahead(date: str | None) -> float | None:
    """By how much this host's clock is ahead of an HTTP date; None where it is none."""
    try:
        return None if date is None else (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    except (ValueError, TypeError):
        return None


def _days_left(certificate: Mapping[str, Any] | None) -> float | None:
    if not certificate or "notAfter" not in certificate:
        return None
    return (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86400


def check_time_zone() -> Finding:
    """That the clock is plausible at all."""
    plausible = time.time() > datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    return Finding("ok" if plausible else "wrong", "date", datetime.now(UTC).isoformat(timespec="seconds"))
