"""``report.html`` of what is more than one run: a sweep over ε, a search of settings, a cross-validation. Offline, one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from markupsafe import Markup

from common.files import write_atomically
from common.web.pages import Pages, count, figure, stylesheet
from common.web.texts import Language
from simulations.report.drawing import dots, lines
from simulations.report.page import MERIT, PACKAGE, REPORT


@dataclass(frozen=True, kw_only=True)
class StudyTable:
    """One table of a study's page.

    Attributes:
        caption: above it.
        head: of its columns; the first names its rows.
        rows: a text for each column.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_sweep_report(content: Mapping[str, Any], folder: Path, *, language: Language = "en") -> Path:
    """The page of a sweep: figures and a table by ε, means over noise draws with the least and the largest.

    Args:
        content: of ``sweep.json``.
        folder: where the page goes.
        language: of the page.
    """
    pages = Pages(PACKAGE)
    texts = pages.texts
    epsilons = sorted({point["epsilon"] for point in content["points"]})
    exact, platforms = content["without_noise"], list(content["without_noise"]["own"])
    head = (texts.say(language, "platform"), *(f"ε = {e:g}" for e in epsilons), texts.say(language, "no_noise"))
    figures, tables = {}, []
    for scope in ("own", "cross"):
        those = [name for name in platforms if scope == "own" or name in exact["cross"]]
        if not those:
            continue
        at = {
            name: {
                e: [_of(p, scope, name) for p in content["points"] if p["epsilon"] == e and name in p[scope]]
                for e in epsilons
            }
            for name in those
        }
        title = texts.say(language, "h_own" if scope == "own" else "h_others")
        series = {name: [(e, fmean(values)) for e, values in found.items() if values] for name, found in at.items()}
        figures[title] = lines(scope, series, "ε", texts.say(language, "recall"), logarithmic=True)
        rows = [
            (name, *(_spread(values) for values in found.values()), figure(_of(exact, scope, name)))
            for name, found in at.items()
        ]
        tables.append(StudyTable(caption=f"{title}: {texts.say(language, 'recall')}", head=head, rows=tuple(rows)))
    about = texts.say(language, "sweep_means", draws=content["draws"], seed=content["seed"])
    title = texts.say(language, "sweep_of", name=content["scenario"])
    return _write(pages, folder, language, title=title, about=about, figures=figures, tables=tables)


def write_tuning_report(content: Mapping[str, Any], folder: Path, *, language: Language = "en") -> Path:
    """The page of a search: every setting that was tried, best first.

    Args:
        content: of ``tried.json``.
        folder: where the page goes.
        language: of the page.
    """
    pages = Pages(PACKAGE)
    texts = pages.texts
    keys = list(content["search"])
    platforms = list(content["as_it_stands"]["platforms"])
    tried = [content["as_it_stands"], *content["tried"]]
    tried.sort(key=lambda one: (one["value"] is None, -(one["value"] or 0.0)))
    rows = [
        (
            texts.say(language, "as_it_stands") if one["number"] < 0 else str(one["number"]),
            figure(one["value"]) if one["value"] is not None else str(one["error"]),
            *(_setting(one["settings"].get(key)) for key in keys),
            *(figure(one["platforms"].get(name)) for name in platforms),
            f"{one['seconds']:.1f} s",
        )
        for one in tried
    ]
    head = (
        texts.say(language, "trial"), content["metric"], *(key.removeprefix("plan.") for key in keys), *platforms,
        texts.say(language, "seconds"),
    )  # fmt: skip
    best = (content["best"] or {}).get("overrides", [])
    about = texts.say(language, "tuning_means", metric=content["metric"], seed=content["seed"])
    table = StudyTable(caption=texts.say(language, "tried"), head=head, rows=tuple(rows))
    title = texts.say(language, "tuning_of", name=content["scenario"])
    note = "" if not best else " ".join(f"--set {setting}" for setting in best)
    notes = [note for note in (content["cost"],) if note]
    return _write(
        pages, folder, language, title=title, about=about, figures={}, tables=[table], notes=notes, settings=note
    )


