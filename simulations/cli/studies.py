"""Commands for research on a scenario: tuning, the item map, the noise of a deep model."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from common.contributions.run_plan import spends_on_depth
from common.deploy.console import PlainConsole, say
from common.errors import ConfigError
from common.web.texts import language_of
from simulations.cli.reading import ReportLanguage
from simulations.output import default_folder, locked_folder
from simulations.scenarios.scenario import Scenario, load_scenario


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command()(tune)
    app.command("map")(draw_item_map)
    app.command()(noise)


def load_chosen(name: str, overrides: list[str], data: Path | None, seed: int | None) -> Scenario:
    """The scenario that a command's options name.

    Raises:
        ConfigError: ``--data`` is no folder, or there is no such scenario.
    """
    if data is not None:
        if not data.is_dir():
            raise ConfigError(f"--data {data}: is not a folder")
        os.environ["CROSSFED_DATA"] = str(data.resolve())
    return load_scenario(name, [*overrides, *([] if seed is None else [f"seed={seed}"])])


def tune(
    scenario: Annotated[str, typer.Argument(help="A shipped scenario's name, or the path of your own YAML.")],
    trials: Annotated[int, typer.Option(min=1, help="Settings to try, those of an earlier call included.")] = 30,
    output: Annotated[Path | None, typer.Option(help="Folder for tune.db, tried.json and report.html.")] = None,
    accept_cost: Annotated[
        bool, typer.Option("--accept-cost", help="Under privacy: tune although each trial is a run that costs ε.")
    ] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a value, as for run.")] = None,
    data: Annotated[Path | None, typer.Option(help="As for run.")] = None,
    seed: Annotated[int | None, typer.Option(help="As for run.")] = None,
    language: ReportLanguage = "en",
) -> None:
    """Search settings of the plan on validation users: the scenario's search section, or a space that ships.

    Every trial is a whole federation, judged by its shared factors: settings of the deep or item-item model are refused.
    Test interactions are not looked at. The same command goes on after an interruption,
    and with more --trials it tries more.

    Example: crossfed-simulate tune movies --data ~/datasets --trials 50
    """
    from simulations.report.studies import write_tuning_report
    from simulations.studies.tune import TRIED, as_overrides, cost_of
    from simulations.studies.tune import tune as search
    from simulations.studies.tune_display import TrialDisplay

    tongue = language_of(language)
    chosen = load_chosen(scenario, set_ or [], data, seed)
    folder = output or default_folder(chosen.name, "-tune")
    console = PlainConsole()
    with locked_folder(folder), TrialDisplay(console, trials) as display:
        tuning = search(
            chosen,
            trials=trials,
            folder=folder,
            accept_cost=accept_cost,
            on_stage=display.on_stage,
            on_trial=display.on_trial,
        )
        report = write_tuning_report(json.loads((folder / TRIED).read_text()), folder, language=tongue)
    console.print(tuning.table)
    if cost := cost_of(chosen, trials):
        console.print(f"{cost}.")
    if tuning.best is not None:
        settings = " ".join(f"--set {shlex.quote(override)}" for override in as_overrides(tuning.best.settings))
        say(f"best: crossfed-simulate run {shlex.quote(scenario)} {settings}")
    say(f"written: {folder / TRIED}")
    say(f"to read: {report}")


def draw_item_map(
    run_folder: Annotated[Path, typer.Argument(help="What crossfed-simulate run --output wrote.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for map.png and map.html. Default: the run's own folder.")
    ] = None,
    projection: Annotated[
        str, typer.Option(help="pca: principal components. tsne: neighbours stay together, distances mean nothing.")
    ] = "pca",
    seed: Annotated[int, typer.Option(min=0, help="Of t-SNE.")] = 0,
    by: Annotated[
        str | None,
        typer.Option(help="Attribute that colours the picture: genres, or a category or number that is described."),
    ] = None,
) -> None:
    """Draw the space of a run's shared item factors, coloured by platform and by what is told of the items.

    Example: crossfed-simulate map out/quickstart --projection tsne
    """
    from simulations.studies.item_map import PROJECTIONS, draw_map

    chosen = next((one for one in PROJECTIONS if one == projection), None)
    if chosen is None:
        raise ConfigError(f"--projection {projection}: there are {' and '.join(PROJECTIONS)}")
    console = PlainConsole()
    with console.stages() as tell:
        tell(f"laying out the items of {run_folder}")
        written = draw_map(run_folder, output or run_folder, projection=chosen, seed=seed, by=by)
    say(f"written: {written[0]}, {written[1]}")


def noise(
    scenario: Annotated[
        str, typer.Argument(help="A scenario whose plan has towers: a name, or the path of your YAML.")
    ],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a value, as for run.")] = None,
) -> None:
    """Compute the noise multiplier that a private plan with a deep model must state.

    The aggregator has no accountant, so a deployed plan carries the number; every platform checks it with Opacus' PRV
    accountant before it takes part.

    A deep model that each platform trains at home needs none, and serves better; for one that is federated all the same, the
    plan says so with towers.privacy.spend.

    Example: crossfed-simulate noise deep.yaml --set plan.privacy.epsilon=3 --set plan.towers.privacy.spend=true
    """
    from simulations.scenarios.noise import plan_with_noise

    plan = load_chosen(scenario, set_ or [], None, None).plan
    if plan.federated_towers is None or not plan.private:
        raise ConfigError("noise: the plan needs towers, towers.place: federation and privacy.mode: user")
    if refused := spends_on_depth(plan):
        raise ConfigError(f"noise: {refused}")
    multiplier = plan_with_noise(plan).towers.privacy.noise_multiplier  # type: ignore[union-attr]
    say(
        f"{plan.federated_towers.training.rounds} rounds, sampling rate {plan.federated_towers.privacy.sampling_rate:g}, "
        f"{plan.federated_towers.privacy.share:g} of epsilon = {plan.privacy.epsilon:g}:"
    )
    say(f"plan:\n  towers:\n    privacy:\n      noise_multiplier: {multiplier:.6g}")
