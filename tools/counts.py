"""``python -m tools.counts [FOLDER...]``: count what makes a code base hard to live in, one column for each checkout."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from common.deploy.console import say
from tools.imports import PRODUCT, ROOT, folder_imports, folder_of, modules, rings

_HEIGHT = {"simulations": 2, "client": 1, "server": 1, "common": 0}
_KINDS = re.compile(r"\b(?:\w+\.)*(?:towers|linear|cooccurrence|update_plan|tower_plan)\b is (?:not )?None")
_LONG = 40
_SHORTEST_COPY = 60
"""Nodes of the syntax tree below which two equal functions are no duplicate."""


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    """Yield the functions and methods of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def lines(node: ast.FunctionDef) -> int:
    """Return the lines of a function, docstring left out."""
    text = node.body[0] if ast.get_docstring(node) else None
    inside = 0 if text is None or text.end_lineno is None else text.end_lineno - text.lineno + 1
    return (node.end_lineno or node.lineno) - node.lineno + 1 - inside


def body(node: ast.FunctionDef) -> str:
    """Return a function's statements without its name, docstring and places; empty where it is too short to compare."""
    statements = node.body[1:] if ast.get_docstring(node) else node.body
    nodes = sum(1 for each in statements for _ in ast.walk(each))
    return "" if nodes < _SHORTEST_COPY else "".join(ast.dump(each) for each in statements)


def counts(root: Path) -> dict[str, str]:
    """Return the counts of a checkout, by name."""
    found: dict[str, str] = {}
    for top in (*PRODUCT, "tests"):
        below = modules(top, root=root).values()
        found[f"{top}: files, lines"] = f"{len(below)}, {sum(len(p.read_text().splitlines()) for p in below):,}"
    paths = list(modules(*PRODUCT, root=root).values())
    edges = folder_imports(root)
    pairs = [(a, b) for a in edges for b in edges[a] if a < b and a in edges.get(b, {})]
    up = [a for a in edges for b in edges[a] if _floor(a) < _floor(b) or {_top(a), _top(b)} == {"client", "server"}]
    sizes = Counter(folder_of(path, root) for path in paths if path.name != "__init__.py")
    found["imports up the floors, between folders"] = str(len(up))
    found["pairs of folders that import each other"] = str(len(pairs))
    found["folders in a ring"] = str(sum(len(ring) for ring in rings(edges)))
    found["most modules in a folder"] = "{1} ({0})".format(*max(sizes.items(), key=lambda each: each[1]))
    found["`is None` checks on kinds of contribution"] = str(sum(len(_KINDS.findall(p.read_text())) for p in paths))
    everything = [(path, node) for path in paths for node in functions(path)]
    copies = Counter(body(node) for _, node in everything)
    found["functions with the same body as another"] = str(sum(n - 1 for text, n in copies.items() if text and n > 1))
    long = Counter(_sort(path) for path, node in everything if lines(node) > _LONG)
    found[f"functions longer than {_LONG} lines: product, benches, kernels and generated code"] = ", ".join(
        str(long[sort]) for sort in ("product", "bench", "kernel")
    )
    longest = sorted(((lines(node), node.name) for _, node in everything), reverse=True)[:3]
    found["longest functions"] = ", ".join(f"{name} {n}" for n, name in longest)
    found["files longer than 300 lines"] = str(sum(len(path.read_text().splitlines()) > 300 for path in paths))
    tests = [node.name for path in modules("tests", root=root).values() for node in functions(path)]
    found["names of tests above 60 characters"] = str(sum(len(name.removeprefix("test_")) > 60 for name in tests))
    texts = [path.read_text() for path in modules("tests", root=root).values()]
    found["`monkeypatch.setattr` in tests"] = str(sum(len(re.findall(r"patch\.setattr\(", text)) for text in texts))
    docstrings = [ast.get_docstring(node) or "" for _, node in everything]
    found["docstrings of functions that open with What"] = str(sum(text.startswith("What ") for text in docstrings))
    return found


def _sort(path: Path) -> str:
    """Which code a function belongs to, for its length.

    A kernel is long for a reason: what the compiler is to unroll and to keep in registers stands in one function.
    """
    if "bench" in path.parts:
        return "bench"
    compiled = path.stem.endswith("_pb2_grpc") or re.search(r"^ *(import|from) numba\b", path.read_text(), re.MULTILINE)
    return "kernel" if compiled else "product"


def _top(folder: str) -> str:
    return folder.split("/", maxsplit=1)[0]


def _floor(folder: str) -> int:
    return _HEIGHT[_top(folder)]


def main(folders: list[str]) -> None:
    """Print a table in Markdown, a column for each folder; without one, of this checkout."""
    columns = [counts(Path(folder).resolve()) for folder in folders or [str(ROOT)]]
    say("| | " + " | ".join(Path(folder).name for folder in folders or ["now"]) + " |")
    say("|---|" + "---|" * len(columns))
    for name in columns[-1]:
        say(f"| {name} | " + " | ".join(column.get(name, "") for column in columns) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
