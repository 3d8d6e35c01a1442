"""``crossfed-simulate sweep``: quality against ε, as numbers and as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from common.deploy.console import PlainTable
from common.files import make_folder, write_atomically
from simulations.engine.datasets import check_private_data, make_platforms
from simulations.engine.federate import simulation_secret
from simulations.evaluation.measure import FIGURE_OF_MERIT
from simulations.evaluation.pooled import without_privacy
from simulations.evaluation.privacy_cost import PrivacyCost, measure_point, privacy_cost_at, train_shared
from simulations.scenarios.scenario import Scenario

SWEEP: Final = "sweep.json"
Series = dict[str, list[dict[str, Any]]]


def run_sweep(
    scenario: Scenario,
    epsilons: Sequence[float],
    *,
    draws: int,
    folder: Path,
    on_stage: Callable[[str], None],
) -> PlainTable:
    """Train at every ε ``draws`` times and once without noise; write ``sweep.json`` and ``sweep.png``.

    Args:
        scenario: platforms, split and model.
        epsilons: to try.
        draws: noise draws at each.
        folder: made when it is not there.
        on_stage: told what is being done.

    Returns:
        The means for people.

    Raises:
        CrossfedError: of the data, the configuration or the federation; the message says what to mend.
    """
    check_private_data(scenario)
    make_folder(folder)
    on_stage("reading and splitting the data")
    platforms = make_platforms(scenario)
    scenario = scenario.with_platforms(len(platforms))
    secret = simulation_secret(scenario.seed)
    on_stage("training without noise")
    plan = without_privacy(scenario.plan)
    state = train_shared(scenario.model_copy(update={"plan": plan}), platforms)
    exact = measure_point(scenario, platforms, secret, state, plan)
    points: dict[float, list[PrivacyCost]] = {}
    for epsilon in sorted(epsilons):
        for draw in range(draws):
            on_stage(f"ε = {epsilon:g}, noise draw {draw + 1} of {draws}")
            points.setdefault(epsilon, []).append(privacy_cost_at(scenario, platforms, secret, epsilon))
    series = {name: _series(name, points) for name in exact.own}
    content = {
        "scenario": scenario.name,
        "seed": scenario.seed,
        "draws": draws,
        "metric": FIGURE_OF_MERIT,
        "without_noise": exact.as_dict(),
        "points": [point.as_dict() for part in points.values() for point in part],
    }
    write_atomically(folder / SWEEP, json.dumps(content, indent=1).encode(), mode=0o644)
    _draw(folder / "sweep.png", scenario, series, exact)
    return _table(series, exact)


def _series(name: str, points: dict[float, list[PrivacyCost]]) -> list[dict[str, Any]]:
    """One entry an ε: lists over draws of own and cross figures of a platform."""
    return [
        {
            "epsilon": epsilon,
            "own": [point.own[name][FIGURE_OF_MERIT] for point in part],
            "cross": [point.cross[name]["final"][FIGURE_OF_MERIT] for point in part if name in point.cross],
            "popularity": [point.cross[name]["popularity"][FIGURE_OF_MERIT] for point in part if name in point.cross],
        }
        for epsilon, part in points.items()
    ]


def _table(series: Series, exact: PrivacyCost) -> PlainTable:
    title = "Recall@20, mean over noise draws: own items | the others' items (popularity at the same ε)"
    table = PlainTable("platform", title=title, lined=True)
    for entry in next(iter(series.values())):
        table.add_column(f"ε = {entry['epsilon']:g}", justify="right")
    table.add_column("no noise", justify="right")
    for name, entries in series.items():
        table.add_row(name, *(_cell(entry) for entry in entries), _exact_cell(name, exact))
    return table


def _cell(entry: dict[str, Any]) -> str:
    cross = f" | {fmean(entry['cross']):.3f} ({fmean(entry['popularity']):.3f})" if entry["cross"] else ""
    return f"{fmean(entry['own']):.3f}{cross}"


def _exact_cell(name: str, exact: PrivacyCost) -> str:
    cross = exact.cross.get(name)
    cross_cell = (
        f" | {cross['final'][FIGURE_OF_MERIT]:.3f} ({cross['popularity'][FIGURE_OF_MERIT]:.3f})" if cross else ""
    )
    return f"{exact.own[name][FIGURE_OF_MERIT]:.3f}{cross_cell}"


def _draw(path: Path, scenario: Scenario, series: Series, exact: PrivacyCost) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [("own", "Own items")] + ([("cross", "Items of the other platforms")] if exact.cross else [])
    for index, (kind, title) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        for number, (name, entries) in enumerate(series.items()):
            shown = [entry for entry in entries if entry[kind]]
            if not shown:
                continue
            x = [entry["epsilon"] for entry in shown]
            color = f"C{number}"
            axes.plot(x, [fmean(entry[kind]) for entry in shown], marker="o", color=color, label=name)
            axes.fill_between(
                x,
                [min(entry[kind]) for entry in shown],
                [max(entry[kind]) for entry in shown],
                color=color,
                alpha=0.15,
            )
            level = exact.own[name] if kind == "own" else exact.cross[name]["final"]
            axes.axhline(level[FIGURE_OF_MERIT], color=color, linestyle=":", linewidth=1)
        axes.set_xscale("log")
        axes.set_xlabel("ε of the run")
        axes.set_ylabel("Recall@20 of the shared model")
        axes.set_title(f"{title} (dotted: without noise)", fontsize=10)
        axes.legend(fontsize=8)
    figure.suptitle(f"{scenario.name}: quality against ε", fontsize=11)
    figure.savefig(path, dpi=150)
