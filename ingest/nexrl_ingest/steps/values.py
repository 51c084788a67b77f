"""Attribute values, made fit to be shown: flattened lists put together again, JSON in texts read, bytes by size."""

import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec

Attributes = Mapping[str, Any]
MOST_NESTED = 50
_LARGEST_INT = 2**63
Tree = dict[str, Any]


def text(attributes: Attributes, *names: str) -> str:
    """Return the first of these that is a text and not empty."""
    return next((value for name in names if isinstance(value := attributes.get(name), str) and value), "")


def count(attributes: Attributes, *names: str) -> int | None:
    """Return the first of these that is a whole number."""
    found = (attributes.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)


def first(attributes: Attributes, *names: str) -> Any:
    """Return the first of these that is there, JSON in texts read."""
    return next((parsed(attributes[name]) for name in names if attributes.get(name) or attributes.get(name) == 0), None)


def parsed(value: Any) -> Any:
    """Return what a text holds where that is JSON of an object or a list, every other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in {"{", "["}:
        with contextlib.suppress(msgspec.DecodeError, RecursionError, UnicodeError):
            return msgspec.json.decode(value)
    return value


def listed(attributes: Attributes, prefix: str) -> list[Any]:
    """Put together what was flattened under a prefix.

    Example: {"p.0.role": "user", "p.0.calls.0.id": "c", "p.1.role": "tool"} under "p"
    => [{"role": "user", "calls": [{"id": "c"}]}, {"role": "tool"}]
    """
    tree: Tree = {}
    for name, value in attributes.items():
        if name.startswith(f"{prefix}."):
            _plant(tree, name[len(prefix) + 1 :].split(".", MOST_NESTED), value)
    found = _gathered(tree)
    return found if isinstance(found, list) else []


def shown(value: Any, depth: int = 0) -> Any:
    """Return a value that JSON can hold, whatever was sent."""
    match value:
        case bytes():
            return f"({len(value)} bytes)"
        case int() if not -_LARGEST_INT <= value < _LARGEST_INT:
            return str(value)
        case dict() | list() if depth > MOST_NESTED:
            return "(nested too deeply)"
        case dict():
            return {str(name): shown(item, depth + 1) for name, item in value.items()}
        case list():
            return [shown(item, depth + 1) for item in value]
        case _:
            return value


def _plant(tree: Tree, path: list[str], value: Any) -> None:
    for part in path[:-1]:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):  # somebody sent both `a` and `a.b`: the first stays
            return
        tree = below
    tree.setdefault(path[-1], value)


def _gathered(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if tree and all(part.isdecimal() for part in tree):
        return [_gathered(tree[part]) for part in sorted(tree, key=lambda part: (len(part), part))]
    return {part: _gathered(below) for part, below in tree.items()}
