"""Hooks of the docs site (``mkdocs.yml``): a page for each module, and the pages that lie outside of ``docs/``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("client", "common", "server", "simulations")


def modules() -> Iterator[tuple[str, ...]]:
    """The dotted path of every module that is written by hand, packages first."""
    for package in PACKAGES:
        for path in sorted(
            (ROOT / package).rglob("*.py"), key=lambda path: (path.parent, path.name != "__init__.py", path)
        ):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if "_pb2" not in path.name and not path.name.startswith("__main__"):
                yield parts[:-1] if parts[-1] == "__init__" else parts


def on_config(config: Any) -> Any:
    """Put the modules' pages behind the others."""
    tree: dict[str, Any] = {}
    for parts in modules():
        level = tree
        for part in parts:
            level = level.setdefault(part, {})
    config["nav"].append({"API reference": [{name: _branch(below, (name,))} for name, below in tree.items()]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Make the pages that are in no folder of the docs."""
    from mkdocs.structure.files import File

    for parts in modules():
        files.append(File.generated(config, _page(parts), content=f"::: {'.'.join(parts)}\n"))
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "contributing.md", content=re.sub(r"\]\(docs/", "](", text)))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name others as Sphinx would have it, ``:class:`~client.privacy.spend.Spend```; make links of them."""
    return re.sub(r":\w+:<code>(~?)([\w.]+)</code>", _reference, html)


def _reference(found: re.Match[str]) -> str:
    short = found[2].rpartition(".")[2] if found[1] else found[2]
    return f'<autoref identifier="{found[2]}" optional><code>{short}</code></autoref>'


def _branch(below: dict[str, Any], parts: tuple[str, ...]) -> Any:
    """A page's path, or for a package the list of its own and its modules' pages."""
    if not below:
        return _page(parts)
    return [_page(parts), *({name: _branch(further, (*parts, name))} for name, further in below.items())]


def _page(parts: tuple[str, ...]) -> str:
    return "/".join(["reference", *parts]) + ".md"
