"""``crossfed-simulate map``: the space that a run's shared item factors span, in two dimensions, as PNG and HTML.

Distances are those of directions (the factors are brought to length 1, as for similar items): the length of an item's
factor is mostly its popularity. The projection is PCA, or t-SNE (van der Maaten & Hinton 2008), which keeps neighbours and
nothing else. Only a simulation can draw this: the owners of an item and every platform's titles are in one place here.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from client.data.described import Described, eighth_of, eighths_of
from client.personalization.platform_model import PlatformModel
from client.personalization.store import PlatformStore
from common.errors import ConfigError
from common.files import write_atomically
from simulations.output import locked_folder

Projection = Literal["pca", "tsne"]
PROJECTIONS: tuple[Projection, ...] = ("pca", "tsne")

SEVERAL, OTHER, NOTHING = "several platforms", "other", "none"
_VALUES_SHOWN = 8
_GREY = "#b8b8b8"
# Matplotlib's tab10 without its grey, which stands for what has no colour of its own.
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")
_SIDE = 720


@dataclass(frozen=True, eq=False, kw_only=True)
class ItemMap:
    """Items in the plane.

    Attributes:
        points: float64 ``[m, 2]``.
        titles: the key's title where some platform told it, else empty.
        platform: per item the platform that has it, or ``several platforms``.
        values: by attribute that is told of some item, genres first: per item its value, the first of those that are among
            the most frequent, ``other`` or ``none``; of a number the eighth of the items that it lies in.
        axes: what the two axes are.
    """

    points: NDArray[np.float64]
    titles: tuple[str, ...]
    platform: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    axes: tuple[str, str]

    @property
    def colourings(self) -> dict[str, tuple[str, ...]]:
        """By name all ways to group the items."""
        return {"platform": self.platform, **{f"attribute {name}": own for name, own in self.values.items()}}


def draw_map(
    run: Path, folder: Path, *, projection: Projection = "pca", seed: int = 0, by: str | None = None
) -> list[Path]:
    """Draw ``map.png`` and ``map.html``.

    Args:
        run: what ``crossfed-simulate run --output`` wrote.
        folder: made when it is not there.
        projection: ``pca`` or ``tsne``.
        seed: of t-SNE.
        by: attribute that colours the picture's right half; None: the first. The page has all of them.

    Returns:
        The two files.

    Raises:
        ConfigError: ``run`` is no folder of a run, there are too few items, or nothing is told by the attribute.
        StoreError: a platform's store is damaged.
    """
    found = item_map(_models(run), projection=projection, seed=seed)
    if by is not None and by not in found.values:
        raise ConfigError(f"--by {by}: colours nothing; there are {', '.join(found.values) or 'no attributes'}")
    files = [folder / "map.png", folder / "map.html"]
    with locked_folder(folder):
        _draw(files[0], found, by or next(iter(found.values), None))
        write_atomically(files[1], map_page(found, run.name).encode(), mode=0o644)
    return files


def items_of(run: Path) -> ItemMap | None:
    """The map of a run's items by PCA; None where there are too few, or no stores.

    Raises:
        StoreError: a platform's store is damaged.
    """
    try:
        return item_map(_models(run))
    except ConfigError:
        return None


def item_map(models: Sequence[PlatformModel], *, projection: Projection = "pca", seed: int = 0) -> ItemMap:
    """Lay out the vocabulary's items.

    Args:
        models: of all platforms after the same run; the factors are the same in each.
        projection: ``pca`` or ``tsne``.
        seed: of t-SNE.

    Raises:
        ConfigError: fewer than 4 items.
    """
    first = models[0]
    factors = first.shared.item_parameters[:, : first.shared.config.dimension].astype(np.float64)
    if len(factors) < 4:
        raise ConfigError(f"the run has {len(factors)} shared items; a map needs 4")
    length = np.linalg.norm(factors, axis=1, keepdims=True)
    unit = np.divide(factors, length, out=np.zeros_like(factors), where=length > 0)
    points, axes = _pca(unit) if projection == "pca" else (_tsne(unit, seed), ("t-SNE 1", "t-SNE 2"))
    owners = [
        first.platforms[int(np.argmax(row))] if row.sum() == 1 else SEVERAL for row in first.owners.astype(np.int64)
    ]
    told = _told(models)
    return ItemMap(points=points, titles=told.texts("title"), platform=tuple(owners), values=_groups(told), axes=axes)


def _told(models: Sequence[PlatformModel]) -> Described:
    """All that some platform tells of the items, the first one's word where several do."""
    every = np.arange(len(models[0].vocabulary.keys))
    found = models[-1].vocabulary.described
    for model in reversed(models[:-1]):
        own = model.vocabulary.described
        found = own.over(found.agreed({**own.kinds, **found.kinds}, len(every)), every, every)
    return found


def _models(run: Path) -> list[PlatformModel]:
    stores = sorted(path for path in (run / "platforms").glob("*/store") if path.is_dir())
    if not stores:
        raise ConfigError(f"{run}: is no folder of a finished run; give what crossfed-simulate run --output wrote")
    return [PlatformStore(store).load() for store in stores]


def _pca(unit: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[str, str]]:
    left, singular, _ = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    points = np.zeros((len(unit), 2))
    some = min(2, len(singular))
    points[:, :some] = left[:, :some] * singular[:some]
    # A sign is no property of the data; the largest coordinate is positive.
    points *= np.where(np.take_along_axis(points, np.abs(points).argmax(axis=0)[None], axis=0) < 0, -1.0, 1.0)
    total = float(np.square(singular).sum()) or 1.0
    shares = [float(s) ** 2 / total for s in singular[:2]] + [0.0]
    return points, (f"PC 1 ({shares[0]:.0%} of variance)", f"PC 2 ({shares[1]:.0%} of variance)")


