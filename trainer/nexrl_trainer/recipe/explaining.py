"""Say what is wrong in a recipe so that it can be found: what was meant, what stands there, who set it. Pure.

msgspec finds what is wrong and names the path; this adds what msgspec cannot know.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from msgspec import inspect

from nexrl_trainer.recipe.notes import notes_of_settings
from nexrl_trainer.recipe.remedies import choices, fits, flat, remedy
from nexrl_trainer.recipe.tree import Recipe

Steps = tuple[str, ...]
"""A path in the recipe. Example: `$.tasks.train[0].where` -> ("tasks", "train", "0", "where")"""
_PLACE = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`$")
_EXPECTED = re.compile(r"^Expected `[^`]*`")
_BOUND = re.compile(r"^Expected `[^`]*` [<>]")
_WORD = re.compile(r"^Invalid enum value '(?P<word>.*)'$", re.DOTALL)
_ANY = "..."
"""What msgspec calls the key of a mapping."""
_SHOWN = 60
_MEANT = 3
"""Settings that are offered at most, of several parts that have one of a name."""
CLOSE = 0.7
"""Of difflib's 0 to 1: `cpu` is meant for `cpu_s`, and `lr` not for `lora`."""


def explained(said: str, tree: Mapping[str, Any], file: str, settings: Mapping[str, Steps]) -> str:
    """Return what msgspec said of a tree, with what was meant, the value, and the file or the setting to look at.

    `settings` won over the file: what each is called, and its path.

    Example: "Expected `float`, got `str` - at `$.train.learning_rate`" with train.learning_rate=fast
    -> "train.learning_rate=fast: Expected `float`, got `str` 'fast' - at `$.train.learning_rate`"
    """
    place = _PLACE.search(said)
    what, where = (said[: place.start()], place[0]) if place else (said, "")
    path: Steps = tuple(re.findall(r"\.\.\.|[^.\[\]]+", place["path"])) if place else ()
    path = _with_key(tree, path)
    if unknown := _UNKNOWN.search(what):
        what += _near(unknown["name"], fields_at(path))
        path = (*path, unknown["name"])
    elif path and (word := _WORD.search(what)):
        words = choices(types_at(path))
        what += _close(word["word"], words)
        where += f"; it is one of {', '.join(words)}"
    elif path and _EXPECTED.search(what):
        value = _at(tree, path)
        what += _value(value, after_got="got `" in what)
        where += _note(path) if _BOUND.search(what) else _sentence(remedy(path[-1], types_at(path), value))
    return f"{_source(path, file, settings)}: {what}{where}"


def fields_at(path: Sequence[str]) -> list[str]:
    """Return the names that the part of the recipe at a path has; none where there is no part."""
    return [field.name for kind in types_at(path) if isinstance(kind, inspect.StructType) for field in kind.fields]


def types_at(path: Sequence[str]) -> list[inspect.Type]:
    """Return the types that a value at a path may have; none where the recipe has no such path."""
    types = flat([inspect.type_info(Recipe)])
    for step in path:
        types = flat(below for kind in types for below in _below(kind, step))
    return types


def _below(kind: inspect.Type, step: str) -> list[inspect.Type]:
    if isinstance(kind, inspect.StructType):
        return [field.type for field in kind.fields if field.name == step]
    if isinstance(kind, inspect.ListType):
        return [kind.item_type]
    return [kind.value_type] if isinstance(kind, inspect.DictType) else []


def _with_key(tree: Any, path: Steps) -> Steps:
    """Return a path that ends in a mapping's key, which msgspec does not name, with that of the first wrong value."""
    if not path or path[-1] != _ANY:
        return path
    found, kinds = _at(tree, path[:-1]), types_at(path)
    wrong = [str(key) for key, value in found.items() if not fits(kinds, value)] if isinstance(found, dict) else []
    return (*path[:-1], *wrong[:1]) if wrong else path


def _note(path: Steps) -> str:
    """Return what a setting is about."""
    owners = [kind.cls for kind in types_at(path[:-1]) if isinstance(kind, inspect.StructType)]
    notes, classes = notes_of_settings(), [one for owner in owners for one in owner.__mro__]
    return _sentence(next((notes[at] for one in classes if (at := (one.__name__, path[-1])) in notes), ""))


def _sentence(text: str) -> str:
    return f"; {text}" if text else ""


def _near(name: str, names: Sequence[str]) -> str:
    """Ask for the name that has these initials, as `lr` of `learning_rate`, is spelt nearly so, or is elsewhere."""
    short = [one for one in names if name == "".join(word[:1] for word in one.split("_"))]
    elsewhere = [path for path in _all_paths() if path.endswith(f".{name}")][:_MEANT]
    return _meant(short[:1]) or _close(name, names) or _meant(elsewhere)


def _close(name: str, names: Sequence[str]) -> str:
    return _meant(difflib.get_close_matches(name, names, n=1, cutoff=CLOSE))


def _meant(names: Sequence[str]) -> str:
    return f": did you mean {' or '.join(f'`{one}`' for one in names)}?" if names else ""


@lru_cache(maxsize=1)
def _all_paths() -> list[str]:
    """Return every setting, as one writes it on the command line; those of a list or of names have `[]` or `NAME`."""
    return list(_paths_below(inspect.type_info(Recipe), ""))


def _paths_below(kind: inspect.Type, prefix: str) -> Iterator[str]:
    for one in flat([kind]):
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
