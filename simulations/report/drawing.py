"""Figures as SVG inside a page: no script, no request, colours of the page's own, light and dark; text stays text.

Matplotlib draws with colours that stand for the page's (:data:`COLOURS`), and these are then replaced by the style sheet's
variables. An interactive library would add megabytes of script to every report, and tables stand beside all figures anyway.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from common.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

COLOURS: Final = 9
"""Series before colours come again; 0 is grey."""
_MARKERS: Final = "osD^vPXd*"
_TEXT, _LINE = "#00000a", "#00000b"
_MOST_POINTS = 3000


def dots(
    name: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[tuple[float | None, Sequence[float] | None]]],
    axis: str,
) -> Markup:
    """Values with their intervals, a row for each group, a mark for each series.

    Args:
        name: of the figure, unique in its page.
        groups: names of the rows.
        series: by name, for each group the value and the ends of its interval.
        axis: what is measured.
    """
    with _axes((7.2, 0.9 + 0.42 * max(len(groups), 1) * max(1, len(series) / 3)), name) as (axes, finished):
        for place, (label, values) in enumerate(series.items()):
            rows, means, ends = [], [], []
            for row, (mean, interval) in enumerate(values):
                if mean is not None:
                    rows.append(row + (place - (len(series) - 1) / 2) * 0.8 / len(series))
                    means.append(mean)
                    ends.append([mean - interval[0], interval[1] - mean] if interval else [0.0, 0.0])
            if means:
                reach = np.maximum(np.array(ends).T, 0.0)
                axes.errorbar(
                    means, rows, xerr=reach, fmt=_MARKERS[place % len(_MARKERS)], color=_colour(place + 1),
                    label=_plain(label), markersize=6, capsize=3, linewidth=1.5,
                )  # fmt: skip
        axes.set_yticks(range(len(groups)), [_plain(group) for group in groups])
        axes.set_ylim(len(groups) - 0.45, -0.55)
        axes.set_xlabel(_plain(axis))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return finished[0]


def lines(
    name: str, series: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str, *, logarithmic: bool = False
) -> Markup:
    """Points joined by lines, a colour and mark for each series.

    Args:
        name: of the figure, unique in its page.
        series: by name, pairs of where and what.
        across: what lies on the horizontal axis.
        up: on the vertical one.
        logarithmic: the horizontal axis.
    """
    with _axes((7.2, 3.2), name) as (axes, finished):
        for place, (label, points) in enumerate(series.items()):
            x, y = zip(*points, strict=True) if points else ((), ())
            axes.plot(
                x,
                y,
                color=_colour(place + 1),
                marker=_MARKERS[place % len(_MARKERS)],
                markersize=5,
                label=_plain(label),
            )
        if logarithmic:
            axes.set_xscale("log")
            where = sorted({x for points in series.values() for x, _ in points})
            axes.set_xticks(where, [f"{x:g}" for x in where])
            axes.minorticks_off()
        elif all(x == int(x) for points in series.values() for x, _ in points):
            axes.locator_params(axis="x", integer=True)
        axes.set_xlabel(_plain(across))
        axes.set_ylabel(_plain(up))
        if len(series) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return finished[0]


def cloud(
    points: NDArray[np.float64], names: Sequence[str], groups: Sequence[str], grey: str, axes_names: tuple[str, str]
) -> tuple[Markup, int]:
    """Items in the plane, coloured by group; pointing at one says what it is.

    Args:
        points: float64 ``[m, 2]``.
        names: of the points.
        groups: of the points.
        grey: the group that has no colour of its own.
        axes_names: what the axes are.

    Returns:
        The figure, and how many points it shows; of many an even share.
    """
    step = max(1, -(-len(points) // _MOST_POINTS))
    order = np.arange(0, len(points), step)
    labels = np.array(groups, dtype=object)
    present = set(groups)
    names_of_groups = [*([grey] if grey in present else []), *sorted(present - {grey})]
    titles: dict[str, list[str]] = {}
    with _axes((7.2, 6.2), "cloud", titles) as (axes, finished):
        for place, group in enumerate(names_of_groups):
            rows = order[labels[order] == group]
            colour = _colour(0 if group == grey else place + (grey not in present))
            drawn = axes.scatter(
                points[rows, 0], points[rows, 1], s=9 if group == grey else 16, color=colour, linewidths=0, alpha=0.75,
                label=_plain(group),
                marker="o" if group == grey else _MARKERS[place % len(_MARKERS)],
            )  # fmt: skip
            drawn.set_gid(f"group-{place}")
            titles[f"group-{place}"] = [f"{names[row]} · {group}" for row in rows]
        axes.set_xlabel(_plain(axes_names[0]))
        axes.set_ylabel(_plain(axes_names[1]))
        axes.grid(visible=False)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, markerscale=1.5)
    return finished[0], len(order)


def _colour(place: int) -> str:
    """A colour that stands for the style sheet's ``--cN``."""
    return f"#0000c{0 if place == 0 else (place - 1) % COLOURS + 1}"


def _plain(text: str) -> str:
    # Matplotlib leaves what begins with _ out of a legend.
    return visible(text).lstrip("_") or "–"


@contextmanager
def _axes(
    inches: tuple[float, float], name: str, titles: Mapping[str, Sequence[str]] | None = None
) -> Iterator[tuple[Axes, list[Markup]]]:
    """Axes to draw on; the finished figure is in the list once the block ends."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 10,
        "text.color": _TEXT, "axes.labelcolor": _TEXT, "xtick.color": _TEXT, "ytick.color": _TEXT,
        "axes.edgecolor": _LINE, "grid.color": _LINE, "axes.grid": True, "grid.linewidth": 0.6, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "legend.labelcolor": _TEXT,
        "text.parse_math": False,
    }  # fmt: skip
    finished: list[Markup] = []
    with mpl.rc_context(style):
        figure = Figure(figsize=inches, layout="constrained")
        yield figure.add_subplot(), finished
        written = io.StringIO()
        with warnings.catch_warnings():
            # Of characters that Matplotlib's own font lacks; the reader's browser draws them.
            warnings.filterwarnings("ignore", "Glyph", UserWarning)
            figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    finished.append(Markup(_in_page(written.getvalue(), titles or {})))  # noqa: S704 -- Matplotlib's, texts escaped


def _in_page(svg: str, titles: Mapping[str, Sequence[str]]) -> str:
    """A drawing as a part of a page: its colours and fonts the page's, its points named; the figure's caption says the rest."""
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for group, names in titles.items():
        svg = _with_titles(svg, group, names)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(r"#0000c(\d)\b", r"var(--c\1)", svg).replace(_TEXT, "currentColor").replace(_LINE, "var(--line)")
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _with_titles(svg: str, group: str, names: Sequence[str]) -> str:
    """Put each point's name into its ``<use>``; they stand in the order of drawing."""
    start = svg.index(f'<g id="{group}">')
    end = svg.index("</g>\n   </g>", start) if "</g>\n   </g>" in svg[start:] else len(svg)
    left = iter(names)

    def named(found: re.Match[str]) -> str:
        return f"{found[1]}><title>{escape(visible(next(left)))}</title></use>"

    return svg[:start] + re.sub(r"(<use [^>]*?)/>", named, svg[start:end]) + svg[end:]
