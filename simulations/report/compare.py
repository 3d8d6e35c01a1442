"""Runs side by side: what each reached, what it cost, and by which keys of their configurations they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from common.deploy.console import PlainTable
from common.errors import ConfigError
from common.files import write_atomically
from common.web.pages import Pages, figure, interval, share, signed, size, stylesheet
from common.web.texts import Language
from simulations.evaluation.paired import paired_difference
from simulations.report.drawing import dots
from simulations.report.page import MERIT, PACKAGE, read_run


@dataclass(frozen=True, kw_only=True)
class Line:
    """One quantity of all runs.

    Attributes:
        platform: whose; None for the whole run.
        what: key of its text.
        cells: a text for each run; a dash where a run does not have it.
        values: the figure and the ends of its interval for each run; None for what is no figure of merit.
    """

    platform: str | None
    what: str
    cells: tuple[str, ...]
    values: tuple[tuple[float | None, Sequence[float] | None], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Compares what a run serves with what the first one serves, user by user.

    Attributes:
        platform: whose users.
        what: key of its text.
        run: the other run's name.
        mean, low, high: of the difference, and its 95 % interval.
    """

    platform: str
    what: str
    run: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Attributes:
    names: of the runs.
    lines: what is compared.
    paired: differences from the first run, of those runs and platforms that measured the same users.
    differences: value in each run by configuration key, for the keys in which any two differ; None: a run does not say.
    """

    names: tuple[str, ...]
    lines: tuple[Line, ...]
    differences: Mapping[str, tuple[str, ...]] | None
    paired: tuple[Paired, ...] = ()


_MERITS = {
    "own_local": ("own", "local"),
    "own_shared": ("own", "shared"),
    "own_served": ("own", "final"),
    "others_popularity": ("cross", "popularity"),
    "others_served": ("cross", "final"),
    "others_ceiling": ("cross", "ceiling"),
}


def compare_runs(runs: Sequence[Path]) -> Comparison:
    """Read runs and lay them side by side.

    Args:
        runs: two folders or more.

    Raises:
        ConfigError: fewer than two, or one is no folder of a finished run.
    """
    if len(runs) < 2:
        raise ConfigError("compare: give two runs or more, each a folder that crossfed-simulate run --output wrote")
    contents = [read_run(run) for run in runs]
    platforms = list(dict.fromkeys(name for content in contents for name in content["platforms"]))
    lines = [line for platform in platforms for line in _of_platform(platform, contents)]
    return Comparison(
        names=_names(runs),
        lines=(*lines, *_of_runs(contents)),
        differences=_differences(contents),
        paired=tuple(_paired(runs, contents, platforms)),
    )


def paired_table(found: Comparison) -> PlainTable:
    """For the terminal: differences from the first run over the same users."""
    texts = Pages(PACKAGE).texts
    title = f"{MERIT}, each run less {found.names[0]}, same users, 95 % interval"
    table = PlainTable("platform", "what", "run", "difference", title=title, lined=True, padding=(0, 1, 0, 0))
    for one in found.paired:
        difference = f"{signed(one.mean)} ({signed(one.low)} to {signed(one.high)})"
        table.add_row(one.platform, texts.say("en", f"line_{one.what}"), one.run, difference)
    return table


def comparison_table(found: Comparison) -> PlainTable:
    """For the terminal; figures with their 95 % intervals."""
    texts = Pages(PACKAGE).texts
    table = PlainTable("platform", "what", title=f"{MERIT}, 95 % interval", lined=True, padding=(0, 1, 0, 0))
    for name in found.names:
        table.add_column(name, justify="right")
    for line in found.lines:
        table.add_row(line.platform or "", texts.say("en", f"line_{line.what}"), *line.cells)
    return table


def write_comparison(found: Comparison, path: Path, *, language: Language = "en") -> None:
    """Write the page.

    Raises:
        StoreError: it cannot be written.
    """
    pages = Pages(PACKAGE)
    page = pages.render(
        "compare.html",
        language,
        style=Markup(stylesheet()),  # noqa: S704 -- our own file
        title=pages.texts.say(language, "comparison"),
        found=found,
        figures={
            what: _figure(found, what, pages, language)
            for what in ("own_served", "others_served")
            if any(line.what == what for line in found.lines)
        },
    )
    write_atomically(path, page.encode(), mode=0o644)


def _figure(found: Comparison, what: str, pages: Pages, language: Language) -> Markup:
    lines = [line for line in found.lines if line.what == what and line.values is not None]
    series = {
        name: [line.values[place] for line in lines if line.values is not None]
        for place, name in enumerate(found.names)
    }
    return dots(what, [line.platform or "" for line in lines], series, pages.texts.say(language, "recall"))


_DATA_KEYS = ("platforms", "partition")
_SERVED = {"own": "own_served", "cross": "others_served"}


def _paired(runs: Sequence[Path], contents: Sequence[Mapping[str, Any]], platforms: Sequence[str]) -> Iterator[Paired]:
    names = _names(runs)
    for platform in platforms:
        for scope, what in _SERVED.items():
            for other in range(1, len(runs)):
                if not _same_test(contents[0], contents[other]):
                    continue
                found = paired_difference((runs[0], runs[other]), platform, scope)
                if found is not None:
                    mean, low, high = found
                    yield Paired(platform=platform, what=what, run=names[other], mean=mean, low=low, high=high)


def _same_test(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs test the same users on the same interactions: the same data, cut by the same seed and split."""
    same = all(one[key] == other[key] for key in ("seed", "split", "protocol"))
    if not same or "configuration" not in one or "configuration" not in other:
        return False
    return all(one["configuration"].get(key) == other["configuration"].get(key) for key in _DATA_KEYS)


