"""Users, items and folders whose names look like markup: every command prints them as they are."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer import Typer
from typer.testing import CliRunner

from client.cli.main import app as client
from client.personalization.store import PlatformStore
from simulations.cli.main import app as simulate

pytestmark = pytest.mark.usefixtures("one_thread")
TITLES = (
    "Tool [/b] set",
    "[rec]",
    "[dvd]",
    "Blade :star: Runner",
    "Cut [red]scene",
    "[link=x]y[/link]",
    "\x1b[31mX",
    "a$b$",
)
USERS, ITEMS = 140, 16


@dataclass
class World:
    run: str
    home: Path
    user: str


def printed(command: Typer, *arguments: str) -> str:
    done = CliRunner().invoke(command, list(arguments), env={"COLUMNS": "250"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    return done.output


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("nasty")
    rng = np.random.default_rng(0)
    rows = [f"[/u{user}],{item}" for user in range(USERS) for item in rng.choice(ITEMS, 8, replace=False)]
    (folder / "r.csv").write_text("\n".join(["user_id,item_id", *rows]) + "\n")
    items = [f"{item},{TITLES[item % len(TITLES)]},shop:book:{item},[/i]$^${item}" for item in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(["item_id,title,key,genres", *items]) + "\n")
    files = {"interactions": {"path": "r.csv"}, "items": {"path": "items.csv", "key_column": "key"}}
    scenario = {
        "partition": {"data": files, "platforms": {"a": 1, "b": 1}, "common_items": 0.5},
        "plan": {
            "rounds": 2,
            "model": {"dimension": 4},
            "privacy": {"mode": "user", "epsilon": 3, "user_bound": 5000, "noise": "per_platform"},
        },
        "personalization": {"tuning_candidates": 1, "anchored": False},
        "cross": {"ceiling": False, "tune_beta": False},
    }
    (folder / "s.yaml").write_text(yaml.safe_dump(scenario))
    place = folder / "o[/x] [b]:star:"
    said = printed(simulate, "run", str(folder / "s.yaml"), "--output", str(place))
    home = place / "platforms" / "a"
    return World(said, home, PlatformStore(home / "store").load().user_ids[0])


def test_a_run_ends_with_a_command_that_works(world: World) -> None:
    assert f"written: {world.home.parents[1] / 'result.json'}\n" in world.run
    (line,) = re.findall(r"try: crossfed-client (.*)", world.run)
    assert re.search(r"shop:book:\d+ ", printed(client, *shlex.split(line)))


def test_lists_and_explanations_show_the_titles(world: World) -> None:
    store = ("--store", str(world.home / "store"))
    shown = printed(client, "recommend", *store, "--user", world.user, "-k", "16")
    listed = json.loads(printed(client, "recommend", *store, "--user", world.user, "-k", "16", "--json"))
    for item in listed:
        assert item["key"] in shown
        assert item["title"].replace("\x1b", r"\x1b") in shown
        assert ", ".join(item["genres"]) in shown
    key = listed[0]["key"]
    assert listed[1]["key"] in printed(client, "similar", *store, "--item", key, "-k", "16")
    assert listed[0]["title"].replace("\x1b", r"\x1b") in printed(
        client, "explain", *store, "--item", key, "--user", world.user
    )


@pytest.mark.parametrize("command", ["privacy", "privacy verify", "egress log", "egress show 1", "egress verify"])
def test_the_books_are_printed(world: World, command: str) -> None:
    assert printed(client, *command.split(), "--home", str(world.home)).strip()


def test_a_map_is_drawn_of_them(world: World) -> None:
    run = world.home.parents[1]
    assert f"written: {run / 'map.png'}, {run / 'map.html'}" in printed(simulate, "map", str(run))
    page = (run / "map.html").read_text()
    assert "Tool [/b] set" in page
