"""Which versions of a model there are, and which of them is to serve; what is in them is another's business.

STORE/CURRENT              the number of the version that serves
STORE/versions/000001/     a version, wholly there or not at all
STORE/versions.lock        whose holder alone writes
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from logging import getLogger
from pathlib import Path

from common.deploy.locks import held
from common.errors import StoreError
from common.files import write_atomically

_log = getLogger(__name__)


class VersionFolder:
    """Numbered versions in one folder.

    Args:
        root: the folder; made at the first writing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def all_versions(self) -> Path:
        """The folder that has a folder a version."""
        return self.root / "versions"

    def folder_of(self, version: int) -> Path:
        """Where a version is, or is to be."""
        return self.all_versions / f"{version:06d}"

    def versions(self) -> list[int]:
        """Numbers of all complete versions, oldest first."""
        if not self.all_versions.is_dir():
            return []
        return sorted(int(path.name) for path in self.all_versions.iterdir() if path.name.isdigit())

    def named(self) -> int | None:
        """The version that ``CURRENT`` names; None where it is not there or not a number."""
        try:
            return int((self.root / "CURRENT").read_text().strip())
        except (OSError, ValueError):
            return None

    def current(self) -> int:
        """The version that is to serve: what ``CURRENT`` names, or the newest where that cannot be read.

        Raises:
            StoreError: there is none yet.
        """
        return self.candidates()[0]

    def candidates(self) -> list[int]:
        """All versions in the order in which they are to serve, should those before be damaged.

        First what ``CURRENT`` names, then those before it, then those after it, which had been written and not yet named.

        Raises:
            StoreError: there is none yet.
        """
        versions, named = self.versions(), self.named()
        if not versions:
            raise StoreError(
                f"{self.root}: holds no model yet; run a federation with this store first (crossfed-simulate run, or "
                f"crossfed-client start)"
            )
        after = [] if named not in versions else [version for version in versions if version > named]
        return [*reversed(versions[: len(versions) - len(after)]), *reversed(after)]

    def misnamed(self) -> str | None:
        """Return what is wrong with ``CURRENT``; None where it names a version that is there, or there is none yet."""
        if not self.versions() or self.named() in self.versions():
            return None
        return (
            f"{self.root / 'CURRENT'}: names no version that is there; write the number of one into it, or train again"
        )

    def name(self, version: int) -> None:
        """Make ``CURRENT`` name a version."""
        write_atomically(self.root / "CURRENT", f"{version}\n".encode())

    def stamps(self) -> tuple[object, ...]:
        """Changes whenever ``CURRENT`` or a file of a version does."""
        files = [path for version in self.versions() for path in self.folder_of(version).glob("*")]
        return tuple(_stamp(path) for path in (self.root / "CURRENT", *sorted(files)))

    @contextmanager
    def writing(self, who: str) -> Iterator[None]:
        """One writer at a time: a version that is being written must not bring back whom another process takes out.

        Args:
            who: for the process that waits.

        Raises:
            StoreError: the folder cannot be written.
        """
        with ExitStack() as stack:
            try:
                self.all_versions.mkdir(parents=True, exist_ok=True, mode=0o700)
                lock = held(self.root / "versions.lock", who, mend="try again", wait=_log.info, mode=0o600)
                stack.enter_context(lock)
            except OSError as error:
                raise StoreError(
                    f"{self.root}: cannot be written ({error.strerror}); the version before still serves. Check the folder and "
                    "the free space"
                ) from error
            yield


def _stamp(path: Path) -> tuple[str, int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), status.st_ino, status.st_mtime_ns, status.st_size
