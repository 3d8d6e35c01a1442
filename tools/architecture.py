"""``python -m tools.architecture``: draw ``docs/architecture.svg`` from the code, folders as boxes and imports as lines.

A folder stands above those that it imports. The picture cannot lag behind the code: a test compares the two.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache
from html import escape

from tools.imports import PRODUCT, ROOT, folder_imports, folder_of, modules

PICTURE = ROOT / "docs" / "architecture.svg"
BANDS = (("simulations",), ("client", "server"), ("common",))
"""Top-level folders from above; those in one band do not know each other."""

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 156, 34, 10, 22, 14


def imports() -> dict[str, set[str]]:
    """Return the folders that each folder imports."""
    return {name: set(others) for name, others in folder_imports().items()}


def levels(top: str, edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the folders of ``top`` from above: each above all of the same top that it imports."""

    @cache
    def height(name: str) -> int:
        return 1 + max((height(other) for other in edges[name] if _top(other) == top), default=-1)

    rows: dict[int, list[str]] = defaultdict(list)
    for name in sorted(name for name in edges if _top(name) == top):
        rows[height(name)].append(name)
    return [rows[level] for level in sorted(rows, reverse=True)]


def _top(name: str) -> str:
    return name.split("/", maxsplit=1)[0]


def picture() -> str:
    """Return the SVG."""
    edges = imports()
    counts = Counter(folder_of(path) for path in modules(*PRODUCT).values() if path.name != "__main__.py")
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
        if _top(folder) == _top(other)
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