def _names(runs: Sequence[Path]) -> tuple[str, ...]:
    """The folders' names; where two are the same, their paths."""
    names = [run.resolve().name for run in runs]
    return tuple(names) if len(set(names)) == len(names) else tuple(str(run) for run in runs)


def _of_platform(platform: str, contents: Sequence[Mapping[str, Any]]) -> list[Line]:
    parts = [content["platforms"].get(platform) for content in contents]
    verdicts = tuple("–" if part is None else str(part["verdict"]) for part in parts)
    lines = [Line(platform=platform, what="verdict", cells=verdicts)]
    for what, (scope, scorer) in _MERITS.items():
        blocks = [None if part is None or part[scope] is None else part[scope][scorer] for part in parts]
        if any(blocks):
            values = tuple((None, None) if one is None else (one[MERIT], one["ci95"].get(MERIT)) for one in blocks)
            cells = tuple(f"{figure(value)} {interval(ends)}".strip() for value, ends in values)
            lines.append(Line(platform=platform, what=what, cells=cells, values=values))
    gaps = [None if part is None or part["cross"] is None else part["cross"]["gap_closed"] for part in parts]
    if any(gap is not None for gap in gaps):
        lines.append(Line(platform=platform, what="gap_closed", cells=tuple(share(gap) for gap in gaps)))
    return lines


def _of_runs(contents: Sequence[Mapping[str, Any]]) -> list[Line]:
    def line(what: str, *cells: str) -> Line:
        return Line(platform=None, what=what, cells=cells)

    epsilons = [content["privacy"].get("epsilon") for content in contents]
    return [
        line("epsilon", *("–" if epsilon is None else f"{epsilon:g}" for epsilon in epsilons)),
        line("rounds", *(str(len(content["rounds"])) for content in contents)),
        line("up", *(size(sum(record["bytes_up"] for record in content["rounds"])) for content in contents)),
        line("down", *(size(sum(record["bytes_down"] for record in content["rounds"])) for content in contents)),
        line("seconds", *(f"{content['seconds']['total']:.1f} s" for content in contents)),
    ]


def _differences(contents: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]] | None:
    if any("configuration" not in content for content in contents):
        return None
    flat = [dict(_flat(content["configuration"])) for content in contents]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = {key: tuple(one.get(key, "–") for one in flat) for key in keys}
    return {key: cells for key, cells in rows.items() if len(set(cells)) > 1}


def _flat(value: Any, at: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [pair for key, part in value.items() for pair in _flat(part, f"{at}.{key}" if at else str(key))]
    if isinstance(value, list) and any(isinstance(part, (Mapping, list)) for part in value):
        return [pair for place, part in enumerate(value) for pair in _flat(part, f"{at}.{place}")]
    return [(at, str(value))]
