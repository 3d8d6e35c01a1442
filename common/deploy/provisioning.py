"""The two files that set a federation up: the aggregator's invitation, and a platform's registration.

An invitation holds nothing secret: where the aggregator is, the certificate of its authority, and the plan to agree on. A
registration holds a platform's public keys, signed with its identity key. Aggregator and platforms compare the identity's
fingerprint out of band (read it aloud); after that the signature vouches for the other keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from pydantic import Field, ValidationError

from common.config.base import FrozenModel
from common.config.federation import AUTO, FederationPlan
from common.config.loader import load_yaml_model, parse_model
from common.contributions.run_plan import CheckedPlan
from common.deploy.roles import Address, PlatformName
from common.errors import ConfigError
from common.files import write_atomically
from common.privacy.lifetime import budget_for, budget_policy, runs_paid
from common.privacy.secure_sum.identity import PlatformIdentity, fingerprint, signed_by

_Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_PROMISE = """\
  # What users are promised: who sees all that leaves their platform in a run learns hardly more of any one of them than
  # if that user's whole history were not there, within epsilon, and delta (1/(10 * user_bound) unless given). A smaller
  # epsilon protects more and costs quality. All runs of a platform together spend no more than budget, which is the
  # epsilon of one run unless given.
"""
_NO_PROMISE = """\
  # NOT PRIVATE: contributions leave exact, and users are promised nothing. mode: user with epsilon: 3.0 protects them.
"""


class Invitation(FrozenModel):
    """Holds what ``crossfed-server init`` hands to all platforms, or ``crossfed-server invite`` to one."""

    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = ""
    """The platform's; empty where each says its own when it joins."""
    aggregator: Address
    ca: Annotated[str, Field(pattern=r"^-----BEGIN CERTIFICATE-----")]
    plan: CheckedPlan

    def write(self, path: Path) -> None:
        """Write it as JSON, which is YAML, too."""
        write_atomically(path, self.model_dump_json(indent=1).encode(), mode=0o644)

    def named(self, name: str | None) -> Self:
        """For a platform of that name.

        Raises:
            ConfigError: the invitation is for another, or nobody says a name that can be one.
        """
        if self.name and name not in (None, self.name):
            raise ConfigError(f"--name {name}: the invitation is for {self.name!r}")
        if not (self.name or name):
            raise ConfigError("--name: the invitation is for all platforms; say which you are")
        return parse_model(self.model_dump(mode="json") | {"name": self.name or name}, type(self), "--name")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises: ConfigError when it is not an invitation."""
        return load_yaml_model(path, cls)


class Registration(FrozenModel):
    """A platform's public keys, signed with the first of them."""

    name: PlatformName
    federation: str
    identity: _Key
    """Ed25519: signs this file, the roster of a secure sum, and sealed secrets."""
    sealing_key: _Key
    """X25519: what other platforms encrypt the federation secret to."""
    node_key: Annotated[str, Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/=]+( .*)?$", max_length=400)]
    """P-384 in OpenSSH form: authenticates the SuperNode."""
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]

    @classmethod
    def make(
        cls, name: str, federation: str, identity: PlatformIdentity, *, sealing_key: bytes, node_key: str
    ) -> Registration:
        """Sign the public keys of a platform."""
        fields = {
            "name": name,
            "federation": federation,
            "identity": identity.public.hex(),
            "sealing_key": sealing_key.hex(),
            "node_key": node_key.strip(),
        }
        return cls(**fields, signature=identity.sign(_signed_bytes(fields)).hex())

    @property
    def fingerprint(self) -> str:
        """Of the identity key: ten groups of four hex digits."""
        return fingerprint(bytes.fromhex(self.identity))

    def check(self) -> None:
        """Raises: ConfigError when the signature or the node key is wrong: altered on the way, or cut short."""
        fields = self.model_dump(exclude={"signature"})
        if not signed_by(bytes.fromhex(self.identity), bytes.fromhex(self.signature), _signed_bytes(fields)):
            raise ConfigError(f"registration of {self.name!r}: its signature does not fit; ask for the file again")
        try:
            key = load_ssh_public_key(self.node_key.encode())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            raise ConfigError(f"registration of {self.name!r}: node_key is not a P-384 key in OpenSSH form")

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_atomically(path, self.model_dump_json(indent=1).encode(), mode=0o644)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check.

        Raises:
            ConfigError: not a registration, or its signature does not fit.
        """
        registration = load_yaml_model(path, cls)
        registration.check()
        return registration


class Pins:
    """The other platforms' registrations whose fingerprints this platform has compared, by name, in one file.

    Args:
        path: JSON; made at the first pin.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, Registration]:
        """By platform name.

        Raises:
            ConfigError: the file is damaged.
        """
        if not self._path.exists():
            return {}
        try:
            entries = json.loads(self._path.read_text())
            pinned = {name: Registration.model_validate(entry) for name, entry in entries.items()}
        except (ValueError, AttributeError, ValidationError) as error:
            raise ConfigError(f"{self._path}: damaged; restore it or pin the platforms again") from error
        for registration in pinned.values():
            registration.check()
        return pinned

    def fingerprints(self) -> dict[str, str]:
        """Identity fingerprint by platform name."""
        return {name: registration.fingerprint for name, registration in self.all().items()}

    def replace(self, others: Mapping[str, Registration]) -> tuple[str, ...]:
        """Trust exactly these from now on: those of a roster that was compared; names of whom it trusts no more.

        Raises:
            ConfigError: another key is pinned for a name.
        """
        pinned = self.all()
        for name, registration in others.items():
            self._check_unchanged(pinned.get(name), registration)
        self._write(others)
        return tuple(sorted(pinned.keys() - others.keys()))

    def pin(self, registration: Registration, heard: str) -> None:
        """Trust ``registration`` from now on.

        Args:
            registration: as received.
            heard: the fingerprint as its owner read it out, by a way that the aggregator does not control.

        Raises:
            ConfigError: the two differ, or another key is pinned for this name.
        """
        registration.check()
        if normal_fingerprint(heard) != registration.fingerprint:
            raise ConfigError(
                f"the file of {registration.name!r} has fingerprint {registration.fingerprint}, not the one you were told: "
                "somebody may have exchanged the file on the way. Do not pin it; ask for it by another way"
            )
        pinned = self.all()
        self._check_unchanged(pinned.get(registration.name), registration)
        self._write(pinned | {registration.name: registration})

    def unpin(self, name: str) -> None:
        """Raises: ConfigError when nothing is pinned for ``name``."""
        pinned = self.all()
        if name not in pinned:
            raise ConfigError(f"no key is pinned for {name!r}; pinned are {', '.join(sorted(pinned)) or 'none'}")
        del pinned[name]
        self._write(pinned)

    def _check_unchanged(self, earlier: Registration | None, registration: Registration) -> None:
        if earlier is not None and earlier.identity != registration.identity:
            raise ConfigError(
                f"another key is pinned for {registration.name!r} ({earlier.fingerprint}); if that platform has changed its "
                "identity, run crossfed-client unpin first"
            )

    def _write(self, pinned: Mapping[str, Registration]) -> None:
        entries = {name: pinned[name].model_dump(mode="json") for name in sorted(pinned)}
        write_atomically(self._path, json.dumps(entries, indent=1).encode())


