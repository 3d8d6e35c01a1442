"""The file that holds this platform's place in a secure sum. It is checked when it is read, and it is never rolled back.

Whoever puts an old copy of it back could be asked for a second survivor list of a round that was answered already, and
the two sums differ by one platform's part. So no backup holds the file, and restoring anything deletes it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from common.errors import SecureSumError
from common.files import write_atomically

STATE_FILE = "secure_sum.state"
_HEADER = b"crossfed secure sum 1 "
_UNCHECKED = b"{"
"""How a file of version 0.1 begins: the state alone, as JSON, without a checksum."""


def is_secure_state(path: Path) -> bool:
    """Whether ``path`` is the file, or a half-written copy that a killed process has left: neither goes into a backup."""
    return path.name == STATE_FILE or path.name.startswith(f".{STATE_FILE}.")


def forget_secure_sums(folder: Path) -> None:
    """Delete the file and what is left of it: the books were restored, and no run of before may go on."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_secure_state(path):
            path.unlink()


class SecureStateFile:
    """Keeps the state of one platform's secure sum (mode 0600), with a checksum.

    Args:
        folder: the platform's private folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATE_FILE

    def read(self) -> bytes | None:
        """The state; None where there is none.

        Raises:
            SecureSumError: the file cannot be read, or it is not what was written.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.unusable(error.strerror or "cannot be read") from error
        if content.startswith(_UNCHECKED):
            return content
        header, _, state = content.partition(b"\n")
        if header != _HEADER + hashlib.sha256(state).hexdigest().encode():
            raise self.unusable("it is not what was written: cut short, altered, or of a newer version")
        return state

    def write(self, state: bytes) -> None:
        """Keep ``state``; durable when this returns.

        Raises:
            StoreError: it cannot be written.
        """
        write_atomically(self._path, _HEADER + hashlib.sha256(state).hexdigest().encode() + b"\n" + state)

    def unusable(self, reason: str) -> SecureSumError:
        """Return what to tell the operator of a file that cannot be used."""
        return SecureSumError(
            f"{self._path} is unusable ({reason}): this platform has lost its place in the secure sum of the run that was "
            "under way, and that run cannot go on here. Delete the file and begin a new run, which makes it anew. Never put "
            "an old copy back: it could be made to unmask a round twice"
        )
