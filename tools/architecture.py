"""``python -m tools.architecture``: draw ``docs/architecture.svg`` from the code, folders as boxes and imports as lines.

A folder stands above those that it imports. The picture cannot lag behind the code: a test compares the two.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
BANDS = (("simulations",), ("client", "server"), ("common",))
"""Top-level folders from above; those in one band do not know each other."""

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 156, 34, 10, 22, 14


def modules() -> dict[str, str]:
    """The folder of every module of the product, by its dotted name."""
    found = {}
    for top in (name for band in BANDS for name in band):
        for path in (ROOT / top).rglob("*.py"):
            if path.name != "__main__.py" and "_pb2" not in path.name:
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                found[name] = str(path.parent.relative_to(ROOT))
    return found


def imports() -> dict[str, set[str]]:
    """The folders that each folder imports."""
    known = modules()
    found: dict[str, set[str]] = defaultdict(set)
    for name, folder in known.items():
        path = ROOT / Path(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [target if target in known else node.module for target in targets]
            elif isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                continue
            found[folder] |= {known[target] for target in targets if target in known} - {folder}
        found[folder] |= set()
    return dict(found)


def levels(top: str, edges: dict[str, set[str]]) -> list[list[str]]:
    """The folders of ``top`` from above: each above all of the same top that it imports."""

    def height(folder: str, above: tuple[str, ...] = ()) -> int:
        # Of folders in a ring the one that is met first stands above.
        below = [o for o in sorted(edges[folder]) if o.split("/")[0] == top and o not in (*above, folder)]
        return 1 + max((heights.get(o) or height(o, (*above, folder)) for o in below), default=-1)

    heights: dict[str, int] = {}
    for folder in sorted(edges):
        if folder.split("/")[0] == top:
            heights[folder] = height(folder)
    rows: dict[int, list[str]] = defaultdict(list)
    for folder in sorted(edges):
        if folder.split("/")[0] == top:
            rows[heights[folder]].append(folder)
    return [rows[level] for level in sorted(rows, reverse=True)]


def picture() -> str:
    """The SVG."""
    edges = imports()
    counts: dict[str, int] = defaultdict(int)
    for folder in modules().values():
        counts[folder] += 1
    place: dict[str, tuple[int, int]] = {}
    frames, y, widest = [], _MARGIN, 0
    for band in BANDS:
        x, deepest = _MARGIN, 0
        for top in band:
            rows = levels(top, edges)
            columns = max(len(row) for row in rows)
            for depth, row in enumerate(rows):
                for column, folder in enumerate(row):
                    place[folder] = (
                        x + _MARGIN + column * (_WIDTH + _GAP_X),
                        y + 30 + depth * (_HEIGHT + _GAP_Y),
                    )
            width = columns * (_WIDTH + _GAP_X) + 2 * _MARGIN - _GAP_X
            frames.append((x, y, width, 30 + len(rows) * (_HEIGHT + _GAP_Y), top))
            x, deepest = x + width + 2 * _MARGIN, max(deepest, 30 + len(rows) * (_HEIGHT + _GAP_Y))
        widest, y = max(widest, x), y + deepest + 2 * _MARGIN
    lines = [
        _line(place[folder], place[other])
        for folder in sorted(edges)
        for other in sorted(edges[folder])
        if folder.split("/")[0] == other.split("/")[0]
    ]
    boxes = [_box(*place[folder], folder, counts[folder]) for folder in sorted(place)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {widest} {y}" font-family="sans-serif" role="img">',
            "<title>Folders of the code; each stands above those that it imports</title>",
            f'<rect width="{widest}" height="{y}" fill="#ffffff"/>',
            *(_frame(*frame) for frame in frames),
            *lines,
            *boxes,
            "</svg>\n",
        ]
    )


def _frame(x: int, y: int, width: int, height: int, top: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="#f3f5f9" stroke="#b8c2d4"/>'
        f'<text x="{x + 12}" y="{y + 20}" font-size="14" font-weight="bold" fill="#27344d">{escape(top)}</text>'
    )


def _box(x: int, y: int, folder: str, count: int) -> str:
    name = folder.partition("/")[2] or "(top)"
    return (
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="5" fill="#ffffff" stroke="#5b6b88"/>'
        f'<text x="{x + 8}" y="{y + 21}" font-size="12" fill="#1b2434">{escape(name)}</text>'
        f'<text x="{x + _WIDTH - 8}" y="{y + 21}" font-size="11" text-anchor="end" fill="#66738c">{count}</text>'
    )


def _line(above: tuple[int, int], below: tuple[int, int]) -> str:
    return (
        f'<line x1="{above[0] + _WIDTH // 2}" y1="{above[1] + _HEIGHT}" x2="{below[0] + _WIDTH // 2}" y2="{below[1]}" '
        'stroke="#8fa0bd" stroke-opacity="0.45"/>'
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