def plan_section(plan: FederationPlan) -> str:
    """``plan:`` of a configuration file as YAML: what differs from the defaults, and privacy in any case, explained."""
    changed = plan.model_dump(mode="json", exclude_defaults=True)
    changed.pop("privacy", None)
    if "model" not in changed and changed.pop("auto_model", False):
        changed["model"] = AUTO
    shown: dict[str, object] = {"mode": plan.privacy.mode}
    if plan.private:
        shown["epsilon"] = plan.privacy.epsilon
    privacy = shown | plan.privacy.model_dump(mode="json", exclude_defaults=True)
    note = f"{_PROMISE}  # {lifetime_note(plan)}\n" if plan.private else _NO_PROMISE
    return f"plan:\n{_indented(changed)}{note}{_indented({'privacy': privacy})}"


def lifetime_note(plan: FederationPlan, budget: float | None = None) -> str:
    """How many runs the lifetime budget pays for, and what more would take; empty without privacy.

    >>> lifetime_note(FederationPlan())
    'budget 3 pays for 1 run of epsilon 3; budget 11.32 would pay for 10.'
    """
    paid, epsilon = runs_paid(plan, budget), budget_policy(plan, budget).epsilon
    if paid is None:
        return ""
    more = budget_for(plan, 10 * paid) if paid else None
    further = "" if more is None else f"; budget {more:g} would pay for {10 * paid}"
    return f"budget {epsilon:g} pays for {paid} run{'' if paid == 1 else 's'} of epsilon {plan.privacy.epsilon:g}{further}."


def _indented(section: dict[str, object]) -> str:
    text = yaml.safe_dump(section, sort_keys=False, allow_unicode=True) if section else ""
    return "".join(f"  {line}" for line in text.splitlines(keepends=True))


def normal_fingerprint(text: str) -> str:
    """A fingerprint as people type it, in the form that files have.

    >>> normal_fingerprint("ABCD-ef01 2345:6789abcdef0123456789abcdef01")
    'abcd ef01 2345 6789 abcd ef01 2345 6789 abcd ef01'
    """
    digits = "".join(character for character in text.lower() if character in "0123456789abcdef")
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def _signed_bytes(fields: dict[str, str]) -> bytes:
    return b"crossfed registration v1\0" + json.dumps(fields, sort_keys=True).encode()
