"""A Parquet file that is written in parts: memory holds one of them, and an interrupted command goes on where it was.

.NAME.parts/job.json         what the parts were made from; parts of anything else are made anew
.NAME.parts/000001.parquet   whole or not there
NAME                         put together at the end, whole or not there
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from client.batch.outputs import parts_of
from common.deploy.locks import held
from common.errors import StoreError
from common.files import make_folder, write_atomically

_JOB: Final = "job.json"


class PartedFile:
    """Use it as a context manager, so that no second process writes the same.

    Args:
        path: of the file; made at the end, readable by its owner only.
        job: what it is made from; any change of it makes parts of before worthless.

    Raises:
        InUseError: another process writes it.
        StoreError: the folder cannot be written, or there is something else under the name.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        if path.is_dir():
            raise StoreError(f"{path}: is a folder; name a file")
        self.path = path
        self._folder = parts_of(path)
        self._job = json.dumps(job, sort_keys=True).encode()

    def __enter__(self) -> PartedFile:
        make_folder(self.path.parent)
        make_folder(self._folder, mode=0o700)
        me = "crossfed-client recommend"
        self._lock = held(self._folder / "lock", me, mend="wait for its end, or name another file", mode=0o600)
        self._lock.__enter__()
        kept = self._folder / _JOB
        if not kept.exists() or kept.read_bytes() != self._job:
            for part in self._folder.glob("*.parquet"):
                part.unlink()
            write_atomically(kept, self._job)
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.__exit__(None, None, None)
        if error[0] is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def has(self, number: int) -> bool:
        """Whether a part is there from before."""
        return self._part(number).exists()

    def write(self, number: int, rows: pl.DataFrame) -> None:
        """Write a part.

        Raises:
            StoreError: it cannot be written; those before it stay.
        """
        buffer = io.BytesIO()
        rows.write_parquet(buffer)
        write_atomically(self._part(number), buffer.getvalue())

    def finish(self, count: int) -> None:
        """Put the parts 0 … ``count`` − 1 together under the file's name.

        Raises:
            StoreError: it cannot be written; the parts stay.
        """
        unfinished = self._folder / "whole"
        try:
            unfinished.touch(mode=0o600)
            pl.scan_parquet([self._part(number) for number in range(count)]).sink_parquet(unfinished)
            unfinished.replace(self.path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise StoreError(
                f"{self.path}: cannot be written ({error}); free some space and run the command again"
            ) from None

    def _part(self, number: int) -> Path:
        return self._folder / f"{number:06d}.parquet"
