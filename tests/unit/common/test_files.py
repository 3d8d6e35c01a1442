from __future__ import annotations

import os
import re
import resource
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import StoreError
from common.files import archive, read_archive, write_atomically
from tests.support.disk import FullDisk


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_is_written_whole_with_its_mode_alone(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    before = os.umask(0)
    try:
        write_atomically(path, b"new", mode=mode)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_disk_full_at_any_step_leaves_a_whole_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of writing calls before the disk is full runs from 0 until a file gets through."""
    path, contents, said = tmp_path / "file", [], set[str]()
    for left in range(20):
        write_atomically(path, b"old")
        disk = FullDisk(left)
        with monkeypatch.context() as patch:
            disk.install(patch)
            try:
                write_atomically(path, b"new")
            except StoreError as error:
                said.add(str(error))
        contents.append(path.read_bytes())
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
        if not disk.failed:
            break
    # Once it has the old one's place, the new file is whole, whether or not that is known to last.
    assert contents[:3] == [b"old"] * 3
    assert contents[-2:] == [b"new"] * 2
    assert len(contents) >= 6
    assert all(re.search("file: cannot be written .No space left on device", one) for one in said)


def test_a_write_that_stops_half_way_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(StoreError, match="file: cannot be written"):
            write_atomically(path, b"new" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_content_is_on_disk_before_it_takes_the_old_ones_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, real=real, name=name: (done.append(name), real(*args))[1])
    write_atomically(tmp_path / "file", b"new")
    assert done == ["fsync", "replace", "fsync"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere/file: cannot be written"):
        write_atomically(tmp_path / "nowhere" / "file", b"")


named_arrays = st.dictionaries(
    st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    st.sampled_from(["bool", "uint8", "int64", "float32"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0))
    ),
    max_size=3,
)


@given(named_arrays)
def test_an_archive_is_read_as_it_was_made(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("archive") / "arrays.npz"
    path.write_bytes(archive(arrays))
    read = read_archive(path)
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        assert np.array_equal(read[name], array, equal_nan=array.dtype.kind == "f")


def test_the_same_arrays_make_the_same_archive() -> None:
    arrays = {"b": np.arange(4), "a": np.zeros((2, 3), dtype=np.float32)}
    assert archive(arrays) == archive(dict(arrays))


GOOD = {"x": np.arange(20, dtype=np.float32), "y": np.array([[1, 2], [3, 4]])}


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_is_noticed_or_harmless(tmp_path_factory: pytest.TempPathFactory, place: int, flip: int) -> None:
    data = bytearray(archive(GOOD))
    data[place % len(data)] ^= flip
    path = tmp_path_factory.mktemp("flipped") / "arrays.npz"
    path.write_bytes(data)
    try:
        read = read_archive(path)
    except StoreError:
        return
    for name, array in GOOD.items():
        if name in read:  # a name in the directory may be what was spoilt; whoever wants the array notices
            assert np.array_equal(read[name], array)


@pytest.mark.parametrize("kept", [0, 1, 10, 100, -1])
def test_an_archive_that_is_cut_off_is_damaged(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "arrays.npz"
    path.write_bytes(archive(GOOD)[:kept])
    with pytest.raises(StoreError, match=r"arrays\.npz: is missing or damaged"):
        read_archive(path)


def test_an_archive_of_python_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", x=np.array([{}], dtype=object))
    with pytest.raises(StoreError, match="damaged"):
        read_archive(tmp_path / "arrays.npz")


def test_a_single_array_and_a_missing_file_are_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "arrays.npy", np.zeros(3))
    for name in ("arrays.npy", "nothing.npz"):
        with pytest.raises(StoreError, match=rf"{name}: is missing or damaged"):
            read_archive(tmp_path / name)
