"""Entry point of ``crossfed-simulate``: a failure of its imports, too, reaches a person as a sentence."""

from __future__ import annotations

from common.deploy.guard import guard


def main() -> None:
    """Run the command."""
    with guard():
        from simulations.cli.main import main as command
    command()


if __name__ == "__main__":
    main()
