"""YAML into frozen models: every problem named by file and key path, with the nearest known key.

Files are read by PyYAML's safe loader as YAML 1.2's core schema: ``yes`` and ``12:30`` stay text, ``1e-3`` is a number.
Values that may be secret are never repeated in a message.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ValidationError, ValidationInfo

from common.config.suggest import nearest_key
from common.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

_SECRET = re.compile(r"secret|password|passphrase|token|credential|private_key", re.IGNORECASE)
_SHOWN_CHARACTERS = 60


def _resolve(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base_directory")
    path = Path(os.path.expandvars(path.expanduser()))
    if "$" in path.parts[0]:
        raise ValueError(f"{path.parts[0]} is not set: give --data DIR or export {path.parts[0].strip('${}')}")
    return path if base is None else Path(base) / path


ConfigPath = Annotated[Path, AfterValidator(_resolve)]
"""A path inside a configuration; a relative one is taken from the configuration file's own folder. It may begin with an
environment variable: ``$CROSSFED_DATA/ml1m/ratings.parquet``."""


def load_yaml_model(path: Path, model: type[M], overrides: Sequence[str] = ()) -> M:
    """Read one YAML file into ``model``.

    Args:
        path: the file; relative paths inside it are relative to its folder.
        model: the frozen model that it must fit.
        overrides: ``key.path=value`` each, the value in YAML; they win over the file, the last one over the earlier.
            Relative paths in them are relative to the file's folder, too.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or does not fit; all problems in one message.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    mapping = _parse_yaml(text, str(path))
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path}: holds {_describe(mapping)}, not a mapping of keys to values")
    return parse_model(mapping, model, str(path), overrides=overrides, base_directory=path.parent)


def parse_model(
    mapping: Mapping[str, Any],
    model: type[M],
    source: str,
    *,
    overrides: Sequence[str] = (),
    base_directory: Path | None = None,
) -> M:
    """Check ``mapping`` against ``model``.

    Args:
        mapping: as read from YAML; left as it is.
        model: the frozen model that it must fit.
        source: what messages name as the place of a problem, usually the file.
        overrides: as in :func:`load_yaml_model`.
        base_directory: where relative :data:`ConfigPath` values start; None leaves them relative.

    Raises:
        ConfigError: one line per problem: ``source: key.path: what is wrong (got …)``.
    """
    merged = copy.deepcopy(dict(mapping))
    overridden = [_apply_override(merged, override) for override in overrides]
    try:
        return model.model_validate(merged, context={"base_directory": base_directory})
    except ValidationError as error:
        problems = [
            _problem(item, model, _place(item["loc"], mapping, source, overridden))
            for item in error.errors(include_url=False)
        ]
    # Raised out here, so that no traceback carries pydantic's own message: it repeats values that may be secret.
    raise ConfigError("\n".join(problems))


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # a base chosen at run time
    """PyYAML's safe loader with YAML 1.2's core schema, refusing duplicate keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own class attribute, replaced

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _construct_decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    # PyYAML would read 010 as eight, as YAML 1.1 did.
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_decimal)


def _parse_yaml(text: str, source: str) -> Any:
    problem = None
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # a safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = f"{source}{line}: not valid YAML: {error.problem or error.context}"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = f"{source}: not valid YAML: {type(error).__name__}"
    # Outside the except blocks: PyYAML's message quotes the line, which may hold a secret.
    raise ConfigError(problem)


def _apply_override(mapping: dict[str, Any], override: str) -> tuple[str, ...]:
    """Put ``a.b=c`` into ``mapping`` and return its key path."""
    path, equals, text = override.partition("=")
    parts = tuple(part.strip() for part in path.split("."))
    if not equals or not all(parts):
        raise ConfigError(f"--set {path.strip()}: write it as key.path=value, for instance --set model.dimension=64")
    value = _parse_yaml(text, f"--set {path.strip()}")
    node: Any = mapping
    for depth, part in enumerate(parts[:-1]):
        node = _child(node, part, parts[: depth + 1])
    if isinstance(node, list):
        node[_list_index(node, parts[-1], parts)] = value
    else:
        node[parts[-1]] = value
    return parts


def _child(node: Any, part: str, path: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        child = node[_list_index(node, part, path)]
    else:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
    if not isinstance(child, dict | list):
        raise ConfigError(f"--set {'.'.join(path)}: is {_describe(child)} in the file, so nothing can be set below it")
    return child


def _list_index(node: list[Any], part: str, path: tuple[str, ...]) -> int:
    if not part.isdecimal() or int(part) >= len(node):
        raise ConfigError(f"--set {'.'.join(path)}: is a list of {len(node)}; name an element by its number from 0")
    return int(part)


def _place(
    location: tuple[int | str, ...], mapping: Mapping[str, Any], source: str, overridden: Sequence[tuple[str, ...]]
) -> str:
    """``source: key.path``, or ``--set key.path`` where an override put the value there."""
    parts = tuple(str(part) for part in location)
    path = ".".join(parts)
    for override in overridden:
        below = parts[: len(override)] == override
        above = parts and override[: len(parts)] == parts and not _holds(mapping, parts)
        if below or above:
            return f"--set {path}"
    return f"{source}: {path}" if path else source


def _holds(mapping: Any, parts: tuple[str, ...]) -> bool:
    for part in parts:
        if not (isinstance(mapping, Mapping) and part in mapping):
            return False
        mapping = mapping[part]
    return True


def _problem(error: Any, model: type[BaseModel], where: str) -> str:
    if error["type"] == "extra_forbidden":
        nearest = nearest_key(model, error["loc"])
        return f"{where}: unknown key{f'; did you mean {nearest!r}?' if nearest else ''}"
    if error["type"] == "missing":
        return f"{where}: is required and missing"
    message = re.sub(r"^(Value|Assertion) error, ", "", error["msg"])
    message = message[:1].lower() + message[1:]
    # A rule between the keys of a section says itself which; how many keys the section has is no help.
    between_keys = error["type"] == "value_error" and isinstance(error["input"], Mapping)
    secret = any(_SECRET.search(str(part)) for part in error["loc"])
    got = "" if secret or between_keys else f" (got {_describe(error['input'])})"
    return f"{where}: {message}{got}"


def _describe(value: Any) -> str:
    """A value for a message: its text where it is one value, only its size where it holds others."""
    if isinstance(value, Mapping):
        return f"a mapping with {len(value)} keys"
    if isinstance(value, list | tuple):
        scalars = all(not isinstance(item, Mapping | list | tuple) for item in value)
        if not (scalars and len(repr(value)) <= _SHOWN_CHARACTERS):
            return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
