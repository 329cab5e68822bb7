"""Pydantic's validation errors in words for people: key paths as written in the file, near matches, no jargon."""

from __future__ import annotations

import difflib
import enum
import math
import types
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator, Tag, ValidationError
from pydantic.fields import FieldInfo

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One fault: where (key path), whether the key itself is at fault, and what to do."""

    path: KeyPath
    message: str
    at_key: bool = False
    wanted: str | None = None  # what was expected, when the fault is the kind of value; lets a union be summed up


class KeyedError(ValueError):
    """For validators: a fault that lies below the value being validated; `at_key` where the key itself is wrong."""

    def __init__(self, message: str, *path: str | int, at_key: bool = False) -> None:
        super().__init__(message)
        self.path: KeyPath = path
        self.at_key = at_key


def format_path(path: KeyPath) -> str:
    """``visits.0.frames`` for ``("visits", 0, "frames")``; odd keys are quoted."""
    return ".".join(str(key) if str(key).isprintable() and str(key) else repr(key) for key in path)


def one_line(text: str) -> str:
    """`text` with everything that would break a line written as an escape."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def unknown_name(kind: str, name: str, known: Collection[str], command: str = "") -> str:
    """``unknown KIND 'name' (did you mean 'x'?)``, or the known names when nothing is near.

    Args:
        kind: What the name should name, such as ``weather``.
        name: The user's text.
        known: Accepted names.
        command: A command that lists them, put at the end.
    """
    folded = {key.lower(): key for key in known}
    near = difflib.get_close_matches(name[:64].lower(), list(folded), n=1, cutoff=0.55)
    if not near and name:
        near = [key for key in folded if key.startswith(name.lower()) or name.lower().startswith(key)][:1]
    text = f"unknown {kind} {_short(name)}"
    if near:
        text += f" (did you mean {folded[near[0]]!r}?)"
    elif known:
        text += f" (known: {', '.join(sorted(known))})"
    return f"{text}; {command}" if command else text


def readable_problems(model: type[BaseModel], data: Any, error: ValidationError) -> list[Problem]:
    """Every error of a validation, in the order of the document's keys where possible."""
    faults = [_Fault(tuple(item["loc"]), item["type"], item["msg"], item.get("ctx") or {}, item["input"]) for item in
              error.errors(include_url=False)]  # fmt: skip
    return _explain(_Node(model), data, (), faults)


