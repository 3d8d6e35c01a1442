"""A name for the code in a Flower app bundle, which no other code has: SHA-256 over its files.

Imports nothing but Python's own library: a courier asks before it imports anything that it was sent.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Collection, Mapping

_LABEL = b"crossfed app 1"
_FLOWERS_OWN = ".info/"
"""What Flower adds when it builds a bundle: a list of the files, and when."""


class UnknownAppError(Exception):
    """An app that this installation has not been told of."""


def app_digest(files: Mapping[str, bytes]) -> str:
    """The digest of an app, 64 hexadecimal digits.

    Args:
        files: contents by path; paths have forward slashes.
    """
    total = hashlib.sha256(_LABEL)
    for path in sorted(files):
        for part in (path.encode(), files[path]):
            total.update(hashlib.sha256(part).digest())
    return total.hexdigest()


def bundle_digest(bundle: bytes) -> str:
    """The digest of the app in a bundle as Flower ships it.

    Raises:
        UnknownAppError: it is no archive, or one that names a file twice, of which another reader may take the other.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            code = [entry for entry in entries if not entry.filename.startswith(_FLOWERS_OWN)]
            if len({entry.filename for entry in entries}) < len(entries):
                raise UnknownAppError("the aggregator's app names a file twice")
            return app_digest({entry.filename: archive.read(entry) for entry in code})
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UnknownAppError("the aggregator's app is no archive that can be read") from error


def refuse_unknown(bundle: bytes, known: Collection[str]) -> None:
    """Refuse an app that is none of ``known``.

    Raises:
        UnknownAppError: with its digest, which whoever sent it knows, and nothing of this platform.
    """
    digest = bundle_digest(bundle)
    if digest not in known:
        raise UnknownAppError(f"the aggregator's app {digest} is not the one that this platform has installed")
