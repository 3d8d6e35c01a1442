"""Which platforms may take part: a folder of admitted registrations, and the SuperLink's list of node keys kept equal to it.

Revoking a platform takes its node key off the SuperLink at once and keeps a note of it, so that a later start of the
SuperLink does not let it in again.

The aggregator follows the folder while its operator's commands change it, so each of them holds the folder's lock.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from common.deploy.locks import command_name, held
from common.deploy.provisioning import Registration
from common.errors import ConfigError, FederationError, StoreError
from common.files import write_atomically
from server.deploy.flower import FlowerControl

_UNREGISTERED = "unregistered"
_log = getLogger(__name__)

_LOCK = ".lock"


@dataclass(frozen=True)
class Admission:
    """One platform's entry.

    Attributes:
        registration: as the platform sent it.
        node_id: of its SuperNode, once the SuperLink has it.
        revoked: whether it may no longer take part.
    """

    registration: Registration
    node_id: int | None = None
    revoked: bool = False


class AdmissionBook:
    """The folder of admitted platforms, a file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> dict[str, Admission]:
        """By name, revoked ones included. A damaged card admits nobody, and is no reason to keep the others out."""
        return self.read()[0]

    def read(self) -> tuple[dict[str, Admission], dict[str, str]]:
        """The sound cards by name, revoked ones included; and what is wrong with the others, by name."""
        entries: dict[str, Admission] = {}
        damaged: dict[str, str] = {}
        for path in sorted(self.folder.glob("*.json")):
            try:
                entries[path.stem] = self._read(path)
            except StoreError as error:
                damaged[path.stem] = str(error)
        return entries, damaged

    def admit(self, registration: Registration, federation: str) -> None:
        """Let a platform take part.

        Raises:
            ConfigError: of another federation, or the name is taken by another key.
        """
        registration.check()
        with self._held():
            self._admit(registration, federation)

    def _admit(self, registration: Registration, federation: str) -> None:
        if registration.federation != federation:
            raise ConfigError(
                f"registration of {registration.name!r}: is for federation {registration.federation!r}, not {federation!r}"
            )
        earlier = self.all().get(registration.name)
        if earlier is not None and not earlier.revoked and earlier.registration != registration:
            raise ConfigError(
                f"{registration.name!r} is admitted with other keys; if it has changed them on purpose, run crossfed-server "
                f"revoke {registration.name} first"
            )
        if earlier is not None and earlier.revoked and earlier.registration.node_key == registration.node_key:
            raise ConfigError(
                f"{registration.name!r} was revoked, and Flower never takes a revoked node key again: that platform removes "
                "courier/node.key, runs crossfed-client join once more, and sends its new registration"
            )
        known = earlier.node_id if earlier is not None and not earlier.revoked else None
        self._write(Admission(registration, known))

    def revoke(self, name: str) -> Admission:
        """Let it take part no more.

        Raises:
            ConfigError: there is no such platform.
            StoreError: its card is damaged.
        """
        with self._held():
            entries, damaged = self.read()
            if name in damaged:
                raise StoreError(f"{damaged[name]}, then revoke it")
            if name not in entries:
                raise ConfigError(f"no platform {name!r}; admitted are {', '.join(entries) or 'none'}")
            revoked = Admission(entries[name].registration, entries[name].node_id, revoked=True)
            self._write(revoked)
            return revoked

    def bring_in_line(self, control: FlowerControl) -> dict[str, str]:
        """Register and unregister node keys until the SuperLink agrees with the folder; returns what was done, by name.

        Raises:
            FederationError: the SuperLink does not answer.
        """
        # Two that compare and act at once would both unregister one node, and the second is told that it is unknown.
        with self._held():
            return self._brought_in_line(control)

    def _brought_in_line(self, control: FlowerControl) -> dict[str, str]:
        known = {node.node_id for node in control.nodes() if node.status != _UNREGISTERED}
        entries, damaged = self.read()
        done = {name: f"skipped: {why}" for name, why in damaged.items()}
        for name, entry in entries.items():
            registered = entry.node_id in known
            if entry.revoked and registered and entry.node_id is not None:
                control.unregister(entry.node_id)
                done[name] = "revoked"
            elif not entry.revoked and not registered:
                # A damaged card claims a node, too: nobody knows which.
                unclaimed = set() if damaged else known - {other.node_id for other in entries.values()}
                done[name] = self._register(control, entry.registration, unclaimed)
        return done

    def _register(self, control: FlowerControl, registration: Registration, unclaimed: set[int]) -> str:
        """Register a node key and keep its node id; what became of it in words: one platform must not stop the others."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "node.pub"
                path.write_text(registration.node_key + "\n")
                node_id = control.register(path, registration.name)
        except FederationError as error:
            # Killed between registering and writing it down: the key is taken, by the one node that nobody claims.
            if "already in use" not in str(error) or len(unclaimed) != 1:
                return f"NOT admitted: {error}"
            node_id = next(iter(unclaimed))
        self._write(Admission(registration, node_id))
        return "admitted"

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the folder against other processes and threads; who comes second waits, for a moment."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        with held(self.folder / _LOCK, command_name(), mend="wait for its end", wait=_log.info):
            yield

    def names(self) -> dict[int, str]:
        """The admitted platforms' names by node id."""
        entries = self.all().items()
        return {entry.node_id: name for name, entry in entries if entry.node_id is not None and not entry.revoked}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _read(self, path: Path) -> Admission:
        try:
            content = json.loads(path.read_text())
            return Admission(
                Registration.model_validate(content["registration"]), content["node_id"], bool(content["revoked"])
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{path}: damaged; admit this platform again from its registration") from error

    def _write(self, admission: Admission) -> None:
        content = {
            "registration": admission.registration.model_dump(mode="json"),
            "node_id": admission.node_id,
            "revoked": admission.revoked,
        }
        write_atomically(self._path(admission.registration.name), json.dumps(content, indent=1).encode())


class AdmittedNames(Mapping[int, str]):
    """The admitted platforms' names by Flower node id, for a run that platforms may be admitted to while it waits for them.

    A node that is not known is looked up in the folder again: its key may have been admitted since.

    Args:
        book: the folder.
    """

    def __init__(self, book: AdmissionBook) -> None:
        self._book = book
        self._names = book.names()

    def __getitem__(self, node: int) -> str:
        if node not in self._names:
            # A card damaged since the run began costs nobody who is in it.
            damaged = self._book.read()[1]
            kept = {known: name for known, name in self._names.items() if name in damaged}
            self._names = kept | self._book.names()
        return self._names[node]

    def __iter__(self) -> Iterator[int]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