class KeyedErrors(ValueError):
    """Several faults that one validator found."""

    def __init__(self, errors: Sequence[KeyedError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)


@dataclass(frozen=True)
class _Fault:
    rest: tuple[str | int, ...]  # what is left of pydantic's location, union labels included
    kind: str
    text: str
    context: Mapping[str, Any]
    value: Any

    def below(self) -> _Fault:
        return _Fault(self.rest[1:], self.kind, self.text, self.context, self.value)


@dataclass(frozen=True)
class _Node:
    """A place in the schema: its annotation and, for a tagged union, the discriminator."""

    annotation: Any
    discriminator: Any = None

    def plain(self) -> _Node:
        """Without Annotated and Optional."""
        annotation, discriminator = self.annotation, self.discriminator
        while True:
            if get_origin(annotation) is Annotated:
                annotation, *metadata = get_args(annotation)
                for item in metadata:
                    if isinstance(item, (Discriminator, FieldInfo)):
                        discriminator = item.discriminator or discriminator
                continue
            members = self._members(annotation)
            if len(members) == 1:
                annotation = members[0]
                continue
            return _Node(annotation, discriminator)

    @staticmethod
    def _members(annotation: Any) -> list[Any]:
        if get_origin(annotation) in (Union, types.UnionType):
            return [member for member in get_args(annotation) if member is not type(None)]
        return []

    @property
    def members(self) -> list[Any]:
        """Alternatives of a union of two or more kinds; empty for anything else."""
        return self._members(self.annotation)

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """Keys of a model as the file writes them."""
        if isinstance(self.annotation, type) and issubclass(self.annotation, BaseModel):
            return {info.alias or name: info for name, info in self.annotation.model_fields.items()}
        return {}

    @property
    def choices(self) -> list[Any]:
        """Values of a Literal or an enumeration."""
        if get_origin(self.annotation) is Literal:
            return list(get_args(self.annotation))
        if isinstance(self.annotation, type) and issubclass(self.annotation, enum.Enum):
            return [item.value for item in self.annotation]
        return []

    def child(self, key: str | int) -> _Node:
        if key in self.fields:
            info = self.fields[str(key)]
            return _Node(info.annotation, info.discriminator)
        arguments = get_args(self.annotation)
        origin = get_origin(self.annotation)
        if isinstance(origin, type) and arguments:
            if issubclass(origin, Mapping):
                return _Node(arguments[-1])
            if issubclass(origin, tuple) and Ellipsis not in arguments and isinstance(key, int):
                return _Node(arguments[key] if key < len(arguments) else Any)
            return _Node(arguments[0])
        return _Node(Any)

    def member(self, label: str) -> _Node:
        """Alternative that pydantic calls `label`: a tag, a literal of the discriminating key, or a type's name."""
        for member in self.members:
            if any(isinstance(item, Tag) and item.tag == label for item in getattr(member, "__metadata__", ())):
                return _Node(member)
            info = _Node(member).plain().fields.get(str(self.discriminator))
            if info is not None and label in map(str, _Node(info.annotation).plain().choices):
                return _Node(member)
        for member in self.members:
            inner = _Node(member).plain().annotation
            name = getattr(inner, "__name__", str(inner))
            if label == name or label.endswith((f"{name}]", f", {name}]")) or label.startswith(f"{name}["):
                return _Node(member)
        return _Node(Any)


def _explain(node: _Node, data: Any, path: KeyPath, faults: Sequence[_Fault]) -> list[Problem]:
    node = node.plain()
    if node.members:
        return _explain_union(node, data, path, faults)
    problems: list[Problem] = []
    children: dict[str | int, list[_Fault]] = defaultdict(list)
    for fault in faults:
        cause = fault.context.get("error")
        if not fault.rest and isinstance(cause, KeyedErrors):
            problems += [Problem((*path, *part.path), str(part), at_key=part.at_key) for part in cause.errors]
        elif not fault.rest:
            problems.append(_leaf(node, path, fault))
        elif len(fault.rest) == 1 and fault.kind in ("extra_forbidden", "missing"):
            problems.append(_key_fault(node, path, fault))
        elif fault.rest[1:] == ("[key]",):
            leaf = _leaf(_Node(Any), (*path, fault.rest[0]), fault)
            problems.append(Problem(leaf.path, leaf.message, at_key=True))
        else:
            children[fault.rest[0]].append(fault.below())
    for key, below in children.items():
        if key in data if isinstance(data, dict) else isinstance(data, list) and key in range(len(data)):
            problems += _explain(node.child(key), data[key], (*path, key), below)
        else:  # a label of pydantic's own, not a key of the file; or data that a validator made
            problems += _explain(node.child(key) if key in node.fields else node, None, path, below)
    return problems


def _explain_union(node: _Node, data: Any, path: KeyPath, faults: Sequence[_Fault]) -> list[Problem]:
    here = [_leaf(node, path, fault) for fault in faults if not fault.rest]
    members: dict[str, list[_Fault]] = defaultdict(list)
    for fault in faults:
        if fault.rest:
            members[str(fault.rest[0])].append(fault.below())
    explained = [_explain(node.member(label), data, path, below) for label, below in members.items()]
    if node.discriminator is not None or len(explained) < 2:
        return here + [problem for problems in explained for problem in problems]
    # The alternative that the user meant is one whose kind fits the value; of those, the one with least to mend.
    fitting = [problems for problems in explained if not any(p.path == path and p.wanted for p in problems)]
    if fitting:
        return here + min(fitting, key=len)
    wanted = dict.fromkeys(p.wanted for problems in explained for p in problems if p.path == path and p.wanted)
    return [*here, Problem(path, f"expected {' or '.join(map(str, wanted))}, got {_short(data)}")]


def _key_fault(node: _Node, path: KeyPath, fault: _Fault) -> Problem:
    key = fault.rest[0]
    if fault.kind == "extra_forbidden":
        return Problem((*path, key), _unknown_key(str(key), list(node.fields)), at_key=True)
    if isinstance(key, int):
        return Problem(path, f"expected {len(get_args(node.annotation))} entries, entry {key} is missing")
    return Problem((*path, key), "required key is missing")


def _unknown_key(key: str, known: Collection[str]) -> str:
    return unknown_name("key", key, known).replace(f" {_short(key)}", "", 1)


_WANTED = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number", "float_parsing": "a number", "finite_number": "a finite number",
    "bool_type": "true or false", "bool_parsing": "true or false", "string_type": "text",
    "path_type": "a path", "list_type": "a list", "tuple_type": "a list", "set_type": "a list",
    "dict_type": "keys and values (key: value)", "model_type": "keys and values (key: value)",
    "model_attributes_type": "keys and values (key: value)", "none_required": "null",
}  # fmt: skip
_LIMITS = {
    "greater_than": ("gt", "greater than"), "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"), "less_than_equal": ("le", "at most"),
    "multiple_of": ("multiple_of", "a multiple of"),
}  # fmt: skip


