"""Parts of configuration documents: cut one out, lay one over another, and keep every value's place in its file."""

from __future__ import annotations

from typing import Any

from streams.errors import StreamError
from streams.yaml_config import Located

KeyPath = tuple[str | int, ...]


def nested(document: Located, key: str) -> Located:
    """`document` as the value of `key` in a document that holds nothing else."""
    return Located(
        document.name,
        {key: document.data},
        {(key, *path): place for path, place in document.keys.items()},
        {(key, *path): place for path, place in document.values.items()},
        document.problems,
        document.path,
    )


def part(document: Located, *path: str) -> Located:
    """The mapping at `path` as a document of its own; an absent or empty one is an empty mapping.

    Faults of form stay with the whole document.

    Raises:
        StreamError: There is something else than a mapping.
    """
    data: Any = document.data
    for depth, key in enumerate(path):
        data = data.get(key)
        if data is None:
            data = {}
        if not isinstance(data, dict):
            raise StreamError(f"{document.place(path)}: {'.'.join(path[: depth + 1])}: expected keys and values")

    def below(places: dict[KeyPath, str]) -> dict[KeyPath, str]:
        return {key[len(path) :]: place for key, place in places.items() if key[: len(path)] == path}

    values = below(dict(document.values))
    values.setdefault((), document.place(path))
    return Located(document.name, data, below(dict(document.keys)), values, (), document.path)


def overlaid(base: Located, top: Located) -> Located:
    """`base` with the entries of `top` laid over it: mappings merge key by key, everything else is replaced."""
    keys, values = dict(base.keys), dict(base.values)

    def merge(below: dict[str, Any], above: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        merged = dict(below)
        for key, value in above.items():
            here = (*path, key)
            if isinstance(value, dict) and isinstance(merged.get(key), dict):
                merged[key] = merge(merged[key], value, here)
                continue
            for places, other in ((keys, top.keys), (values, top.values)):
                for old in [old for old in places if old[: len(here)] == here]:
                    del places[old]
                places[here] = other.get(here) or top.place(here)
                places.update({new: place for new, place in other.items() if new[: len(here)] == here})
            merged[key] = value
        return merged

    data = merge(base.data, top.data, ())
    return Located(base.name, data, keys, values, (*base.problems, *top.problems), base.path)
