"""``crossfed-server``: the central aggregator of a federation."""

from __future__ import annotations

import typer

from common.cli import run_app, teach

app = typer.Typer(
    name="crossfed-server",
    help=teach(
        """The central aggregator of a federation.

        It learns shared item parameters from sums that the platforms send, and nothing of any user.
        """
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def aggregator() -> None:
    """The central aggregator of a federation."""


def main() -> None:
    """Entry point."""
    run_app(app)
