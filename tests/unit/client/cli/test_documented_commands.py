"""Every command that is written down can be given as it stands: in the README, the docs, the help and the messages."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer
from typer.main import get_command

from client.cli.main import app as client
from server.cli import app as server
from simulations.cli.main import app as simulate

ROOT = Path(__file__).parents[4]
APPS: dict[str, typer.Typer] = {"crossfed-client": client, "crossfed-server": server, "crossfed-simulate": simulate}
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
SOURCES = [
    path for name in ("client", "common", "server", "simulations") for path in sorted((ROOT / name).rglob("*.py"))
]
NAMES = "|".join(APPS)


@cache
def command_of(program: str) -> click.Command:
    """The program, with paths that need not exist: the files of an example are nobody's."""
    made = get_command(APPS[program])
    stack = [made]
    while stack:
        one = stack.pop()
        stack += list(getattr(one, "commands", {}).values())
        for parameter in one.params:
            if isinstance(parameter.type, click.Path):
                parameter.type.exists = False
    return made


def problem(line: str) -> str | None:
    """Return what the program says of the line, or None where it would run."""
    program, *arguments = shlex.split(line.partition(" > ")[0], comments=True)
    # N is a number of one's own.
    arguments = ["1" if word == "N" else word for word in arguments]
    command = command_of(program)
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        if arguments[0] not in command.commands:
            return f"{line}: no command {arguments[0]}"
        command = command.commands[arguments.pop(0)]
    if isinstance(command, click.Group) and not command.invoke_without_command:
        return f"{line}: which command of {command.name}?"
    # Help and dispatch are no business of this test: what is looked at is whether the words are understood.
    if "--help" in arguments:
        return None
    try:
        command.make_context(command.name, arguments)
    except click.UsageError as error:
        return f"{line}: {error.format_message()}"
    return None


def blocks(text: str) -> Iterator[str]:
    """The lines of code blocks, continued lines as one."""
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"^    (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)


def written(path: Path) -> list[str]:
    """Whole commands: lines of code blocks, and inline code that says more than a command's name."""
    text = path.read_text(encoding="utf-8")
    lines = [part for line in blocks(text) for part in re.split(r"  +#|;|\||&&", line)]
    found = [line.strip().removeprefix("$ ").removeprefix(".venv/bin/") for line in lines]
    inline = re.findall(rf"`((?:{NAMES}) [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    more = [line for line in inline if not is_name(line)]
    return [line for line in [*found, *more] if re.match(rf"({NAMES})\b(?! +(start|…) *$)", line) and not drawn(line)]


def is_name(line: str) -> bool:
    """Whether the words are a command's name alone, as prose has it: ``crossfed-client secret import``."""
    program, *words = line.split()
    command = command_of(program)
    for word in words:
        if not isinstance(command, click.Group) or word not in command.commands:
            return False
        command = command.commands[word]
    return True


def drawn(line: str) -> bool:
    """Two programs beside each other, as in the picture at the head of deploy.md."""
    return len(re.findall(NAMES, line)) > 1


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_of_a_page_are_understood(path: Path) -> None:
    problems = [said for line in written(path) if (said := problem(line))]
    assert not problems, "\n".join(problems)


def test_the_pages_hold_commands() -> None:
    assert len([line for path in PAGES for line in written(path)]) > 30


@pytest.mark.parametrize("program", APPS)
def test_the_examples_of_the_help_are_understood(program: str) -> None:
    stack, problems, seen = [command_of(program)], [], 0
    while stack:
        one = stack.pop()
        stack += list(getattr(one, "commands", {}).values())
        for line in re.findall(
            rf"^(?:Example: |Or: |Start with: )?((?:{NAMES}) .*)$", one.help or "", flags=re.MULTILINE
        ):
            seen += 1
            problems += [said] if (said := problem(line)) else []
    assert not problems, "\n".join(problems)
    assert seen


def test_messages_name_commands_that_exist() -> None:
    missing = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for program, name in re.findall(rf"\b({NAMES}) ([a-z][a-z-]+)", node.value):
                    if name not in getattr(command_of(program), "commands", {}):
                        missing.append(f"{path.relative_to(ROOT)}:{node.lineno}: {program} {name}")
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("crossfed-server status", "--config"),
        ("crossfed-client privacy verify", "--home"),
        ("crossfed-client revoke cinema", "no command revoke"),
        ("crossfed-client egress", "which command"),
        ("crossfed-simulate run quickstart --sed 3", "--sed"),
        ("crossfed-client join", "INVITATION"),
    ],
)
def test_what_is_wrong_with_a_command_is_seen(line: str, reason: str) -> None:
    assert reason in (problem(line) or "")
