"""What to write in a recipe in place of a value of another type: the same value as the tree has it. Pure."""

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from msgspec import inspect

_NOTHING = object()
_SHOWN = 200
"""Characters; what is longer is no example."""
_PLAIN: dict[type[inspect.Type], tuple[type, ...]] = {
    inspect.BoolType: (bool,),
    inspect.IntType: (int,),
    inspect.FloatType: (float, int),
    inspect.StrType: (str,),
    inspect.NoneType: (type(None),),
}


def flat(kinds: Iterable[inspect.Type]) -> list[inspect.Type]:
    """Return types, each union as those that it is of."""
    return [one for kind in kinds for one in (kind.types if isinstance(kind, inspect.UnionType) else (kind,))]


def fits(kinds: Sequence[inspect.Type], value: Any) -> bool:
    """Whether a value is of one of these types, as far as one level down."""
    return any(_fits(kind, value) for kind in kinds)


def remedy(name: str, kinds: Sequence[inspect.Type], value: Any) -> str:
    """Return what to write for a setting whose value is of none of its types; empty where that cannot be told.

    An item of a list has a number for a name.

    Example: remedy("agent", [Agent], "python agent.py") -> "write agent: {command: [python, agent.py]}"
    """
    for kind in kinds:
        if (meant := _rewritten(kind, value)) is not _NOTHING:
            # The outermost brackets are those of what this stands in.
            shown = _yaml([meant] if name.isdecimal() else {name: meant})[1:-1]
            return f"write {shown}" if len(shown) <= _SHOWN else ""
    for kind in kinds:
        if isinstance(kind, inspect.StructType):
            return f"it has settings of its own: {', '.join(field.encode_name for field in kind.fields)}"
    return ""


def choices(kinds: Sequence[inspect.Type]) -> list[str]:
    """Return the words that a setting of these types may be."""
    return [str(value) for kind in kinds if isinstance(kind, inspect.LiteralType) for value in kind.values]


def _rewritten(kind: inspect.Type, value: Any) -> Any:
    if isinstance(kind, inspect.StructType):
        # What a part is about stands first in it: an agent's command, a model's path.
        first = kind.fields[0]
        inside = _as_one_of(flat([first.type]), value)
        return _NOTHING if inside is _NOTHING else {first.encode_name: inside}
    if isinstance(kind, inspect.ListType):
        item = flat([kind.item_type])
        if isinstance(value, str) and fits(item, value):
            return _words(value)
        inside = _as_one_of(item, value)
        return _NOTHING if inside is _NOTHING else [inside]
    return _text(value) if isinstance(kind, inspect.StrType) else _NOTHING


def _as_one_of(kinds: Sequence[inspect.Type], value: Any) -> Any:
    if fits(kinds, value):
        return value
    return next((meant for kind in kinds if (meant := _rewritten(kind, value)) is not _NOTHING), _NOTHING)


def _text(value: Any) -> Any:
    """Return as text what YAML takes for something else: a number, or a task's field without quotes."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case dict() if len(value) == 1 and list(value.values()) == [None]:  # pyright: ignore[reportUnknownArgumentType]
            return f"{{{next(iter(value))}}}"  # pyright: ignore[reportUnknownArgumentType]
        case _:
            return _NOTHING


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quote that nothing closes
        return [text]


def _fits(kind: inspect.Type, value: Any) -> bool:
    if isinstance(kind, inspect.LiteralType):
        return value in kind.values
    if isinstance(kind, inspect.ListType):
        return isinstance(value, list) and all(fits(flat([kind.item_type]), one) for one in value)
    if isinstance(kind, inspect.StructType | inspect.DictType):
        return isinstance(value, dict)
    if isinstance(value, bool):
        return isinstance(kind, inspect.BoolType)
    return isinstance(kind, inspect.AnyType) or isinstance(value, _PLAIN.get(type(kind), ()))


def _yaml(value: Any) -> str:
    return yaml.safe_dump(
        value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    ).rstrip()
