"""The outermost edge of every command: whatever goes wrong reaches a person as one sentence, never as a traceback.

Only the standard library is imported here, so that it also guards the imports of everything else, which is where a limit on
memory shows first.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.visible import visible

DEBUG_VARIABLE = "CROSSFED_DEBUG"
"""Set to anything, it shows tracebacks on the terminal."""

_INTERRUPTED = 130
_INTERRUPTION = "interrupted; what was complete is on disk"
_LAST_WORDS = "error: not enough memory to say more; give this process more\n"
# Compiled at once: later there may be no memory for it.
_LIBRARY = re.compile(r"[\w.+-]+\.so(\.\d+)*")
# Two cores' threads with their stacks, Arrow's and LLVM's arenas, and a small data set; measured with ulimit -v.
_TO_TRAIN = 1_400_000_000
# For the imports alone, of a platform or a simulation (Arrow, LLVM) and of an aggregator.
TO_IMPORT, TO_IMPORT_SERVER = 900_000_000, 450_000_000
_NEEDS = (_TO_TRAIN, TO_IMPORT, TO_IMPORT_SERVER)
_OPEN_FILES = "raise the limit (ulimit -n)"
_MENDS: dict[int, str] = {
    errno.ENOENT: "there is no such file or folder; check the path, and make the folder if it is one",
    errno.EEXIST: "is there already, and is not the folder that is needed; choose another path",
    errno.ENOTDIR: "a part of this path is a file where a folder is needed; choose another path",
    errno.EISDIR: "is a folder where a file is needed; name a file",
    errno.EACCES: "this user may not read or write here; choose another path, or change its owner or mode",
    errno.EPERM: "this user may not do that here; choose another path, or change its owner or mode",
    errno.EROFS: "is on a file system that is mounted read-only; choose another path",
    errno.ENAMETOOLONG: "the name is too long: a file's name has at most 255 bytes, a path 4,095; shorten it",
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.ELOOP: "its symbolic links lead in a circle; mend them",
    errno.EMFILE: f"too many files are open; {_OPEN_FILES}",
    errno.ENFILE: "too many files are open on this machine; close some",
    errno.EIO: "the disk does not answer as it should; check it",
}


@contextmanager
def guard() -> Iterator[None]:
    """Run a command's body; an error becomes its message and exit status 1, an interrupt 130.

    A defect of crossfed says so in one line and writes where it happened to a file, without the error's own text: that may
    hold rows of a data file.
    """
    never_fail_on_characters()
    # TensorFlow's notes on its own start are nobody's news; whoever wants them sets it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        yield
    except SystemExit as ending:
        # Typer turns an interrupt into this status, and says nothing.
        if ending.code == _INTERRUPTED:
            _say(_INTERRUPTION)
        raise
    except KeyboardInterrupt:
        _say(_INTERRUPTION)
        sys.exit(_INTERRUPTED)
    except BaseException as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        try:
            _say(f"error: {sentence_of(error)}")
        except Exception:
            sys.stderr.write(_LAST_WORDS)
        sys.exit(1)


def never_fail_on_characters() -> None:
    """Print a ? for what the terminal's encoding lacks: a table must not end a run that has done its work."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def sentence_of(error: BaseException) -> str:
    """Return what a person needs to know of ``error``; for a defect of crossfed also writes the report that it names."""
    if _is_deliberate(error):
        return str(error)
    chain = list(chain_of(error))
    for one in chain:
        if _lacks_memory(one):
            needed = next((f", and needs {part / 1e9:.1f} GB to start" for part in one.args if part in _NEEDS), "")
            return f"not enough memory{_limit()}{needed}; give this process more, or use less data"
        if (library := _library_of(one)) is not None:
            return f"the compiled library {library} cannot be loaded{_library_mend()}"
    if isinstance(error, OSError) and error.errno is not None:
        return os_sentence(error)
    where = _report(chain)
    return (
        f"internal error ({type(error).__name__}): a defect of crossfed, please report it; where it happened is in {where} "
        f"(no data in it), and {DEBUG_VARIABLE}=1 shows all of it here"
    )


def os_sentence(error: OSError) -> str:
    """An error of the operating system with the path it is about and the way to mend it."""
    reason = _MENDS.get(error.errno or 0, error.strerror or type(error).__name__)
    paths = [_shown(path) for path in (error.filename, error.filename2) if path not in (None, "")]
    if error.errno == errno.EEXIST and paths and Path(paths[0]).is_file():
        reason = "is a file where a folder is needed; choose another path"
    return f"{' → '.join(paths)}: {reason}" if paths else str(reason)


def check_memory_limit(needed: int = _TO_TRAIN) -> None:
    """Refuse a limit under which this process would be ended by libraries that say nothing that a person can use.

    Args:
        needed: bytes of address space; unless given, what training takes to start.

    Raises:
        MemoryError: the limit is lower.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise MemoryError(needed)


def _is_deliberate(error: BaseException) -> bool:
    # By name, as importing the tree of errors may be what failed.
    return any(kind.__module__ == "common.errors" and kind.__name__ == "CrossfedError" for kind in type(error).__mro__)


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """``error``, what led to it, and so on."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    no_thread = isinstance(error, RuntimeError) and "can't start new thread" in str(error)
    return no_thread or ("cannot allocate memory" in str(error).lower() and isinstance(error, ImportError | OSError))


def _library_of(error: BaseException) -> str | None:
    """The compiled library that could not be loaded, if that is what is wrong."""
    if not isinstance(error, ImportError | OSError) or (isinstance(error, OSError) and error.errno is not None):
        return None
    found = _LIBRARY.search(str(error))
    return None if found is None else found.group()


def _limit() -> str:
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return "" if soft == resource.RLIM_INFINITY else f": this process may use {soft / 1e9:.1f} GB (ulimit -v)"


def _library_mend() -> str:
    limit = _limit()
    if limit:
        return f"{limit}; raise the limit"
    return "; install crossfed again, for this machine's processor and system"


def _report(chain: list[BaseException]) -> str:
    """Write the frames of a defect, and neither its text nor any value; returns where."""
    lines = []
    for error in chain:
        lines += [f"{type(error).__module__}.{type(error).__qualname__}\n", *traceback.format_tb(error.__traceback__)]
    try:
        descriptor, path = tempfile.mkstemp(prefix="crossfed-error-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.writelines(lines)
    except OSError:
        return "no file: the temporary folder cannot be written"
    return path


def _shown(path: object) -> str:
    text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)
    return text if len(text) <= 200 else f"{text[:80]}…{text[-80:]}"


def _say(text: str) -> None:
    """One line for a person, in red on a terminal; in plain print, as rich may be what failed."""
    # What a file or another party wrote into a message must not steer the terminal.
    text = visible(text, lines=True)
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    print(f"\x1b[31m{text}\x1b[0m" if coloured else text, file=sys.stderr)
