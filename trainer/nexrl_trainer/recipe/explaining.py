"""Say what is wrong in a recipe so that it can be found: what was meant, what stands there, who set it. Pure.

msgspec finds what is wrong and names the path; this adds what msgspec cannot know.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from msgspec import inspect

from nexrl_trainer.recipe.tree import Recipe

Steps = tuple[str, ...]
"""A path in the recipe. Example: `$.tasks.train[0].where` -> ("tasks", "train", "0", "where")"""
_PLACE = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`$")
_EXPECTED = re.compile(r"^Expected `[^`]*`")
_SHOWN = 60
_MEANT = 3
"""Settings that are offered at most, of several parts that have one of a name."""
CLOSE = 0.7
"""Of difflib's 0 to 1: `cpu` is meant for `cpu_s`, and `lr` not for `lora`."""


def explained(said: str, tree: Mapping[str, Any], file: str, settings: Mapping[str, Steps]) -> str:
    """Return what msgspec said of a tree, with the near name or the value, and the file or the setting to look at.

    `settings` won over the file: what each is called, and its path.

    Example: "Expected `float`, got `str` - at `$.train.learning_rate`" with train.learning_rate=fast
    -> "train.learning_rate=fast: Expected `float`, got `str` 'fast' - at `$.train.learning_rate`"
    """
    place = _PLACE.search(said)
    what, where = (said[: place.start()], place[0]) if place else (said, "")
    path: Steps = tuple(re.findall(r"[^.\[\]]+", place["path"])) if place else ()
    if unknown := _UNKNOWN.search(what):
        what += _near(unknown["name"], fields_at(path))
        path = (*path, unknown["name"])
    elif _EXPECTED.search(what):
        what += _value(_at(tree, path), after_got="got `" in what)
    return f"{_source(path, file, settings)}: {what}{where}"


def fields_at(path: Sequence[str]) -> list[str]:
    """Return the names that the part of the recipe at a path has; none where there is no part."""
    types = _flat([inspect.type_info(Recipe)])
    for step in path:
        types = _flat(below for kind in types for below in _below(kind, step))
    return [field.name for kind in types if isinstance(kind, inspect.StructType) for field in kind.fields]


def _below(kind: inspect.Type, step: str) -> list[inspect.Type]:
    if isinstance(kind, inspect.StructType):
        return [field.type for field in kind.fields if field.name == step]
    if isinstance(kind, inspect.ListType):
        return [kind.item_type]
    return [kind.value_type] if isinstance(kind, inspect.DictType) else []


def _flat(kinds: Iterable[inspect.Type]) -> list[inspect.Type]:
    return [one for kind in kinds for one in (kind.types if isinstance(kind, inspect.UnionType) else (kind,))]


def _near(name: str, names: Sequence[str]) -> str:
    """Ask for the name that has these initials, as `lr` of `learning_rate`, is spelt nearly so, or is elsewhere."""
    short = [one for one in names if name == "".join(word[:1] for word in one.split("_"))]
    near = short or difflib.get_close_matches(name, names, n=1, cutoff=CLOSE)
    meant = near[:1] or [path for path in _all_paths() if path.endswith(f".{name}")][:_MEANT]
    return f": did you mean {' or '.join(f'`{one}`' for one in meant)}?" if meant else ""


@lru_cache(maxsize=1)
def _all_paths() -> list[str]:
    """Return every setting, as one writes it on the command line; those of a list or of names have `[]` or `NAME`."""
    return list(_paths_below(inspect.type_info(Recipe), ""))


def _paths_below(kind: inspect.Type, prefix: str) -> Iterator[str]:
    for one in _flat([kind]):
        if isinstance(one, inspect.StructType):
            for field in one.fields:
                path = f"{prefix}.{field.name}" if prefix else field.name
                yield path
                yield from _paths_below(field.type, path)
        elif isinstance(one, inspect.ListType):
            yield from _paths_below(one.item_type, f"{prefix}[]")
        elif isinstance(one, inspect.DictType):
            yield from _paths_below(one.value_type, f"{prefix}.NAME")


def _at(tree: Any, path: Sequence[str]) -> Any:
    """Return what stands at a path; None where the path leaves a key open, as msgspec does with `[...]`."""
    for step in path:
        if isinstance(tree, dict):
            tree = tree.get(step)
        else:
            tree = tree[int(step)] if isinstance(tree, list) and step.isdecimal() else None
    return tree


def _value(value: Any, *, after_got: bool) -> str:
    if value is None or isinstance(value, dict | list):
        return ""
    shown = repr(value) if len(repr(value)) <= _SHOWN else f"{repr(value)[:_SHOWN]}..."
    return f" {shown}" if after_got else f", got {shown}"


def _source(path: Steps, file: str, settings: Mapping[str, Steps]) -> str:
    """Name the last setting that put there what is wrong, else the file, with the settings that are part of it."""
    for name, set_ in reversed(list(settings.items())):
        if path[: len(set_)] == set_:
            return name
    parts = [name for name, set_ in settings.items() if set_[: len(path)] == path]
    return f"{file} with {' '.join(parts)}" if parts else file
