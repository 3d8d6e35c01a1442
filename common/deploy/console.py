"""Consoles, tables and progress that show texts of users and other platforms as text, never as markup.

A title such as ``Tool [/b] set`` is no style, ``shop:book:7`` is no emoji, and an escape sequence is no command to the
terminal. Every command prints through this module: ruff's ``banned-api`` keeps rich's own classes out of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from common.visible import visible, visible_json


def styled(text: str, style: str = "") -> Text:
    """A text in a style; line feeds stay, nothing else in it means anything."""
    return Text(visible(text, lines=True), style=style)


def say(text: str = "", *, err: bool = False) -> None:
    """Print a line, unwrapped and unstyled; ``err``: to standard error."""
    typer.echo(visible(text, lines=True), err=err)


def say_json(content: Any) -> None:
    """Print one line of JSON for programs."""
    typer.echo(visible_json(content))


class PlainConsole(Console):
    """A console that takes every string as text.

    Args:
        stderr: write to standard error.
        file: to write to instead.
        width: in columns; the terminal's unless given.
        soft_wrap: leave long lines to the terminal.
    """

    def __init__(
        self, *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None, soft_wrap: bool = False
    ) -> None:
        super().__init__(
            stderr=stderr, file=file, width=width, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what rich makes of every string that it is given."""
        return super().render_str(visible(text, lines=True), **options | {"markup": False, "emoji": False})

    @contextmanager
    def stages(self) -> Iterator[Callable[[str], None]]:
        """Show a spinner; yields what is told the name of each stage."""
        with self.status(styled("starting")) as status:
            yield lambda text: status.update(styled(text))


class PlainTable(Table):
    """A table whose cells are texts. What does not fit is folded and never cut: a key must be there as a whole.

    Args:
        headings: of the first columns.
        title: above it, at the left.
        lined: whether a line stands under the headings.
        options: further ones of rich's table.
    """

    def __init__(self, *headings: str, title: str | None = None, lined: bool = False, **options: Any) -> None:
        super().__init__(
            title=None if title is None else styled(title, "table.title"),
            title_justify="left",
            box=SIMPLE_HEAD if lined else None,
            **options,
        )
        for heading in headings:
            self.add_column(heading)

    def add_column(self, header: RenderableType = "", *args: Any, **options: Any) -> None:
        """Add a column; it folds unless told otherwise."""
        shown = styled(header) if isinstance(header, str) else header
        super().add_column(shown, *args, **{"overflow": "fold"} | options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row. A string is one line; for more lines give :func:`styled` texts."""
        super().add_row(*(Text(visible(cell)) if isinstance(cell, str) else cell for cell in cells), **options)


class PlainColumn(TextColumn):
    """A column of a progress display: a template such as ``{task.description}`` whose parts are texts."""

    def __init__(self, template: str, style: str = "none") -> None:
        super().__init__(template, style=style, markup=False)

    def render(self, task: Task) -> Text:
        """The column's text for a task."""
        return Text(visible(self.text_format.format(task=task)), style=self.style, justify=self.justify)


class FieldColumn(ProgressColumn):
    """A column that shows one of a task's fields, a :func:`styled` text."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def render(self, task: Task) -> Text:
        """The field."""
        field: Text = task.fields[self._name]
        return field
