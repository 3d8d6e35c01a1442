"""The suite that each store inherits: whatever crossfed keeps on disk keeps to it."""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import pytest

from common.errors import CrossfedError
from tests.support.disk import FullDisk


class Keeper(ABC):
    """One store in a folder, as the suite uses it; every call opens it anew, as another process would.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def write(self, number: int) -> None:
        """Keep content number 0, or then number 1."""

    @abstractmethod
    def read(self) -> Any:
        """Return what is kept, in a form that compares; None or something empty where nothing is."""

    @property
    @abstractmethod
    def file(self) -> Path:
        """The file that holds the newest content."""


class StoreContract:
    """Inherit it, and say which store it is for.

    Attributes:
        keeper: of the store.
        by_sqlite: whether SQLite writes its file, so that a full disk shows in other calls than those of Python.
        begins_anew: whether what is damaged counts as nothing kept, with a warning, and is not refused.
    """

    keeper: ClassVar[type[Keeper]]
    by_sqlite: ClassVar[bool] = False
    begins_anew: ClassVar[bool] = False

    def test_where_nothing_was_kept_nothing_is_read(self, tmp_path: Path) -> None:
        assert not self.keeper(tmp_path / "store").read()

    def test_what_was_kept_is_read_by_another_process(self, tmp_path: Path) -> None:
        for number in (0, 1):
            written = self.keeper(tmp_path / "store")
            before = written.read()
            written.write(number)
            assert self.keeper(tmp_path / "store").read() == written.read() != before

    def test_its_files_are_for_their_owner_alone(self, tmp_path: Path) -> None:
        written = self.keeper(tmp_path / "store")
        for number in (0, 1):
            written.write(number)
        files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
        assert files
        assert [path.name for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077] == []

    def test_on_a_full_disk_either_content_is_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if self.by_sqlite:
            pytest.skip("SQLite keeps its own journal; killed processes are tested with each ledger")
        reference = self.keeper(tmp_path / "reference")
        reference.write(0)
        whole = [reference.read()]
        reference.write(1)
        whole.append(reference.read())
        for left in range(60):
            written = self.keeper(tmp_path / str(left))
            written.write(0)
            disk, refused = FullDisk(left), False
            with monkeypatch.context() as patch:
                disk.install(patch)
                try:
                    written.write(1)
                except CrossfedError:
                    refused = True
            assert written.read() == whole[1] or (refused and written.read() == whole[0]), left
            if not disk.failed:
                break
        assert not disk.failed
        assert left > 0

    def test_a_damaged_file_is_not_believed(self, tmp_path: Path) -> None:
        written = self.keeper(tmp_path / "store")
        written.write(0)
        content = written.file.read_bytes()
        written.file.write_bytes(content[: len(content) // 2])
        if self.begins_anew:
            assert not written.read()
            return
        with pytest.raises(CrossfedError) as refused:
            written.read()
        assert any(part in str(refused.value) for part in (written.file.name, written.file.parent.name))
