"""A log has one line a record, whoever has chosen the words in it."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest

from common.deploy.logs import JsonFormatter, TextFormatter, set_up_logs
from common.errors import StoreError

ROOT = Path(__file__).parents[4]
NASTY = "cinema\n2026-01-01 00:00:00 ERROR client.agent all is lost\r\x1b[2J\u202e\u2028\ud800"


def record(text: str, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord(
        "server.federation.exchange", logging.WARNING, __file__, 1, "%s is left out", (text,), info
    )


@pytest.mark.parametrize("form", [TextFormatter(), JsonFormatter(), TextFormatter("%(levelname)s: %(message)s")])
def test_a_record_is_one_visible_line(form: logging.Formatter) -> None:
    line = form.format(record(NASTY))
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert line.encode()
    assert r"cinema\n2026-01-01" in line


def test_a_json_line_holds_what_was_given() -> None:
    assert json.loads(JsonFormatter().format(record(NASTY)))["message"] == f"{NASTY} is left out"


def test_a_traceback_keeps_its_lines_and_hides_nothing() -> None:
    try:
        raise StoreError(NASTY.replace("\n", "\x1b"))
    except StoreError as error:
        text = TextFormatter().format(record("x", error))
    assert "\nTraceback (most recent call last):\n" in text
    assert text.replace("\n", "").isprintable()


def of_an_accident(user: str) -> StoreError:
    try:
        try:
            raise KeyError(user)
        except KeyError as first:
            raise ValueError(f"no row of {user}") from first
    except ValueError:
        try:
            raise StoreError("the store is damaged")
        except StoreError as error:
            return error


@pytest.mark.parametrize("form", [TextFormatter(), JsonFormatter()])
def test_a_traceback_has_no_words_of_who_foresaw_nothing(form: logging.Formatter) -> None:
    """Of what led to an error, too: its kind and its place are there, and what it quotes is not."""
    text = form.format(record("x", of_an_accident("anna.schmidt")))
    assert "anna" not in text
    for kept in ("KeyError", "ValueError", "StoreError: the store is damaged", "of_an_accident"):
        assert kept in text


def test_a_thread_that_ends_is_logged_without_its_words(tmp_path: Path) -> None:
    logger, before = logging.getLogger(), threading.excepthook
    handlers, level = logger.handlers[:], logger.level

    def work() -> None:
        raise KeyError(f"{'anna'}.schmidt")

    try:
        set_up_logs(file=tmp_path / "role.log")
        thread = threading.Thread(target=work, name="builder")
        thread.start()
        thread.join()
    finally:
        threading.excepthook = before
        logging.basicConfig(handlers=handlers, level=level, force=True)
    text = (tmp_path / "role.log").read_text()
    assert "the thread builder ended" in text
    assert "KeyError" in text
    assert "anna.schmidt" not in text


def test_every_role_uses_these_formatters() -> None:
    """A formatter of logging's own would write what it is given."""
    for path in [
        path for name in ("client", "common", "server", "simulations") for path in (ROOT / name).rglob("*.py")
    ]:
        text = path.read_text(encoding="utf-8")
        assert "logging.Formatter(" not in text, path
        assert not ("basicConfig" in text and "format=" in text), path
