"""How the code is laid out: folders that build on one another in one direction, of a size that can be read, and tests apart."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("client", "common", "server", "simulations")
MOST_MODULES = 15
LARGER = {
    "client/privacy": 16,  # until what masks has a folder of its own
    "simulations/audit": 20,  # until the audit of the path from files has one
}


@cache
def modules(*tops: str) -> dict[str, Path]:
    """The file of every module below ``tops`` by its dotted name; a package by its own."""
    found = {}
    for path in sorted(path for top in tops for path in (ROOT / top).rglob("*.py") if "_pb2" not in path.name):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Dotted names that the file imports, wherever in it; of ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def folder(path: Path) -> str:
    return str(path.parent.relative_to(ROOT))


def arrows() -> dict[tuple[str, str], list[str]]:
    """Which folder imports from which, with the modules that do. Entry points stand above all, and nothing imports them."""
    known, found = modules(*PRODUCT), defaultdict(list)
    for name, path in known.items():
        if path.name == "__main__.py":
            continue
        names = {each for each in imported(path) if each in known}
        # ``from package import module`` is an import of the module; the package is then none.
        precise = {each for each in names if not any(other.startswith(f"{each}.") for other in names)}
        for each in precise:
            if folder(known[each]) != folder(path):
                found[folder(path), folder(known[each])].append(f"{name} -> {each}")
    return found


def test_no_two_folders_import_each_other() -> None:
    found = arrows()
    circles = {pair: min(found[pair], found[pair[::-1]], key=len) for pair in found if pair[::-1] in found}
    assert {pair: lines for pair, lines in circles.items() if pair[0] < pair[1]} == {}


def test_nothing_imports_an_entry_point() -> None:
    everything = {name: set(imported(path)) for name, path in modules(*PRODUCT).items()}
    assert [name for name, names in everything.items() if any(each.endswith(".__main__") for each in names)] == []


def test_configuration_is_data() -> None:
    above = (
        "common.contributions",
        "common.privacy",
        "common.deploy",
        "common.wire",
        "client",
        "server",
        "simulations",
    )
    for name, path in modules("common").items():
        if name.startswith("common.config"):
            assert [each for each in imported(path) if each.startswith(above)] == [], name


def test_no_folder_has_more_than_about_fifteen_modules() -> None:
    sizes = Counter(folder(path) for path in modules(*PRODUCT).values() if path.name != "__init__.py")
    assert {name: size for name, size in sizes.items() if size > LARGER.get(name, MOST_MODULES)} == {}


@pytest.mark.parametrize("name", [name for name in modules("tests") if name.rpartition(".")[2].startswith("test_")])
def test_no_test_imports_another_test(name: str) -> None:
    path = modules("tests")[name]
    others = {
        each for each in imported(path) if each in modules("tests") and each.rpartition(".")[2].startswith("test_")
    }
    assert others == set(), "what tests share has its place in tests/support"


def test_only_tests_of_benches_import_benches() -> None:
    for name, path in modules("tests").items():
        if not name.startswith("tests.unit.simulations.bench"):
            assert [each for each in imported(path) if each.startswith("simulations.bench.")] == [], name
