"""Entry point of ``crossfed-simulate``: a failure of its imports, too, reaches a person as a sentence."""

from __future__ import annotations

from common.deploy.guard import TO_IMPORT, check_memory_limit, guard


def main() -> None:
    """Run the command."""
    with guard():
        check_memory_limit(TO_IMPORT)
        from simulations.cli.main import main as command
    command()


if __name__ == "__main__":
    main()
