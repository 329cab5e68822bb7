"""From YAML text to plain data with the place of every key and value; scalars by the YAML 1.2 core schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import yaml

from streams._messages import KeyPath, format_path, one_line
from streams.errors import StreamError

MAX_DEPTH = 32
MAX_NODES = 20_000
_LARGEST = 2**63 - 1

_INT = re.compile(r"[-+]?[0-9]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_OCTAL = re.compile(r"0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_WORDS = {"": None, "~": None, **dict.fromkeys(("null", "Null", "NULL"))}
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_WORDS |= dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan"))


class ConfigError(StreamError):
    """Everything that is wrong with a configuration, one line each.

    Attributes:
        lines: ``file:line:column: key.path: message`` a problem.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[Sequence[str]]]:
        return type(self), (self.lines,)  # by default a process would hand on the joined text, as if it were the lines


class Reader:
    """Turns the events of one document into plain data while it notes where each part stands.

    Args:
        name: The file, first part of every position.
        origin: Place of what has no position of its own.
        fixed: Every part stands at `origin` (a value from the command line).

    Attributes:
        keys: Key path to the place of the key.
        values: Key path to the place of the value.
        problems: Faults of form that did not stop the reading.
    """

    def __init__(self, name: str, origin: str, *, fixed: bool = False) -> None:
        self._name = name
        self._origin = origin
        self._fixed = fixed
        self._anchors: dict[str, tuple[Any, int] | None] = {}
        self._nodes = 0
        self.keys: dict[KeyPath, str] = {}
        self.values: dict[KeyPath, str] = {(): origin if fixed else f"{name}:1:1"}
        self.problems: list[str] = []

    def read(self, text: str) -> Any:
        """Plain data of the one document in `text`; None when it is empty."""
        try:
            events = yaml.parse(text, Loader=yaml.SafeLoader)
            return self._document(events)
        except yaml.MarkedYAMLError as error:
            problem = error.problem or "unreadable"
            hint = "; indent with spaces" if "\\t" in problem else ""
            self._fail(error.problem_mark or error.context_mark, f"not valid YAML: {problem}{hint}")
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            where = self._origin if self._fixed else f"{self._name}:{line}:1"
            raise ConfigError([f"{where}: not text: character U+{ord(str(error.character)[:1]):04X}"]) from None
        except (ValueError, OverflowError) as error:  # PyYAML lets an escape beyond Unicode through to chr()
            if isinstance(error, ConfigError):
                raise
            raise ConfigError([f"{self._origin}: not valid YAML: {one_line(str(error))}"]) from None

    def _document(self, events: Iterator[yaml.Event]) -> Any:
        data: Any = None
        seen = False
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    self._fail(event.start_mark, "a second document starts here; keep one a file")
                seen = True
                data = self._node(next(events), events, (), 0)
        return data

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], path: KeyPath, depth: int) -> Any:
        place = self._place(event.start_mark)
        self.values[path] = place
        self._count(1, event)
        if depth > MAX_DEPTH:
            self._fail(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if not isinstance(event, (yaml.ScalarEvent, yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            self._fail(event.start_mark, "not valid YAML")
        if event.tag is not None:
            self.problems.append(f"{place}: tags such as {one_line(event.tag)} are not accepted; write a plain value")
        before = self._nodes
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(item := next(events), yaml.SequenceEndEvent):
                value.append(self._node(item, events, (*path, len(value)), depth + 1))
        else:
            value = self._mapping(events, path, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._nodes - before + 1)
        return value

    def _mapping(self, events: Iterator[yaml.Event], path: KeyPath, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            place = self._place(event.start_mark)
            if not isinstance(event, yaml.ScalarEvent):
                self._fail(event.start_mark, "a key must be plain text")
            key = event.value
            if not key.isprintable() or key in ("", "<<"):
                reason = "merge keys (<<) are not supported; write the keys out" if key == "<<" else "bad key"
                self.problems.append(f"{place}: {one_line(format_path((*path, key)))}: {reason}")
                self._node(next(events), events, (*path, key), depth + 1)
                continue
            here = (*path, key)
            if key in result:
                first = "" if self._fixed else f", first at {self.keys[here].removeprefix(self._name + ':')}"
                self.problems.append(f"{place}: {format_path(here)}: key given twice{first}")
            else:
                self.keys[here] = place
            result[key] = self._node(next(events), events, here, depth + 1)
        return result

    def _alias(self, event: yaml.AliasEvent) -> Any:
        if event.anchor not in self._anchors:
            self._fail(event.start_mark, f"*{event.anchor} names no anchor above it")
        anchored = self._anchors[event.anchor]
        if anchored is None:
            self._fail(event.start_mark, f"*{event.anchor} contains itself")
        value, nodes = anchored
        self._count(nodes, event)
        return value

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text = event.value
        if any(not char.isprintable() and char not in "\n\t\u00a0" for char in text):
            self.problems.append(f"{self._place(event.start_mark)}: control characters in a value")
            return ""
        if event.style is not None or event.tag is not None:
            return text
        try:
            return _plain_scalar(text)
        except ValueError:
            self.problems.append(f"{self._place(event.start_mark)}: the number is too large")
            return 0

    def _count(self, nodes: int, event: yaml.Event) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self._fail(event.start_mark, f"more than {MAX_NODES} values (aliases counted out)")

    def _place(self, mark: Any) -> str:
        if self._fixed or mark is None:
            return self._origin
        return f"{self._name}:{mark.line + 1}:{mark.column + 1}"

    def _fail(self, mark: Any, message: str) -> NoReturn:
        raise ConfigError([*self.problems, f"{self._place(mark)}: {one_line(message)}"]) from None


def _plain_scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return _bounded(text, 10)
    if _HEX.fullmatch(text) or _OCTAL.fullmatch(text):
        return _bounded(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if match := _INFINITY.fullmatch(text):
        return float(f"{match[1]}inf")
    return text


def _bounded(text: str, base: int) -> int:
    """A whole number of at most 64 bits; what follows may then turn it into a float without a thought."""
    number = int(text, base) if len(text) < 64 else _LARGEST + 1
    if abs(number) > _LARGEST:
        raise ValueError("too large")
    return number
