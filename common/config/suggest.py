"""The known key nearest to a mistyped one, found by walking the models' own fields."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

_CLOSE = 0.6
_MAX_DEPTH = 8


def nearest_key(model: type[BaseModel], location: Sequence[int | str]) -> str | None:
    """The known key path that an unknown one was probably meant to be.

    Args:
        model: the root model.
        location: pydantic's location of the unknown key; its last part is the unknown key.

    Returns:
        the nearest key beside the unknown one; else the same or nearest key anywhere in ``model``; else None. A key
        beside it is given alone, one from elsewhere as its whole path.
    """
    unknown = str(location[-1])
    types: list[Any] = [model]
    for part in location[:-1]:
        # A part that no type has is the tag of a union's member, which pydantic puts into the location: stay.
        types = [inner for outer in types for inner in _step(outer, part)] or types
    siblings = [name for candidate in types if _is_model(candidate) for name in _fields(candidate)]
    beside = difflib.get_close_matches(unknown, siblings, n=1, cutoff=_CLOSE)
    if beside:
        return beside[0]
    by_leaf: dict[str, str] = {}
    for path in known_paths(model):
        by_leaf.setdefault(path.rpartition(".")[2], path)
    elsewhere = difflib.get_close_matches(unknown, by_leaf, n=1, cutoff=0.75)
    return by_leaf[elsewhere[0]] if elsewhere else None


def known_keys(model: type[BaseModel]) -> tuple[str, ...]:
    """The keys at the top of ``model``."""
    return tuple(_fields(model))


def known_paths(model: type[BaseModel], prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Every dotted key path of ``model``, parents before children; list elements and dict keys show as ``*``."""
    for name, annotation in _fields(model).items():
        path = f"{prefix}{name}"
        yield path
        for inner, below in _reachable_models(annotation):
            if depth < _MAX_DEPTH:
                yield from known_paths(inner, f"{path}.{below}", depth + 1)


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union, with Annotated taken off."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [inner for member in get_args(annotation) for inner in _members(member)]
    return [annotation]


def _element(annotation: Any) -> Any:
    """Return what a list, tuple or dict holds; None for anything else."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not isinstance(origin, type) or not arguments:
        return None
    if issubclass(origin, Mapping):
        return arguments[1]
    return arguments[0] if issubclass(origin, Collection) else None


def _reachable_models(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    for member in _members(annotation):
        if _is_model(member):
            yield member, ""
        elif _element(member) is not None:
            for inner, below in _reachable_models(_element(member)):
                yield inner, f"*.{below}"


def _step(candidate: Any, part: int | str) -> list[Any]:
    """The types below ``candidate`` at ``part``; none where it has no such part."""
    if _is_model(candidate):
        return _members(_fields(candidate)[str(part)]) if part in _fields(candidate) else []
    element = _element(candidate)
    return [] if element is None else _members(element)
