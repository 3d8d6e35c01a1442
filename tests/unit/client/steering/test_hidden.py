"""Hidden items: durable, at once, and never lost by what goes wrong with the file."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from client.steering.hidden import HIDDEN_FILE, HiddenItems
from common.errors import CatalogueError, ContractError, StoreError


def test_what_one_process_hides_another_sees_at_once(tmp_path):
    running, command = HiddenItems(tmp_path), HiddenItems(tmp_path, clock=lambda: 1_700_000_000)
    assert running.current() == frozenset()
    command.hide(["imdb:1", " imdb:2 "], "recalled")
    assert running.current() == {"imdb:1", "imdb:2"}
    assert running.current() is running.current()
    assert command.all()["imdb:2"].reason == "recalled"
    assert command.show(["imdb:2", "imdb:3"]) == ["imdb:3"]
    assert running.current() == {"imdb:1"}
    assert HiddenItems(tmp_path).current() == {"imdb:1"}
    assert (tmp_path / HIDDEN_FILE).stat().st_mode & 0o077 == 0


def test_a_key_that_is_none_hides_nothing(tmp_path):
    book = HiddenItems(tmp_path)
    for wrong, error in (("NULL", ContractError), ("no namespace", CatalogueError), ("x:" + "y" * 600, ContractError)):
        with pytest.raises(error):
            book.hide(["imdb:1", wrong])
    assert book.current() == frozenset()


def test_a_damaged_file_shows_nothing_that_was_hidden(tmp_path):
    running = HiddenItems(tmp_path)
    running.hide(["imdb:1"])
    assert running.current() == {"imdb:1"}
    (tmp_path / HIDDEN_FILE).write_text("{")
    assert running.current() == {"imdb:1"}
    with pytest.raises(StoreError, match=r"hidden\.json: is damaged"):
        HiddenItems(tmp_path).current()
    with pytest.raises(StoreError, match="damaged"):
        running.hide(["imdb:2"])
    (tmp_path / HIDDEN_FILE).write_text(json.dumps({"format": 2, "items": {}}))
    with pytest.raises(StoreError, match="newer crossfed"):
        HiddenItems(tmp_path).current()


def test_many_hide_at_once_and_none_is_lost(tmp_path):
    def hide(number: int) -> None:
        HiddenItems(tmp_path).hide([f"x:{number}"])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(hide, range(12)))
    assert HiddenItems(tmp_path).current() == {f"x:{number}" for number in range(12)}