def _leaf(node: _Node, path: KeyPath, fault: _Fault) -> Problem:
    value, context = fault.value, fault.context
    if fault.kind in _WANTED:
        wanted, hint = _WANTED[fault.kind], ""
        if fault.kind == "string_type" and isinstance(value, (int, float)):
            hint = f"; put it in quotes: '{_short(value)}'"
        elif isinstance(value, str) and fault.kind.startswith(("int", "float")) and _is_number(value):
            hint = "; take the quotes away"
        return Problem(path, f"expected {wanted}, got {_short(value)}{hint}", wanted=wanted)
    if fault.kind in _LIMITS:
        name, words = _LIMITS[fault.kind]
        return Problem(path, f"must be {words} {context[name]}, got {_short(value)}")
    if fault.kind in ("literal_error", "enum"):
        choices = [str(choice) for choice in node.choices]
        wanted = f"one of {', '.join(choices)}" if choices else str(context.get("expected"))
        if isinstance(value, str) and choices:
            return Problem(path, unknown_name("value", value, choices), wanted=wanted)
        return Problem(path, f"expected {wanted}, got {_short(value)}", wanted=wanted)
    if fault.kind == "union_tag_invalid":
        key = str(context.get("discriminator", "")).strip("'")
        tags = [tag.strip(" '") for tag in str(context.get("expected_tags", "")).split(",")]
        below = (*path, key) if isinstance(node.discriminator, str) else path
        return Problem(below, unknown_name("value", str(context.get("tag")), tags))
    if fault.kind == "union_tag_not_found":
        if isinstance(node.discriminator, str) and isinstance(value, dict):
            return Problem((*path, node.discriminator), "required key is missing")
        wanted = "keys and values (key: value)"
        return Problem(path, f"expected {wanted}, got {_short(value)}", wanted=wanted)
    if fault.kind in ("too_long", "too_short"):
        bound = context.get("max_length", context.get("min_length"))
        words = "at most" if fault.kind == "too_long" else "at least"
        return Problem(path, f"expected {words} {bound} entries, got {context.get('actual_length')}")
    if fault.kind in ("string_too_short", "string_too_long"):
        return Problem(path, "must not be empty" if not value else f"is too long: {_short(value)}")
    cause = context.get("error")
    if isinstance(cause, KeyedError):
        return Problem((*path, *cause.path), str(cause), at_key=cause.at_key)
    if cause is not None:
        return Problem(path, str(cause))
    return Problem(path, f"{fault.text[:1].lower()}{fault.text[1:]}".replace("input should be", "expected"))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "keys and values"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