def _tsne(unit: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(unit) - 1) / 3)
    layout = TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    points: NDArray[np.float64] = np.asarray(layout.fit_transform(unit), dtype=np.float64)
    return points


def _groups(told: Described) -> dict[str, tuple[str, ...]]:
    found = {name: _frequent(values) for name, values in told.categories()}
    for name in told.of_kind("number"):
        numbers = told.numbers(name)
        ends = eighths_of(numbers)
        found[name] = _frequent([eighth_of(number, ends) for number in numbers.tolist()])
    return {name: own for name, own in found.items() if set(own) != {NOTHING}}


def _frequent(values: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    counts = Counter(name for own in values for name in own)
    # By count, then by name, so that a map repeats.
    shown = {name for name, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:_VALUES_SHOWN]}
    return tuple(next((name for name in own if name in shown), OTHER) if own else NOTHING for own in values)


def _palette(groups: Sequence[str]) -> dict[str, str]:
    """A colour by group, in order of the legend; grey for what is no group of its own. Beyond nine, colours come again."""
    plain = sorted(set(groups) - {SEVERAL, OTHER, NOTHING})
    colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(plain)}
    return colours | {name: _GREY for name in (SEVERAL, OTHER, NOTHING) if name in groups}


def _draw(path: Path, found: ItemMap, by: str | None) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    FigureCanvasAgg(figure)
    shown = {"platform": found.platform} | ({} if by is None else {by: found.values[by]})
    for place, (title, groups) in enumerate(shown.items()):
        axes = figure.add_subplot(1, len(shown), place + 1)
        palette, of_items = _palette(groups), np.array(groups)
        # Grey first, so that it lies below.
        for name in reversed(palette):
            some = found.points[of_items == name]
            axes.scatter(some[:, 0], some[:, 1], s=8, alpha=0.7, linewidths=0, color=palette[name], label=name)
        axes.set_xlabel(found.axes[0])
        axes.set_ylabel(found.axes[1])
        axes.set_title(f"{len(found.titles):,} shared items by {title}", fontsize=10)
        handles, labels = axes.get_legend_handles_labels()
        # matplotlib takes $…$ for mathematics.
        labels = [label.replace("$", r"\$") for label in labels]
        axes.legend(handles[::-1], labels[::-1], fontsize=8, markerscale=2)
    figure.savefig(path, dpi=150)


def map_page(found: ItemMap, name: str) -> str:
    """One file without anything from elsewhere: dots that say what they are, coloured by platform or attribute at a click."""
    low, high = found.points.min(axis=0), found.points.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    placed = 10 + (found.points - low) / spread * (_SIDE - 20)
    palettes = [_palette(groups) for groups in found.colourings.values()]
    dots = []
    for (x, y), title, *groups in zip(placed, found.titles, *found.colourings.values(), strict=True):
        tip = html.escape(f"{title or 'untitled'}\n{' · '.join(groups)}")
        data = " ".join(f'data-g{place}="{html.escape(group)}"' for place, group in enumerate(groups))
        dots.append(f'<circle cx="{x:.1f}" cy="{_SIDE - y:.1f}" r="3" {data}><title>{tip}</title></circle>')
    choices = "\n".join(
        f'<label><input type="radio" name="by" value="{place}"{"" if place else " checked"}> by {html.escape(name)}</label>'
        for place, name in enumerate(name.removeprefix("attribute ") for name in found.colourings)
    )
    # "</" would end the script.
    colours = json.dumps(palettes).replace("<", "\\u003c")
    return _PAGE.format(
        name=html.escape(name), items=f"{len(dots):,}", side=_SIDE, dots="\n".join(dots), colours=colours,
        choices=choices, x=html.escape(found.axes[0]), y=html.escape(found.axes[1]),
    )  # fmt: skip


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Item map of {name}</title>
<style>
body {{ font: 14px sans-serif; margin: 1.5em; display: flex; flex-wrap: wrap; gap: 2em }}
svg {{ border: 1px solid #ddd; max-width: 100% }} circle {{ fill-opacity: .75 }}
circle:hover {{ stroke: #000; r: 5px }} li {{ list-style: none; margin: .2em 0 }} ul {{ padding: 0 }}
i {{ display: inline-block; width: .9em; height: .9em; margin-right: .5em; border-radius: 50% }}
</style></head><body>
<div><svg width="{side}" height="{side}" viewBox="0 0 {side} {side}" role="img" aria-label="Item map">
{dots}
</svg><p>→ {x} &nbsp; ↑ {y}</p></div>
<div><h1>{name}</h1><p>{items} shared items. Point at a dot to see what it is.</p>
<p>{choices}</p><ul id="legend"></ul></div>
<script>
const colours = {colours};
function paint(by) {{
  for (const dot of document.querySelectorAll("circle")) dot.setAttribute("fill", colours[by][dot.dataset["g" + by]]);
  const legend = document.getElementById("legend");
  legend.replaceChildren();
  for (const [name, colour] of Object.entries(colours[by])) {{
    const line = document.createElement("li"), mark = document.createElement("i");
    mark.style.background = colour;
    line.append(mark, name);
    legend.append(line);
  }}
}}
for (const choice of document.querySelectorAll("input")) choice.addEventListener("change", () => paint(choice.value));
paint("0");
</script></body></html>
"""
