"""``crossfed-simulate``: a whole federation on one machine, before anyone deploys it."""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
from pathlib import Path
from typing import Annotated

import typer
import yaml

from common.deploy.cli import run_app, teach
from common.deploy.console import PlainConsole, PlainTable, say, styled
from common.deploy.logs import set_up_simple_logs
from common.errors import ConfigError
from common.web.texts import language_of
from simulations.audit.audited.faults import FAULTS, Fault
from simulations.cli.reading import ReportLanguage, add_reading
from simulations.cli.studies import add_commands, load_chosen
from simulations.engine.federate import BACKENDS, Backend
from simulations.engine.memory import keep_freed_memory
from simulations.output import default_folder, locked_folder, own_folder
from simulations.scenarios.scenario import shipped_scenarios

app = typer.Typer(
    name="crossfed-simulate",
    help=teach(
        """Simulate a federation of platforms on one machine.

        Each platform trains on its own users; only item statistics leave it. At the end every platform can recommend
        the others' items to its own users, and the closing table says how well.

        Start with: crossfed-simulate run quickstart
        """
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
add_commands(app)
add_reading(app)


@app.command("list")
def list_scenarios() -> None:
    """Show the scenarios that come with crossfed."""
    table = PlainTable("scenario", "what it is")
    for name, path in shipped_scenarios().items():
        table.add_row(name, _description(path))
    PlainConsole().print(table)
    PlainConsole().print("\nRun one with: crossfed-simulate run NAME      or your own: crossfed-simulate run FILE.yaml")


@app.command()
def run(
    scenario: Annotated[
        str, typer.Argument(help="A shipped scenario's name (see list), or the path of your own YAML.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for result.json, report.html, stores and checkpoints. Default: out/SCENARIO."),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="inline: in this process. ray: Flower's own simulation engine. The results agree.")
    ] = "inline",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a value: --set plan.rounds=5 --set plan.model.dimension=32."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the research data sets of the scenario. Default: $CROSSFED_DATA."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Shorthand for --set seed=N.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the last round found in the output folder, instead of starting anew.")
    ] = False,
    audit: Annotated[
        Path | None,
        typer.Option(help="audit.json for the privacy card. Default: the one in the output folder, if it is there."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another run in the output folder to end.")] = False,
    language: ReportLanguage = "en",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
) -> None:
    """Run a scenario: train, measure, print a table, write result.json and report.html.

    Examples:
      crossfed-simulate run quickstart
      crossfed-simulate run movies --data ~/datasets --set plan.rounds=20
      crossfed-simulate run mine.yaml --backend ray --output out/mine
    """
    from simulations.report.page import write_report
    from simulations.report.terminal import ConsoleObserver, cleaning_text, result_tables
    from simulations.run import simulate

    tongue = language_of(language)

    set_up_simple_logs(logging.INFO if verbose else logging.ERROR)
    chosen = load_chosen(scenario, set_ or [], data, seed)
    folder = output or default_folder(chosen.name)
    console = PlainConsole()
    with ConsoleObserver(console, chosen.plan.rounds) as observer:
        result = simulate(
            chosen,
            folder,
            backend=_backend(backend),
            observer=observer,
            resume=resume,
            audit=audit,
            wait=observer.on_stage if wait else None,
        )
        observer.on_stage("writing the report")
        report = write_report(folder, language=tongue)
    console.print(result_tables(result.content))
    say(f"\n{cleaning_text(result.platforms)}")
    user = result.platforms[0]
    store = shlex.quote(str(folder / "platforms" / user.name / "store"))
    who = shlex.quote(user.training.user_ids[0])
    say(f"\nwritten: {folder / 'result.json'}")
    say(f"to read: {report}")
    say(f"try: crossfed-client recommend --store {store} --user {who} --scope cross")


@app.command("cross-validate")
def cross_validate(
    scenario: Annotated[str, typer.Argument(help="A shipped scenario's name, or the path of your own YAML.")],
    folds: Annotated[int, typer.Option(min=2, help="How many parts each user's interactions are cut into.")] = 5,
    output: Annotated[Path | None, typer.Option(help="Folder for one run a fold.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a value, as for run.")] = None,
    data: Annotated[Path | None, typer.Option(help="As for run.")] = None,
    seed: Annotated[int | None, typer.Option(help="As for run.")] = None,
    language: ReportLanguage = "en",
) -> None:
    """Run a scenario once a fold, so that each interaction is tested once; means and deviations, and report.html."""
    from simulations.report.page import write_report
    from simulations.report.studies import write_folds_report
    from simulations.report.terminal import cleaning_text, fold_table
    from simulations.run import simulate

    tongue = language_of(language)
    parent = output or default_folder(load_chosen(scenario, set_ or [], data, seed).name, "-folds")
    results = []
    console = PlainConsole()
    with own_folder(parent), console.stages() as tell:
        for fold in range(folds):
            tell(f"fold {fold + 1} of {folds}")
            split = ["split.protocol=k-fold", f"split.folds={folds}", f"split.fold={fold}"]
            chosen = load_chosen(scenario, [*(set_ or []), *split], data, seed)
            results.append(simulate(chosen, parent / f"fold-{fold}"))
            write_report(parent / f"fold-{fold}", language=tongue)
        report = write_folds_report([result.content for result in results], parent, language=tongue)
    console.print(fold_table([result.content for result in results]))
    say(f"\n{cleaning_text(results[0].platforms)}")
    say(f"to read: {report}")


@app.command()
def sweep(
    scenario: Annotated[str, typer.Argument(help="A shipped scenario's name, or the path of your own YAML.")],
    epsilon: Annotated[str, typer.Option(help="The ε to try, with commas between.")] = "0.5,1,3,10",
    draws: Annotated[int, typer.Option(min=1, help="Noise draws at each ε.")] = 3,
    output: Annotated[Path | None, typer.Option(help="Folder for sweep.json, sweep.png and report.html.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a value, as for run.")] = None,
    data: Annotated[Path | None, typer.Option(help="As for run.")] = None,
    seed: Annotated[int | None, typer.Option(help="As for run.")] = None,
    language: ReportLanguage = "en",
) -> None:
    """Draw quality against ε: sweep.json, sweep.png and report.html.

    Every point is a whole private federation with the defaults tuned for its ε; the bands are over noise draws.

    Example: crossfed-simulate sweep movies --data ~/datasets --epsilon 1,3,10
    """
    from simulations.report.studies import write_sweep_report
    from simulations.studies.sweep import SWEEP, run_sweep

    tongue = language_of(language)
    chosen = load_chosen(scenario, set_ or [], data, seed)
    folder = output or default_folder(chosen.name, "-sweep")
    console = PlainConsole()
    with locked_folder(folder), console.stages() as tell:
        table = run_sweep(chosen, _epsilons(epsilon), draws=draws, folder=folder, on_stage=tell)
        report = write_sweep_report(json.loads((folder / SWEEP).read_text()), folder, language=tongue)
    console.print(table)
    say(f"\nwritten: {folder / SWEEP}, {folder / 'sweep.png'}")
    say(f"to read: {report}")


@app.command()
def audit(
    epsilon: Annotated[float, typer.Option(min=0.01, help="The claim to test.")] = 1.0,
    runs: Annotated[int, typer.Option(min=50, help="Runs of the canary test in each world.")] = 20_000,
    inject: Annotated[
        str | None, typer.Option(help="A fault to put in, to see that it is caught: " + ", ".join(FAULTS) + ".")
    ] = None,
    path: Annotated[bool, typer.Option(help="Also compare all that leaves with and without one person.")] = True,
    deep: Annotated[bool, typer.Option(help="Also audit the deep model's updates.")] = True,
    membership: Annotated[bool, typer.Option(help="Also attack released item factors.")] = True,
    passport: Annotated[bool, typer.Option("--passport", help="Also guess histories from passports.")] = False,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Only count how often so many audits at --runs flag sound code.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for audit.json.")] = None,
) -> None:
    """Measure ε of the code that ships, from files to what leaves, and see what an attacker gets out of its releases.

    One person is in a platform's files or is not. With the same noise in both, all that leaves is compared exactly: for
    every kind of contribution, for finish, and for requests made to learn of that person. With fresh noise, the audit
    estimates ε from the log-likelihood ratios of thousands of runs, with a 99 % lower bound. Exit status 1 if anything is
    flagged, which happens to sound code in one of 10,000 audits at most.

    Examples:
      crossfed-simulate audit --epsilon 1
      crossfed-simulate audit --runs 2000 --inject shared-split
      crossfed-simulate audit --runs 120 --repeats 200
    """
    if repeats is not None:
        _count_false_alarms(epsilon, repeats, runs, output or default_folder("audit"))
        return
    from simulations.audit.command import run_audit, write_report
    from simulations.audit.tables import report_tables
    from simulations.run import AUDIT_FILE

    folder = output or default_folder("audit")
    console = PlainConsole()
    with locked_folder(folder):
        with console.stages() as tell:
            report = run_audit(
                epsilon,
                runs=runs,
                fault=_fault(inject),
                path=path,
                deep=deep,
                membership=membership,
                passport=passport,
                on_stage=tell,
            )
        write_report(report, folder / AUDIT_FILE)
    console.print(report_tables(report))
    say(f"\nwritten: {folder / AUDIT_FILE}; a run's privacy card takes it with crossfed-simulate run --audit FILE")
    if report.flags:
        raise typer.Exit(1)


@app.command()
def demo(
    output: Annotated[Path | None, typer.Option(help="Folder that stays afterwards. Default: a temporary one.")] = None,
    scenario: Annotated[
        str, typer.Option(help="Whose data: a name, or the path of your YAML; three platforms or more.")
    ] = "quickstart",
) -> None:
    """Run an aggregator and a scenario's platforms as real processes on this machine: TLS, keys, privacy, secure sum.

    Two rounds; then what each platform recommends from the others' catalogues, and what left. Takes about three minutes.
    """
    from simulations.demo import run_demo

    run_demo(PlainConsole(), output, scenario)


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Entries to run; all unless named.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the research data sets. Default: $CROSSFED_DATA.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for one JSON file each.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Only list the entries.")] = False,
) -> None:
    """Measure the figures, each side by side with what it is compared to. Takes long.

    Examples:
      crossfed-simulate bench --list
      crossfed-simulate bench pooled overhead --data ~/datasets
    """
    from simulations.bench.registry import ENTRIES, run_entries

    console = PlainConsole()
    if show:
        table = PlainTable("entry", "what it shows", "needs --data")
        for name, entry in ENTRIES.items():
            table.add_row(name, entry.shows, "" if entry.needs == "nothing" else "yes")
        console.print(table)
        return
    if data is None and "CROSSFED_DATA" in os.environ:
        data = Path(os.environ["CROSSFED_DATA"])
    folder = output or default_folder("bench")
    with locked_folder(folder), console.stages() as tell:
        results = run_entries(names or [], data, folder, tell)
    for name, result in results.items():
        console.print(styled(name, "bold"), f": {result['shows']} ({result['seconds']:.0f} s)", sep="")
        console.print_json(data=result["figures"])
    say(f"\nwritten: {folder}")


def _count_false_alarms(epsilon: float, repeats: int, runs: int, folder: Path) -> None:
    from simulations.audit.calibration import count_false_alarms, write_false_alarms

    with locked_folder(folder):
        with PlainConsole().stages() as tell:
            found = count_false_alarms(
                epsilon, repeats=repeats, runs=runs, on_repeat=lambda done: tell(f"{done:,} of {repeats:,} audits")
            )
        path = write_false_alarms(found, folder)
    say(f"{found.flagged} of {found.repeats:,} audits of sound code were flagged (95 % upper bound {found.upper:.2%});")
    say(f"{found.flagged_loosely} would be at a false-alarm rate of 5 % for all {found.statistical} checks together")
    say(f"written: {path}")


def _fault(name: str | None) -> Fault | None:
    for fault in FAULTS:
        if name == fault:
            return fault
    if name is not None:
        raise ConfigError(f"--inject {name}: there are {', '.join(FAULTS)}")
    return None


def _epsilons(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value < math.inf for value in values):
        raise ConfigError(f"--epsilon {text}: give numbers above 0 with commas between, such as 0.5,1,3,10")
    return values


def _backend(name: str) -> Backend:
    for backend in BACKENDS:
        if name == backend:
            return backend
    raise ConfigError(f"--backend {name}: there are {' and '.join(BACKENDS)}")


def _description(path: Path) -> str:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return str(content.get("description", ""))


def main() -> None:
    """Entry point."""
    keep_freed_memory()
    run_app(app)
