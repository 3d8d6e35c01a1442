"""Reads which module imports which from the source, for the picture of the architecture and the tests of the layout."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRODUCT = ("simulations", "client", "server", "common")


@cache
def modules(*tops: str, root: Path = ROOT) -> dict[str, Path]:
    """Return the file of every module below ``tops`` by its dotted name, without generated code; a package by its own name."""
    found = {}
    for path in sorted(path for top in tops for path in (root / top).rglob("*.py") if "_pb2" not in path.name):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    return found


@cache
def imported(path: Path) -> frozenset[str]:
    """Return the dotted names that the file imports, wherever in it; of ``from a import b`` both ``a`` and ``a.b``.

    Raises:
        ValueError: an import is relative.
    """
    return frozenset(_names(path))


def _names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level or not node.module:
                raise ValueError(f"{path}:{node.lineno}: imports are absolute")
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def folder_of(path: Path, root: Path = ROOT) -> str:
    """Return the folder of a file, from the root of the repository."""
    return path.parent.relative_to(root).as_posix()


def folder_imports(root: Path = ROOT) -> dict[str, dict[str, list[str]]]:
    """Return what each folder of the product imports of others: folder, other folder, ``module -> module``.

    Entry points (``__main__``) are left out: they stand above all.
    """
    known = {name: path for name, path in modules(*PRODUCT, root=root).items() if path.name != "__main__.py"}
    found: dict[str, dict[str, list[str]]] = {folder_of(path, root): defaultdict(list) for path in known.values()}
    for name, path in known.items():
        names = {each for each in imported(path) if each in known}
        # ``from package import module`` is an import of the module; the package is then none.
        for each in sorted(each for each in names if not any(other.startswith(f"{each}.") for other in names)):
            if folder_of(known[each], root) != folder_of(path, root):
                found[folder_of(path, root)][folder_of(known[each], root)].append(f"{name} -> {each}")
    return found


def rings(edges: Mapping[str, Mapping[str, object]]) -> list[list[str]]:
    """Return the strongly connected sets of more than one folder (Tarjan 1972): those that reach each other by imports."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(here: str) -> None:
        order[here] = lowest[here] = len(order)
        stack.append(here)
        for other in edges[here]:
            if other not in order:
                visit(other)
                lowest[here] = min(lowest[here], lowest[other])
            elif other in stack:
                lowest[here] = min(lowest[here], order[other])
        if lowest[here] == order[here]:
            ring = [stack.pop()]
            while ring[-1] != here:
                ring.append(stack.pop())
            if len(ring) > 1:
                found.append(sorted(ring))

    for name in sorted(edges):
        if name not in order:
            visit(name)
    return found
