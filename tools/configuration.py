"""``python -m tools.configuration``: write ``docs/configuration.md`` from the models that read the configurations.

A key is described where it is declared, by the docstring below it; so the page cannot lag behind the code, and a test says so.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common.attributes import AttributeKind
from common.config.attributes import AgreedAttributes
from common.config.federation import FederationPlan
from common.deploy.roles import AggregatorConfig, PlatformConfig
from simulations.scenarios.scenario import Scenario

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

_INTRODUCTION = """\
# Configuration reference

Every key that the three kinds of files may hold. This page is written by `make docs-reference` from the models that read the
files (`common/config/`, `simulations/scenarios/scenario.py`): change a description there.

A key that does not exist is refused, with the nearest one that does. Files are YAML 1.2: `yes` and `12:30` are text, `1e-3`
is a number. A relative path starts at the file's own folder; it may begin with `~` or an environment variable
(`$DATA/views.csv`).
"""


@dataclass(frozen=True)
class Chapter:
    """One file: its title, what is said of it, its model, and the path of the model's own keys."""

    title: str
    text: str
    model: type[BaseModel]
    prefix: str = ""


CHAPTERS = (
    Chapter(
        "federation.yaml",
        "The aggregator's. `crossfed-server init` writes it; the other commands take it by `--config`, `-c`.",
        AggregatorConfig,
    ),
    Chapter(
        "platform.yaml",
        "A platform's. `crossfed-client join` writes it; `--config`, `-c` names it. `SIGHUP` to `crossfed-client start` reads "
        "it again.",
        PlatformConfig,
    ),
    Chapter(
        "plan", "A section of all three files: the same for the aggregator and every platform.", FederationPlan, "plan"
    ),
    Chapter("Scenarios", "What `crossfed-simulate run FILE.yaml` reads ([scenarios](scenarios.md)).", Scenario),
)

_PLAIN = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text", Path: "path"}
_PLAIN[AgreedAttributes] = "mapping of names to: " + ", ".join(f"`{kind}`" for kind in get_args(AttributeKind))


@dataclass(frozen=True)
class Key:
    """One key of a file.

    Attributes:
        path: dotted; ``[]`` stands for the entries of a list, ``NAME`` for a name of one's own.
        kind: what may be there, in words.
        default: as YAML; ``required`` where there is none.
        description: Markdown.
        unit: of the number, or empty.
        section: the model of the section below it, if it is one.
    """

    path: str
    kind: str
    default: str
    description: str
    unit: str
    section: type[BaseModel] | None


def keys_of(model: type[BaseModel], prefix: str = "") -> list[Key]:
    """The keys that a model declares, in its order; not those of the sections below."""
    return [_key(name, field, prefix) for name, field in model.model_fields.items()]


def page() -> str:
    """The whole page."""
    shown: dict[type[BaseModel], str] = {chapter.model: chapter.title for chapter in CHAPTERS}
    parts = [_INTRODUCTION]
    for chapter in CHAPTERS:
        below = _sections(chapter, shown)
        parts.append(f"## {chapter.title}\n\n{chapter.text}\n\n{_table(keys_of(chapter.model, chapter.prefix), shown)}")
        parts += [_section(path, model, shown) for path, model in below]
    return "\n".join(parts)


def _sections(chapter: Chapter, shown: dict[type[BaseModel], str]) -> list[tuple[str, type[BaseModel]]]:
    """The sections below a chapter that no earlier one has; notes in ``shown`` where each one stands."""
    found: list[tuple[str, type[BaseModel]]] = []

    def visit(model: type[BaseModel], prefix: str) -> None:
        for key in keys_of(model, prefix):
            if key.section is not None and key.section not in shown:
                # Two files may have a section of one name.
                taken = key.path in shown.values()
                shown[key.section] = f"{key.path} ({chapter.title})" if taken else key.path
                found.append((key.path, key.section))
                visit(key.section, key.path)

    visit(chapter.model, chapter.prefix)
    return found


