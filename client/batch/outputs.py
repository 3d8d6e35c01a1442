"""Which files of lists were begun: a person's list stands in them, so an erasure has to find them, also after a crash.

    STORE/lists.json     their paths, noted before the first byte of one is written

Beside an output ``NAME`` stand ``.NAME.parts`` until it is whole, and for a moment ``.NAME.old``, a folder that it replaces.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from client.data.reading.exclusions import ExclusionBook, Exclusions
from common.deploy.locks import held
from common.errors import InUseError, StoreError
from common.files import file_errors, make_folder, write_atomically

LISTS_FILE: Final = "lists.json"


def parts_of(output: Path) -> Path:
    """The folder of an output's parts."""
    return output.parent / f".{output.name}.parts"


def old_of(output: Path) -> Path:
    """The name of the folder that an output replaces, for the time being."""
    return output.parent / f".{output.name}.old"


@dataclass(frozen=True)
class ListOutputs:
    """The outputs of one platform.

    Attributes:
        store: folder of its model store.
    """

    store: Path

    @property
    def unnoted(self) -> bool:
        """Whether nothing can be noted, as the store lies on a read-only file system: no erasure can find its outputs."""
        return self.store.is_dir() and bool(os.statvfs(self.store).f_flag & os.ST_RDONLY)

    def note(self, output: Path) -> None:
        """Write down that an output is about to be begun, durably; those that are gone are forgotten.

        Raises:
            StoreError: it cannot be written down though something else could, and nothing of it may be.
        """
        if self.unnoted:
            return
        make_folder(self.store, mode=0o700)
        with (
            file_errors(self.store / LISTS_FILE),
            held(self.store / f"{LISTS_FILE}.lock", "crossfed-client recommend", mend="try again", mode=0o600),
        ):
            known = {path for path in self._noted() if path.exists() or parts_of(path).exists()} | {output.absolute()}
            content = json.dumps({"outputs": sorted(str(path) for path in known)}, indent=1)
            write_atomically(self.store / LISTS_FILE, content.encode("utf-8", "surrogateescape"))

    def forget_parts(self) -> bool:
        """Delete the parts of outputs that are not whole: the same command makes them anew; whether none was in use.

        A command that runs sees that somebody is left out, and ends.
        """
        free = True
        for output in self._noted():
            parts, old = parts_of(output), old_of(output)
            with ExitStack() as locks:
                try:
                    for lock in (parts / "lock", parts.with_suffix(".lock")):
                        if lock.exists():
                            locks.enter_context(held(lock, "crossfed, erasing", mend="wait for its end", mode=0o600))
                except InUseError:
                    free = False
                    continue
                shutil.rmtree(parts, ignore_errors=True)
                shutil.rmtree(old, ignore_errors=True)
        return free

    def parts_that_hold(self, excluded: Exclusions) -> list[str]:
        """Files of parts in which somebody who is left out stands.

        Raises:
            StoreError: one cannot be read.
        """
        return [str(path) for path in self._files(whole=False) if excluded.mask(_users(path)).any()]

    def whole_that_hold(self, excluded: Exclusions) -> list[str]:
        """Whole files in which somebody who is left out stands, or may: they are the platform's own."""
        found = []
        for path in self._files(whole=True):
            try:
                if excluded.mask(_users(path)).any():
                    found.append(str(path))
            except StoreError:  # something else stands under its name by now
                found.append(f"{path} (cannot be read as lists)")
        return found

    def rows_of(self, user: str) -> list[dict[str, object]]:
        """A person's lists, in parts and in whole files: each file with its rows.

        A whole file is the platform's own: where something else stands under its name by now, that is told in place of rows.

        Raises:
            StoreError: a part cannot be read.
        """
        mine = pl.col("user_id").cast(pl.String) == user
        found: list[dict[str, object]] = []
        for whole in (False, True):
            for path in self._files(whole=whole):
                try:
                    rows = _read(path, mine).drop("user_id")
                except StoreError:
                    if not whole:
                        raise
                    found.append({"file": str(path), "rows": [], "problem": "cannot be read as lists"})
                else:
                    found += [{"file": str(path), "rows": rows.to_dicts()}] if rows.height else []
        return found

    def _files(self, *, whole: bool) -> Iterator[Path]:
        for output in self._noted():
            places = [output] if whole else [parts_of(output), old_of(output)]
            for place in places:
                yield from [place] if place.is_file() else sorted(place.glob("*.parquet"))

    def _noted(self) -> list[Path]:
        path = self.store / LISTS_FILE
        try:
            outputs = json.loads(path.read_bytes().decode("utf-8", "surrogateescape"))["outputs"]
            return [Path(output) for output in outputs]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}: cannot be read; delete it, and the files of lists that it names") from error


class StillTheSame:
    """Whether who is left out is who was when a command began; its lists would be of somebody else otherwise.

    Args:
        store: folder of the platform's model store.
    """

    def __init__(self, store: Path) -> None:
        self._book = ExclusionBook(store)
        self.excluded = self._book.current()

    def check(self) -> None:
        """Look again.

        Raises:
            StoreError: somebody was erased, has objected, or has taken that back.
        """
        if self._book.current().entries != self.excluded.entries:
            raise StoreError("a person was left out, or counts again, since this began; run the command again")


def _users(path: Path) -> list[str]:
    users: list[str] = _read(path)["user_id"].unique().to_list()
    return users


def _read(path: Path, which: pl.Expr | None = None) -> pl.DataFrame:
    """Rows of a file of lists; of ids alone where not said which."""
    try:
        frame = pl.scan_parquet(path, glob=False)
        return (frame.select("user_id") if which is None else frame.filter(which)).collect()
    except (pl.exceptions.PolarsError, OSError):
        # polars' own message may quote what it has read.
        raise StoreError(
            f"{path}: cannot be read as lists of crossfed; delete it, or put it under another name"
        ) from None
