"""A platform's users in shards: a folder of Parquet files, a row a user, read a block of users at a time.

shards.json              digest of the settings and the catalogue that shards were made from, and how large each is
parts-000001/00000.parquet

A user is in one shard, drawn by a hash of the id; within it users stand in the order of another hash, so that the first of
each shard are a sample of all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.reading.exclusions import NOBODY, Exclusions
from client.data.split import EvaluationSlice
from common.errors import DataError
from common.files import make_folder, write_atomically

MANIFEST: Final = "shards.json"
_FORMAT: Final = 1
_AGAIN: Final = "run crossfed-client data partition again"
LOCK: Final = ".partition.lock"
"""Held while shards are written."""
ROWS: Final = ".rows"
"""Folder of the rows that are being divided, for the time being."""
PARTS: Final = "parts-"
"""Before the number of a partition, in the name of its folder."""
GROUP: Final = 4096
"""Users in a row group of a file, of which a reader has one or two in memory."""


@dataclass(frozen=True)
class Shard:
    """One file: its name in the folder, and how many users and interactions it holds."""

    file: str
    users: int
    interactions: int


@dataclass(frozen=True, eq=False)
class UserRows:
    """Some users as they are read from a shard.

    Attributes:
        user_ids: one per row. Private.
        known: n × m_own.
        withheld: bool ``[nnz]``: which of it is held back for validation.
    """

    user_ids: tuple[str, ...]
    known: UserItemMatrix
    withheld: NDArray[np.bool_]

    def split(self) -> tuple[UserItemMatrix, EvaluationSlice]:
        """Divide into what is trained on, and what is held back to choose models."""
        train, truth = self.known.select_entries(~self.withheld), self.known.select_entries(self.withheld)
        return train, EvaluationSlice(np.flatnonzero(truth.row_lengths), train, truth)


@dataclass(frozen=True)
class ShardedUsers:
    """All shards of a platform. Knows no user; it can be sent to other machines, which see the same folder.

    Attributes:
        folder: with :data:`MANIFEST`.
        shards: in order.
        n_items: m_own, columns of the catalogue.
        made_from: digest of catalogue and settings.
        report: what cleaning dropped, as :meth:`CleaningReport.as_dict` has it.
    """

    folder: Path
    shards: tuple[Shard, ...]
    n_items: int
    made_from: str
    report: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def n_users(self) -> int:
        return sum(shard.users for shard in self.shards)

    @property
    def n_interactions(self) -> int:
        return sum(shard.interactions for shard in self.shards)

    @classmethod
    def open(cls, folder: Path, made_from: str) -> ShardedUsers:
        """The shards in ``folder``.

        Args:
            folder: as the partition command wrote it.
            made_from: :func:`digest_of_source` of what they must be made from.

        Raises:
            DataError: there are none, they are damaged, or they were made from another catalogue or other settings.
        """
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_bytes())
            if content["format"] != _FORMAT:
                raise DataError(f"{path}: is of another version of crossfed; {_AGAIN}")
            shards = tuple(Shard(**shard) for shard in content["shards"])
            found = cls(folder, shards, int(content["n_items"]), str(content["made_from"]), dict(content["report"]))
        except FileNotFoundError:
            raise DataError(
                f"{path}: there is no such file (training.shards); run crossfed-client data partition"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: cannot be read ({type(error).__name__}); {_AGAIN}") from None
        if found.made_from != made_from:
            raise DataError(f"{path}: was made from other settings of data or another items file; {_AGAIN}")
        return found

    def blocks(self, shard: int, size: int, excluded: Exclusions = NOBODY) -> Iterator[UserRows]:
        """The users of one shard, up to ``size`` at a time; where blocks end depends on the shard and ``size`` alone.

        Raises:
            DataError: the file cannot be read.
        """
        for start in range(0, self.shards[shard].users, size):
            yield self._read(shard, start, size, excluded)

    def sample(self, users: int, excluded: Exclusions = NOBODY) -> UserRows:
        """About ``users`` users, in equal parts from all shards.

        Raises:
            DataError: a file cannot be read.
        """
        share = min(1.0, users / max(1, self.n_users))
        parts = [self._frame(k, 0, round(share * shard.users)) for k, shard in enumerate(self.shards)]
        return self._rows(pl.concat(parts), excluded)

    def _read(self, shard: int, start: int, count: int, excluded: Exclusions) -> UserRows:
        return self._rows(self._frame(shard, start, count), excluded)

    def _frame(self, shard: int, start: int, count: int) -> pl.DataFrame:
        path = self.folder / self.shards[shard].file
        try:
            frame = pl.scan_parquet(path, glob=False).slice(start, count).collect()
        except (pl.exceptions.PolarsError, OSError):
            # polars' own message may quote what it has read.
            raise DataError(f"{path}: cannot be read, or is damaged; {_AGAIN}") from None
        # Whose row was emptied is nobody any more, not a user without a history.
        return frame.filter(pl.col("user").is_not_null())

    def _rows(self, frame: pl.DataFrame, excluded: Exclusions) -> UserRows:
        user_ids = tuple(frame["user"].to_list())
        lengths = frame["items"].list.len().to_numpy()
        known = UserItemMatrix(
            indptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            indices=_flat(frame, "items", np.int32),
            values=_flat(frame, "values", np.float32),
            times=_flat(frame, "times", np.int64),
            n_items=self.n_items,
        )
        withheld = _flat(frame, "withheld", np.bool_)
        gone = excluded.mask(user_ids) if len(excluded) else None
        if gone is not None and gone.any():
            kept = np.flatnonzero(~gone)
            user_ids = tuple(user_ids[user] for user in kept)
            withheld = withheld[~gone[known.entry_users()]]
            known = known.select_users(kept)
        return UserRows(user_ids, known, withheld)


def _flat(frame: pl.DataFrame, column: str, dtype: type[np.generic]) -> NDArray[Any]:
    return np.asarray(frame[column].explode(empty_as_null=False).to_numpy(), dtype=dtype)


def digest_of_source(keys: Sequence[str], settings: Any) -> str:
    """Hex digest of what shards are made from: the catalogue's keys in order, and settings that JSON can hold."""
    content = json.dumps([*keys], ensure_ascii=False), json.dumps(settings, sort_keys=True)
    return hashlib.sha256("\n".join(content).encode("utf-8", "surrogatepass")).hexdigest()


