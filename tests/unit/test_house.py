"""How the code is laid out: folders that build on one another in one direction, of a size that can be read, and tests apart."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.imports import PRODUCT, ROOT, folder_imports, folder_of, imported, modules, rings

MOST_MODULES = 15
GLOSSARY = ROOT / "docs" / "glossary.md"


def test_no_two_folders_import_each_other() -> None:
    found = folder_imports()
    pairs = {(a, b): found[a][b] for a in found for b in found[a] if a in found[b] and a < b}
    assert pairs == {}


def test_no_folders_import_each_other_in_a_ring() -> None:
    assert rings(folder_imports()) == []


def test_a_ring_of_three_is_found() -> None:
    edges: dict[str, dict[str, object]] = {"a": {"b": 1}, "b": {"c": 1}, "c": {"a": 1}, "d": {"a": 1}}
    assert rings(edges) == [["a", "b", "c"]]


def test_nothing_imports_an_entry_point() -> None:
    everything = {name: imported(path) for name, path in modules(*PRODUCT).items()}
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
    sizes = Counter(folder_of(path) for path in modules(*PRODUCT).values() if path.name != "__init__.py")
    assert {name: size for name, size in sizes.items() if size > MOST_MODULES} == {}


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


def retired_words() -> dict[str, set[str]]:
    """The retired words of the glossary's table, each with the names in which it stays."""
    table = GLOSSARY.read_text().partition("## Retired words")[2]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")][2:]
    return {word.strip(): set(re.findall(r"`([^`]+)`", stays)) for words, _, stays in rows for word in words.split(",")}


def defined_names(path: Path) -> Iterator[str]:
    """Names of the module, its classes, functions and annotated fields."""
    yield path.stem
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_no_name_has_a_retired_word() -> None:
    retired = {word: stays for word, stays in retired_words().items() if " " not in word}
    assert {"ruler", "ground", "road", "elsewhere", "beside"} <= retired.keys()
    found = {
        f"{folder_of(path)}/{path.name}: {name}"
        for path in modules(*PRODUCT, "tools").values()
        for name in defined_names(path)
        for word in {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)} & retired.keys()
        if name not in retired[word]
    }
    assert found == set()


def test_no_text_has_a_retired_phrase() -> None:
    phrases = [word for word in retired_words() if " " in word]
    assert "linear road" in phrases
    texts = [*modules(*PRODUCT, "tests", "tools").values(), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    texts += (ROOT / "simulations").rglob("*.yaml")
    found = {
        (path.name, phrase)
        for path in texts
        for phrase in phrases
        if path not in (GLOSSARY, Path(__file__)) and phrase in " ".join(path.read_text().lower().split())
    }
    assert found == set()


def documented(path: Path) -> Iterator[tuple[str, str | None]]:
    """Names of a module's definitions, and of itself, with their docstrings."""
    tree = ast.parse(path.read_text())
    yield path.name, ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, ast.get_docstring(node)


def test_every_module_says_what_it_is_for_in_one_line() -> None:
    first = {
        f"{folder_of(path)}/{path.name}": (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        for path in modules(*PRODUCT, "tools").values()
    }
    assert [name for name, line in first.items() if len(line) < 15] == []


def test_no_docstring_opens_with_what() -> None:
    found = {
        f"{folder_of(path)}/{path.name}: {name}"
        for path in modules(*PRODUCT, "tests", "tools").values()
        for name, text in documented(path)
        if re.match(r"What\b", text or "")
    }
    assert found == set()


REGISTRATION = ("registry", "KINDS")
"""The one attribute of crossfed's that a test patches: adding a kind of contribution is one more entry there."""


def patched(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line and target of everything that a test patches: names from the root on."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("setattr", "delattr", "setitem", "delitem")
            and isinstance(node.func.value, ast.Name)
        ):
            target, *rest = node.args
            if isinstance(target, ast.Constant):
                yield node.lineno, tuple(str(target.value).split("."))
            else:
                name = rest[0].value if rest and isinstance(rest[0], ast.Constant) else "*"
                yield node.lineno, (*ast.unparse(target).split("."), str(name))


def outside_modules(path: Path) -> set[str]:
    """Names under which a file knows modules that are not crossfed's: the standard library's and others'."""
    found = {node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)}
    names = {alias.asname or alias.name.partition(".")[0]: alias.name for node in found for alias in node.names}
    return {name for name, module in names.items() if module.partition(".")[0] not in (*PRODUCT, "tests", "tools")}


def test_tests_patch_what_is_outside_of_crossfed_alone() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}: {'.'.join(target)}"
        for path in modules("tests").values()
        for line, target in patched(path)
        if (target[0] not in outside_modules(path) | {"os", "tempfile", "pathlib"} or any(map(is_private, target)))
        and target[-2:] != REGISTRATION
    }
    assert found == set(), "pass it in: CONTRIBUTING.md says what may be patched"


def is_private(name: str) -> bool:
    return name.startswith("_")


def test_no_test_uses_mocks() -> None:
    found = {path.name for path in modules("tests").values() if any(n.startswith("unittest") for n in imported(path))}
    assert found == set()


def test_names_of_tests_have_up_to_60_characters() -> None:
    found = {
        node.name
        for path in modules("tests").values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and len(node.name.removeprefix("test_")) > 60
    }
    assert found == set(), "say what holds in fewer words"