def write_folds_report(contents: Sequence[Mapping[str, Any]], folder: Path, *, language: Language = "en") -> Path:
    """The page of a cross-validation: means and deviations over folds, and each fold's figures with its own report.

    Args:
        contents: ``result.json`` of each fold.
        folder: above the folds' own folders.
        language: of the page.
    """
    pages = Pages(PACKAGE)
    texts = pages.texts
    explicit = contents[0]["model"]["feedback"] == "explicit"
    metric = "rmse" if explicit else MERIT
    scorers = ("local", "shared", "final") if explicit else ("popularity", "local", "shared", "final")
    names = [texts.known(language, "scorer", scorer) for scorer in scorers]
    platforms = list(contents[0]["platforms"])
    head = (texts.say(language, "platform"), *names)
    values = {
        name: [[content["platforms"][name]["own"][scorer][metric] for content in contents] for scorer in scorers]
        for name in platforms
    }
    means = tuple((name, *(_mean(one) for one in found)) for name, found in values.items())
    tables = [StudyTable(caption=texts.say(language, "over_folds", n=len(contents)), head=head, rows=means)]
    for number in range(len(contents)):
        rows = tuple((name, *(figure(one[number]) for one in found)) for name, found in values.items())
        tables.append(StudyTable(caption=texts.say(language, "fold", n=number), head=head, rows=rows))
    drawn = dots("folds", platforms, _intervals(names, values), metric)
    title = texts.say(language, "folds_of", name=contents[0]["scenario"])
    about = texts.say(language, "folds_mean", metric=metric, folds=len(contents), seed=contents[0]["seed"])
    links = [(texts.say(language, "fold", n=n), f"fold-{n}/{REPORT}") for n in range(len(contents))]
    return _write(
        pages,
        folder,
        language,
        title=title,
        about=about,
        figures={tables[0].caption: drawn},
        tables=tables,
        links=links,
    )


def _intervals(
    names: Sequence[str], values: Mapping[str, Sequence[Sequence[float | None]]]
) -> dict[str, list[tuple[float | None, Sequence[float] | None]]]:
    """Means with one standard deviation to either side."""
    found: dict[str, list[tuple[float | None, Sequence[float] | None]]] = {}
    for place, name in enumerate(names):
        found[name] = []
        for series in values.values():
            known = [value for value in series[place] if value is not None]
            if len(known) < len(series[place]):
                found[name].append((None, None))
            else:
                found[name].append((fmean(known), [fmean(known) - stdev(known), fmean(known) + stdev(known)]))
    return found


def _write(
    pages: Pages,
    folder: Path,
    language: Language,
    *,
    title: str,
    about: str,
    figures: Mapping[str, Markup],
    tables: Sequence[StudyTable],
    notes: Sequence[str] = (),
    settings: str = "",
    links: Sequence[tuple[str, str]] = (),
) -> Path:
    page = pages.render(
        "study.html",
        language,
        style=Markup(stylesheet()),  # noqa: S704 -- our own file
        title=title,
        about=about,
        figures=figures,
        tables=tables,
        notes=notes,
        settings=settings,
        links=links,
    )
    path = folder / REPORT
    write_atomically(path, page.encode(), mode=0o644)
    return path


def _of(point: Mapping[str, Any], scope: str, name: str) -> float:
    found = point[scope][name] if scope == "own" else point[scope][name]["final"]
    value: float = found[MERIT]
    return value


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return figure(fmean(values)) if len(values) == 1 else f"{fmean(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return "–" if len(known) < len(values) else f"{fmean(known):.3f} ± {stdev(known):.3f}"


def _setting(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return count(value) if float(value).is_integer() else f"{value:.4g}"
