"""Files that are either wholly there or not at all."""

from __future__ import annotations

import errno
import io
import lzma
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import StoreError

# What a spoilt archive makes NumPy and zipfile raise: any byte may be wrong, flags and compression methods included.
_DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    RuntimeError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """Make a folder that a person has named, and those above it, unless it is there.

    Raises:
        StoreError: it cannot be made, or is no folder that can be written into; names what is in the way.
    """
    problem = "choose another folder, or change its owner or mode"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        problem = f"cannot be made ({error.strerror}); choose another folder"
        for part in (folder, *folder.parents):
            if _is_no_folder(part):
                raise StoreError(f"{part}: is a file where a folder is needed; choose another folder") from None
        raise StoreError(f"{shortened(folder)}: {problem}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(f"{folder}: cannot be written into; {problem}")


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """While it holds, an error of the operating system is a StoreError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}); what it held is as it was. Check the folder and the free space"
        ) from error


def _is_no_folder(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except OSError:
        return False


def shortened(path: Path) -> str:
    """A path for a message: its ends alone where it is very long."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:80]}…{text[-80:]}"


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write ``data`` to ``path`` so that a crash, a power cut or a full disk leaves the old content or the new.

    Raises:
        StoreError: the file cannot be written; what was there is still there.
    """
    write_under_its_name(path.parent, data, lambda: path.name, mode=mode, prefix=path.name)


def write_under_its_name(
    folder: Path,
    data: bytes,
    name: Callable[[], str],
    *,
    mode: int = 0o600,
    prefix: str = "new",
    read_again: bool = True,
) -> None:
    """As :func:`write_atomically`; ``name`` is asked only when the data is on disk, as a digest of it may take as long.

    Where it is hardly ever ``read_again``, its pages are given back at once: the next file takes them, and costs a fifth.

    Raises:
        StoreError: the file cannot be written; what was there is still there.
    """
    shown = shortened(folder / prefix)
    try:
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{prefix}.")
    except OSError as error:
        raise StoreError(f"{shown}: cannot be written ({error.strerror}); {_mend_of(error)}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if not read_again:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        Path(temporary).replace(folder / name())
        sync_folder(folder)
    except OSError as error:
        raise StoreError(f"{shown}: cannot be written ({error.strerror}); {_mend_of(error)}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _mend_of(error: OSError) -> str:
    if error.errno == errno.EISDIR:
        return "it is a folder; name a file"
    if error.errno == errno.ENAMETOOLONG:
        return "shorten the name, which has at most 255 bytes"
    return "check the folder and the free space"


def archive(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays in NumPy's ``.npz`` form."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_archive(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of :func:`archive`, each checked against its checksum.

    Raises:
        StoreError: the file is not there, or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except _DAMAGED as error:
        raise StoreError(f"{path}: is missing or damaged") from error


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
