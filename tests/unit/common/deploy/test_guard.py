"""Whatever goes wrong in a command reaches a person as a sentence."""

from __future__ import annotations

import errno
import io
import os
import re
import resource
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from common.deploy.guard import TO_IMPORT, check_memory_limit, guard, os_sentence, sentence_of
from common.errors import ConfigError

ROOT = str(Path(__file__).parents[4])


def ended(error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as done, guard():
        raise error
    assert done.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def os_error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def test_a_deliberate_error_is_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(ConfigError("plan.rounds: must be 1 or more"), capsys) == "error: plan.rounds: must be 1 or more\n"


def test_a_message_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(ConfigError("a\x1b[2Jb\rc\nd"), capsys) == "error: a\\x1b[2Jb\\rc\nd\n"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOENT, "there is no such file or folder"),
        (errno.ENOTDIR, "is a file where a folder is needed"),
        (errno.EISDIR, "is a folder where a file is needed"),
        (errno.EACCES, "may not read or write here"),
        (errno.EROFS, "read-only"),
        (errno.ENAMETOOLONG, "at most 255 bytes"),
        (errno.ENOSPC, "free some space"),
        (errno.ELOOP, "circle"),
        (errno.EIO, "the disk does not answer"),
    ],
)
def test_an_error_of_the_system_names_path_and_mend(number: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = ended(os_error(number, "/some/place"), capsys)
    assert text.startswith("error: /some/place: ")
    assert said in text


def test_a_name_that_is_too_long_is_shown_by_its_ends(capsys: pytest.CaptureFixture[str]) -> None:
    text = ended(os_error(errno.ENAMETOOLONG, "/a/" + "n" * 3000), capsys)
    assert len(text) < 400
    assert text.startswith("error: /a/nnn")


def test_a_file_for_a_folder_is_named_as_one(tmp_path: Path) -> None:
    path = tmp_path / "afile"
    path.write_text("")
    with pytest.raises(FileExistsError) as caught:
        path.mkdir()
    assert os_sentence(caught.value) == f"{path}: is a file where a folder is needed; choose another path"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("libtensorflow.so.2: cannot map: Cannot allocate memory"),
    ],
)
def test_too_little_memory_is_said(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(error, capsys).startswith("error: not enough memory")


def test_memory_that_lacked_underneath_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    outer = ValueError("building the kernel failed")
    outer.__cause__ = MemoryError()
    assert ended(outer, capsys).startswith("error: not enough memory")


def test_a_compiled_library_that_cannot_be_loaded_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = ended(OSError("Could not find/load shared object file 'libllvmlite.so'. Errors were: …"), capsys)
    assert text.startswith("error: the compiled library libllvmlite.so cannot be loaded")
    assert "install crossfed again" in text


def test_under_a_limit_a_library_says_that_the_limit_is_to_be_raised() -> None:
    code = (
        "import resource; from common.deploy.guard import sentence_of;"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30));"
        "print(sentence_of(OSError(\"Could not find/load shared object file 'libllvmlite.so'\")))"
    )
    done = run_python("-c", code)
    assert "libllvmlite.so cannot be loaded: this process may use 2.1 GB (ulimit -v); raise the limit" in done.stdout


@pytest.mark.parametrize("role", ["client", "server", "simulations"])
def test_imports_under_a_limit_on_memory_end_in_a_sentence(role: str) -> None:
    code = (
        f"import sys, resource, {role}.__main__ as entry; resource.setrlimit(resource.RLIMIT_AS, (60 << 20, 60 << 20));"
        "sys.argv = ['crossfed', '--help']; entry.main()"
    )
    done = run_python("-c", code)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"^error: .*(memory|cannot be loaded)", done.stderr, re.MULTILINE), done.stderr


def test_a_limit_under_which_nothing_would_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_memory_limit()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (950_000_000, 950_000_000))
    with pytest.raises(MemoryError) as caught:
        check_memory_limit()
    said = (
        "not enough memory: this process may use 0.9 GB (ulimit -v), and needs 1.4 GB to start; give this process more"
    )
    assert sentence_of(caught.value).startswith(said)
    check_memory_limit(TO_IMPORT)


def test_a_defect_leaves_its_frames_in_a_file_and_no_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    user = "anna.schmidt"

    def read_rows() -> None:
        raise KeyError(user)

    with pytest.raises(SystemExit), guard():
        read_rows()
    said = capsys.readouterr().err
    (report,) = tmp_path.glob("crossfed-error-*.log")
    assert said.startswith("error: internal error (KeyError)")
    assert str(report) in said
    assert "read_rows" in report.read_text()
    assert user not in report.read_text() + said
    assert report.stat().st_mode & 0o077 == 0


def test_a_traceback_is_shown_to_who_asks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CROSSFED_DEBUG", "1")
    with pytest.raises(SystemExit), guard():
        raise KeyError("shown")
    assert "Traceback" in capsys.readouterr().err


def test_a_panic_that_is_no_exception_is_a_sentence_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):
        pass

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ended(PanicException("called unwrap on row 3"), capsys).startswith("error: internal error (PanicException)")


def test_an_interrupt_says_so_and_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done, guard():
        raise KeyboardInterrupt
    assert done.value.code == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_show_is_replaced(encoding: str) -> None:
    out = io.BytesIO()
    stream = io.TextIOWrapper(out, encoding=encoding, write_through=True)
    with redirect_stdout(stream), guard():
        print("3.7 ε in Кино")
    assert out.getvalue() == b"3.7 ? in ????\n"


@pytest.mark.parametrize("command", ["client", "server", "simulations"])
def test_every_command_prints_its_help_in_ascii(command: str) -> None:
    done = run_python("-m", command, "--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr


def run_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": ROOT} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
