"""YAML files with positions: read safely, override from the command line, validate, report every error at once.

Scalars follow the YAML 1.2 core schema instead of PyYAML's 1.1: ``on`` and ``1:30`` stay text, ``1e-3`` is a number.
Tags, merge keys and a second document are refused, and nesting, aliases and length are bounded, so that a hostile
file costs one clear line. Validation is strict: ``true`` is not a number and ``"5"`` is not one either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from streams._messages import (
    KeyedError,
    KeyedErrors,
    KeyPath,
    Problem,
    format_path,
    one_line,
    readable_problems,
    unknown_name,
)
from streams._yaml_reader import ConfigError, Reader

__all__ = [
    "ConfigError", "ConfigModel", "KeyedError", "KeyedErrors", "Located",
    "build", "from_mapping", "load_yaml", "unknown_name", "with_overrides",
]  # fmt: skip

MAX_BYTES = 128 * 1024

ModelT = TypeVar("ModelT", bound=BaseModel)


class ConfigModel(BaseModel):
    """Base of every configuration model: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Located:
    """A YAML document as plain data, with the place that every key and value came from.

    Attributes:
        name: What errors call the document: the path as given, or the name of a mapping made in Python.
        data: Nested dict / list / scalars; the top is a mapping with text keys.
        keys: Key path to the place of the key, as ``file:line:column`` or ``command line: key=value``.
        values: Key path to the place of the value.
        problems: Faults of form (duplicate keys, tags) that `build` reports beside those of content.
        path: The file, or None for a mapping made in Python.
    """

    name: str
    data: dict[str, Any]
    keys: Mapping[KeyPath, str]
    values: Mapping[KeyPath, str]
    problems: tuple[str, ...] = ()
    path: Path | None = None

    def place(self, path: KeyPath, *, of_key: bool = False) -> str:
        """Place of the key or value at `path`, or of the nearest thing around it."""
        for length in range(len(path), -1, -1):
            places = self.keys if of_key and length == len(path) else self.values
            if path[:length] in places:
                return places[path[:length]]
        return self.name


def from_mapping(data: Mapping[str, Any], name: str) -> Located:
    """A document made in Python; its errors start with `name` in place of a file position."""
    return Located(name=name, data=_copy(dict(data)), keys={}, values={(): name})


def load_yaml(path: str | Path) -> Located:
    """Reads a YAML mapping from a UTF-8 file; an empty file is an empty mapping.

    Raises:
        ConfigError: The file is missing, too large, not text, not YAML, or not a mapping.
    """
    text = _read_text(Path(path))
    reader = Reader(str(path), str(path))
    data = reader.read(text)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "a single value"
        raise ConfigError([f"{reader.values[()]}: expected keys and values (key: value), got {kind}"])
    return Located(str(path), data, reader.keys, reader.values, tuple(reader.problems), Path(path))


def with_overrides(document: Located, overrides: Sequence[str]) -> Located:
    """Applies ``dotted.key=value`` texts in order; values are YAML, list entries are numbered from 0.

    A faulty override becomes a problem of the document that `build` reports with all others.
    """
    data, keys, values = _copy(document.data), dict(document.keys), dict(document.values)
    problems = list(document.problems)
    for override in overrides:
        origin = f"command line: {one_line(override)}"
        name, equals, text = override.partition("=")
        parts = name.strip().split(".")
        if not equals or not all(part and part.isprintable() for part in parts):
            problems.append(f"{origin}: expected key=value with a dotted key, such as student.lr=1e-4")
            continue
        reader = Reader("command line", origin, fixed=True)
        try:
            value = reader.read(text)
            path = _assign(data, parts, value, origin)
        except ConfigError as error:
            problems.extend(error.lines)
            continue
        for places in (keys, values):
            for old in [old for old in places if old[: len(path)] == path]:
                del places[old]
            places[path] = origin
            for length in range(1, len(path)):  # mappings that the override made; those of the file have a place
                places.setdefault(path[:length], origin)
        problems.extend(reader.problems)
    return Located(document.name, data, keys, values, tuple(problems), document.path)


def build(
    model: type[ModelT], document: Located, overrides: Sequence[str] = (), context: Mapping[str, Any] | None = None
) -> ModelT:
    """Validates a document into `model` after the overrides.

    Args:
        model: A pydantic model, best a `ConfigModel`.
        document: From `load_yaml` or `from_mapping`.
        overrides: ``dotted.key=value`` texts of the command line.
        context: Handed to the model's validators as ``info.context``.

    Raises:
        ConfigError: With a line for every problem of form and content.
    """
    document = with_overrides(document, overrides)
    lines = list(document.problems)
    result: ModelT | None = None
    try:
        # JSON is the one strict mode of pydantic that still takes lists for tuples and text for paths and enums.
        text = json.dumps(document.data, default=str)
        result = model.model_validate_json(text, strict=True, context=dict(context or {}))
    except ValidationError as error:
        problems = readable_problems(model, document.data, error)
        lines.extend(_line(document, problem) for problem in problems)
    if lines or result is None:
        raise ConfigError(sorted(lines, key=_reading_order))
    return result


def _reading_order(line: str) -> tuple[bool, int, int]:
    """From the top of the file to its end; then the command line as given."""
    position = re.search(r":([0-9]+):([0-9]+): ", line)
    if line.startswith("command line") or position is None:
        return (True, 0, 0)
    return (False, int(position[1]), int(position[2]))


def _line(document: Located, problem: Problem) -> str:
    place = document.place(problem.path, of_key=problem.at_key)
    where = f"{place}: {format_path(problem.path)}" if problem.path else place
    return f"{where}: {one_line(problem.message)}"


def _read_text(path: Path) -> str:
    try:
        if not path.exists():
            raise ConfigError([f"{path}: no such file"])
        if not path.is_file():
            raise ConfigError([f"{path}: is not a file; give the path of a YAML file"])
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError([f"{path}: {path.stat().st_size} bytes is too large for a configuration ({MAX_BYTES})"])
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8"]) from None
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ConfigError([f"{one_line(str(path))}: cannot be read: {one_line(str(reason))}"]) from None


def _assign(data: dict[str, Any], parts: list[str], value: Any, origin: str) -> KeyPath:
    """Sets ``data[parts...] = value`` with missing mappings made on the way; returns the key path."""
    node: Any = data
    path: KeyPath = ()
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdecimal() or int(part[:9]) >= len(node):
                raise ConfigError([f"{origin}: {format_path(path)}: has entries 0 to {len(node) - 1}, not {part!r}"])
            key: str | int = int(part)
        elif isinstance(node, dict):
            key = part
        else:
            raise ConfigError([f"{origin}: {format_path(path)}: is a single value and has no key {part!r}"])
        path = (*path, key)
        if last:
            node[key] = value
        elif isinstance(node, dict) and node.get(part) is None:
            node[key] = {}
        node = node[key]
    return path


def _copy(value: Any) -> Any:
    """A copy in which aliased parts are separate, so that an override changes one place only."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(item) for item in value]
    return value
