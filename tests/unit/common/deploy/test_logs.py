"""A log has one line a record, whoever has chosen the words in it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from common.deploy.logs import JsonFormatter, TextFormatter

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
        raise ValueError(NASTY.replace("\n", "\x1b"))
    except ValueError as error:
        text = TextFormatter().format(record("x", error))
    assert "\nTraceback (most recent call last):\n" in text
    assert text.replace("\n", "").isprintable()


def test_every_role_uses_these_formatters() -> None:
    """A formatter of logging's own would write what it is given."""
    for path in [
        path for name in ("client", "common", "server", "simulations") for path in (ROOT / name).rglob("*.py")
    ]:
        text = path.read_text(encoding="utf-8")
        assert "logging.Formatter(" not in text, path
        assert not ("basicConfig" in text and "format=" in text), path
