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
from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError, ValidationInfo

from common.config.suggest import known_keys, nearest_key
from common.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

_SECRET = re.compile(r"secret|password|passphrase|token|credential|private_key", re.IGNORECASE)
_SHOWN_CHARACTERS = 60
# Of Linux' file systems and of its system calls.
_LONGEST_NAME, _LONGEST_PATH = 255, 4095
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")


def _not_empty(value: Any) -> Any:
    # Before it is a Path: that makes no difference between nothing and ".".
    if isinstance(value, str) and not value.strip():
        raise ValueError("is empty; name a file or a folder")
    return value


def _resolve(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base_directory")
    for name in (match[1] or match[2] for match in _VARIABLE.finditer(str(path))):
        if os.environ.get(name) == "":
            raise ValueError(f"${name} is set to nothing: export {name} with a file or a folder")
    try:
        path = Path(os.path.expandvars(path.expanduser()))
    except RuntimeError:
        raise ValueError(f"{path.parts[0]}: there is no such user, or no home folder") from None
    if path.parts and "$" in path.parts[0]:
        raise ValueError(f"{path.parts[0]} is not set: give --data DIR or export {path.parts[0].strip('${}')}")
    path = path if base is None else Path(base) / path
    if any(ord(character) < ord(" ") for character in str(path)):
        raise ValueError("holds a control character")
    if max(map(len, map(os.fsencode, path.parts)), default=0) > _LONGEST_NAME or len(os.fsencode(path)) > _LONGEST_PATH:
        raise ValueError(f"is too long: a file's name has at most {_LONGEST_NAME} bytes, a path {_LONGEST_PATH:,}")
    return path


ConfigPath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_resolve)]
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
    return parse_text(text, model, path, overrides)


def parse_text(text: str, model: type[M], path: Path, overrides: Sequence[str] = ()) -> M:
    """As :func:`load_yaml_model`, of a text that is to stand in ``path``.

    Raises:
        ConfigError: it is not YAML, or does not fit.
    """
    mapping = _parse_yaml(text, str(path))
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, dict):
        raise ConfigError(
            f"{path}: holds {_kind(mapping)}, not a mapping of keys to values; is it another kind of file?"
        )
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
    _refuse_other_files(mapping, model, source)
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
                problem = "duplicate key: this line repeats the key of an earlier one"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
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
        # Names of tags and anchors are the file's own words, which are a user's if it is a data file.
        found = re.sub(r" ?'[^'<\s][^'\s]+'", "", str(error.problem or error.context))
        problem = f"{source}{line}: not valid YAML: {found}"
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError) as error:
        problem = f"{source}: not valid YAML: {type(error).__name__}"
    # Outside the except blocks: PyYAML's message quotes the line, which may hold a secret.
    raise ConfigError(problem)


def _refuse_other_files(mapping: Mapping[str, Any], model: type[BaseModel], source: str) -> None:
    """Refuse without a word of its content what is no such configuration at all: it may be a data file, keyed by users."""
    unfamiliar = [str(key) for key in mapping if key not in known_keys(model) and not nearest_key(model, (str(key),))]
    if len(unfamiliar) > len(mapping) - len(unfamiliar):
        known = ", ".join(list(known_keys(model))[:6])
        raise ConfigError(
            f"{source}: {len(unfamiliar)} of its {len(mapping)} keys are unknown here (known are {known}, …); is it another "
            "kind of file?"
        )


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
        if child is None or child == "auto":
            # "auto" leaves a section's settings open; one that is set below it makes it a section.
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


def _kind(value: Any) -> str:
    """Return what a file holds, without a word of it."""
    return f"a list of {len(value)}" if isinstance(value, list) else "text or a number"


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