def _section(path: str, model: type[BaseModel], shown: dict[type[BaseModel], str]) -> str:
    said = _markdown(inspect.cleandoc(model.__doc__ or ""), lines=True)
    return f"### {shown[model]}\n\n{said}\n\n{_table(keys_of(model, path), shown)}"


def _table(keys: Sequence[Key], shown: dict[type[BaseModel], str]) -> str:
    rows = ["| key | values | default | what it is |", "|---|---|---|---|"]
    for key in keys:
        name = f"`{key.path}`"
        if key.section is not None:
            name = f"[{name}](#{_anchor(shown[key.section])})"
        values, either, rest = key.kind.partition(" or ")
        values += (f" ({key.unit})" if key.unit else "") + either + rest
        rows.append(f"| {name} | {_cell(values)} | {_cell(key.default)} | {_cell(key.description)} |")
    return "\n".join(rows) + "\n"


def _key(name: str, field: FieldInfo, prefix: str) -> Key:
    kind, section = _kind(field.annotation, field.metadata)
    several = "[]" if kind.startswith("list of") else ".NAME" if kind.startswith("mapping") else ""
    path = f"{prefix}.{name}" if prefix else name
    return Key(
        path=path + several if section is not None else path,
        kind=kind,
        default=_default(field),
        description=_markdown(field.description or ""),
        unit=next((str(unit) for unit in _units(field, field.annotation)), ""),
        section=section,
    )


def _kind(annotation: Any, metadata: Sequence[Any] = ()) -> tuple[str, type[BaseModel] | None]:
    """Return what may be there, in words, and the model of the section if it is one."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [part for one in arguments[1:] for part in (one.metadata if isinstance(one, FieldInfo) else [one])]
        return _kind(arguments[0], inner)
    if origin in (Union, UnionType):
        kinds = [_kind(one, metadata) for one in arguments if one is not NoneType]
        words = list(dict.fromkeys(word for word, _ in kinds)) + (["null"] if NoneType in arguments else [])
        return " or ".join(words), next((section for _, section in kinds if section is not None), None)
    if origin in (tuple, dict):
        word, section = _kind(arguments[0] if origin is tuple else arguments[1])
        many = (
            "mapping of names to"
            if origin is dict
            else "list of"
            if arguments[-1] is Ellipsis
            else f"{len(arguments)} of"
        )
        return f"{many}: {word}", section
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments), None
    if issubclass(annotation, BaseModel):
        return "section", annotation
    return _PLAIN[annotation] + _bounds(metadata), None


def _bounds(metadata: Sequence[Any]) -> str:
    signs: tuple[tuple[type, str, str], ...] = ((Gt, ">", "gt"), (Ge, "≥", "ge"), (Lt, "<", "lt"), (Le, "≤", "le"))
    found = [
        f"{sign} {getattr(one, name):,}" for kind, sign, name in signs for one in metadata if isinstance(one, kind)
    ]
    return f" {', '.join(found)}" if found else ""


def _units(field: FieldInfo | None, annotation: Any) -> Iterator[Any]:
    if field is not None and isinstance(field.json_schema_extra, dict) and "unit" in field.json_schema_extra:
        yield field.json_schema_extra["unit"]
    for one in get_args(annotation):
        yield from _units(one, None) if isinstance(one, FieldInfo) else _units(None, one)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "as below"
    if isinstance(value, Path):
        value = value.as_posix()
    if isinstance(value, AgreedAttributes):
        value = value.kinds
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000, allow_unicode=True)
    text = text.removesuffix("...\n").strip()
    return f"`{text}`" if text else "empty"


def _markdown(text: str, *, lines: bool = False) -> str:
    """A docstring's reStructuredText as Markdown."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    return text if lines else " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _anchor(heading: str) -> str:
    """As GitHub and MkDocs make it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
