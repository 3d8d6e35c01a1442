"""Commands for reading finished runs: the report, and runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.deploy.console import PlainConsole, say
from common.files import make_folder
from common.web.texts import language_of

Run = Annotated[Path, typer.Argument(help="What crossfed-simulate run --output wrote.")]
ReportLanguage = Annotated[str, typer.Option("--language", help="Of the page: en or zh.")]


def add_reading(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command()(report)
    app.command()(compare)


def report(
    run_folder: Run,
    language: ReportLanguage = "en",
    user: Annotated[
        list[str] | None,
        typer.Option("--user", help="PLATFORM:ID of a real user whose lists are shown, too; nobody's unless given."),
    ] = None,
    steering: Annotated[
        Path | None,
        typer.Option(help="YAML with a section steering, as platform.yaml has it: shows lists before and after."),
    ] = None,
) -> None:
    """Write report.html of a finished run again: in another language, with lists of users whom you name, or steered.

    The page is one file, opens offline, and shows made-up people alone unless you name real ones.

    Examples:
      crossfed-simulate report out/quickstart --language zh
      crossfed-simulate report out/quickstart --user forum:3
      crossfed-simulate report out/quickstart --steering steering.yaml
    """
    from simulations.report.page import write_report
    from simulations.report.steered import read_steering

    rules = None if steering is None else read_steering(steering)
    written = write_report(run_folder, language=language_of(language), users=user or [], steering=rules)
    say(f"written: {written}")
    if user:
        say("it shows real users' histories and lists: treat it as you treat their data")


def compare(
    run_folders: Annotated[list[Path], typer.Argument(help="Two runs or more: folders that run --output wrote.")],
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("out/compare.html"),
    language: ReportLanguage = "en",
) -> None:
    """Put runs side by side: a table here, and a page with figures and where their configurations differ.

    Example: crossfed-simulate compare out/quickstart out/private --output out/compare.html
    """
    from simulations.report.compare import compare_runs, comparison_table, paired_table, write_comparison

    found = compare_runs(run_folders)
    make_folder(output.parent)
    write_comparison(found, output, language=language_of(language))
    PlainConsole().print(comparison_table(found))
    if found.paired:
        PlainConsole().print(paired_table(found))
    say(f"written: {output}")