class ShardWriter:
    """Writes shards beside those of before, which stay until the manifest names the new ones.

    Args:
        folder: made when it is not there; its owner's only, as it holds all that users did.
        n_items: columns of the catalogue.
        made_from: as :class:`ShardedUsers` has it.
        group: users in a row group of a file.
    """

    def __init__(self, folder: Path, n_items: int, made_from: str, *, group: int = GROUP) -> None:
        make_folder(folder, mode=0o700)
        self.folder, self._n_items, self._made_from, self._group = folder, n_items, made_from, group
        self._parts = self._unused()
        make_folder(folder / self._parts, mode=0o700)
        self._shards: list[Shard] = []

    def write(self, user_ids: Sequence[str], known: UserItemMatrix, withheld: NDArray[np.bool_]) -> None:
        """Write the next shard: users, all that is known of them, and bool ``[nnz]``: what of it is held back.

        Raises:
            DataError: it cannot be written.
        """
        name = f"{self._parts}/{len(self._shards):05d}.parquet"
        long = pl.DataFrame(
            {
                "row": known.entry_users(),
                "items": known.indices,
                "values": known.values,
                "times": known.times,
                "withheld": withheld,
            }
        )
        wide = long.group_by("row", maintain_order=True).agg(pl.all())
        ids = pl.Series("user", user_ids, dtype=pl.String).gather(wide["row"])
        places = pl.Series("place", [_place(user) for user in ids], dtype=pl.UInt64)
        frame = wide.with_columns(ids, places).sort("place", "user").drop("row", "place")
        try:
            frame.write_parquet(self.folder / name, row_group_size=self._group)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{self.folder / name}: cannot be written ({type(error).__name__}); free some space"
            ) from None
        self._shards.append(Shard(name, frame.height, known.nnz))

    def finish(self, report: Mapping[str, Any]) -> ShardedUsers:
        """Make the new shards the folder's; those before the last are removed, as a run may still read the last."""
        before = self._manifest()
        made = ShardedUsers(self.folder, tuple(self._shards), self._n_items, self._made_from, report)
        content = {
            "format": _FORMAT,
            "n_items": self._n_items,
            "made_from": self._made_from,
            "report": report,
            "shards": [asdict(shard) for shard in self._shards],
        }
        write_atomically(self.folder / MANIFEST, json.dumps(content, indent=1).encode())
        kept = {self._parts} | {Path(shard["file"]).parts[0] for shard in before}
        for folder in self.folder.glob(f"{PARTS}*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        return made

    def _manifest(self) -> list[dict[str, Any]]:
        try:
            return list(json.loads((self.folder / MANIFEST).read_bytes())["shards"])
        except (OSError, ValueError, KeyError):
            return []

    def _unused(self) -> str:
        number = 1 + max(
            (int(one.name[6:]) for one in self.folder.glob(f"{PARTS}*") if one.name[6:].isdigit()), default=0
        )
        return f"{PARTS}{number:06d}"


def _place(user: str) -> int:
    return int.from_bytes(hashlib.blake2b(user.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
