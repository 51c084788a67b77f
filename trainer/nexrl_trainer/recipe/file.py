"""Read a recipe: YAML, `extends:`, `${env:NAME,default}`, `NEXRL_*` variables, `a.b=c` on the command line.

Relative paths start at the folder of the recipe that extends nothing. Precedence, strongest first: command line,
environment, recipe, what it extends, defaults. Decoding is strict: an unknown key or a wrong type is an error naming
the path.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from nexrl.emitting import INGEST_VARIABLE
from nexrl.errors import ConfigError
from nexrl.keys import ADMIN_KEY_VARIABLE, ENGINE_KEY_VARIABLE
from nexrl_trainer.recipe.explaining import explained
from nexrl_trainer.recipe.tree import Recipe

Tree = dict[str, Any]
_VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?:,([^}]*))?\}")
_PREFIX = "NEXRL_"
_NOT_OURS = frozenset({ADMIN_KEY_VARIABLE, ENGINE_KEY_VARIABLE, INGEST_VARIABLE})


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as text; people mean the number. A key that stands twice is refused, as YAML has it."""

    def __init__(self, text: str, name: str) -> None:
        """`name` is what errors call the text."""
        super().__init__(text)
        self.name = name

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here and not where the mapping is made: `<<` has put others' keys into it by then.
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if first := lines.get((key.tag, key.value)):
                raise yaml.YAMLError(
                    f"{key.value!r} stands in line {first} and again in line {line}, and only one can count: "
                    "remove the other"
                )
            lines[key.tag, key.value] = line
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_recipe(path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Recipe:
    """Return the effective recipe; raises ConfigError naming file, path, value and remedy."""
    environment = os.environ if environment is None else environment
    tree = _read(path, environment, seen=())
    tree.setdefault("folder", str(path.resolve().parent))
    variables = set_values_from(environment)
    for item in [*variables, *overrides]:
        _assign(tree, item)
    try:
        return msgspec.convert(tree, Recipe, strict=True)
    except msgspec.ValidationError as error:
        settings = {_variable(item): _steps(item) for item in variables} | {item: _steps(item) for item in overrides}
        raise ConfigError(explained(str(error), tree, str(path), settings)) from error


def to_yaml(recipe: Recipe) -> str:
    """Return the effective recipe as YAML that loads to the same recipe."""
    return yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False, allow_unicode=True)


def set_values_from(environment: Mapping[str, str]) -> list[str]:
    """Return `NEXRL_*` variables as `a.b=c` items; `NEXRL_TRAIN__LEARNING_RATE` is `train.learning_rate`.

    Raises ConfigError for a variable that names no part of a recipe.
    """
    items: list[str] = []
    for name, value in sorted(environment.items()):
        if not name.startswith(_PREFIX) or name in _NOT_OURS:
            continue
        path = name.removeprefix(_PREFIX).lower().split("__")
        if path[0] not in Recipe.__struct_fields__:
            raise ConfigError(f"environment variable {name}: a recipe has no {path[0]!r}; unset it or correct the name")
        items.append(f"{'.'.join(path)}={value}")
    return items


def _variable(item: str) -> str:
    """Return the variable that an item came from: `set_values_from` backwards."""
    name, _, text = item.partition("=")
    return f"{_PREFIX}{name.upper().replace('.', '__')}={text}"


def _steps(item: str) -> tuple[str, ...]:
    return tuple(item.partition("=")[0].strip().split("."))


def _parse(text: str, name: str) -> Any:
    """Return what YAML holds; raises yaml.YAMLError, which calls the text by the name."""
    loader = _Loader(text, name)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _read(path: Path, environment: Mapping[str, str], seen: tuple[Path, ...]) -> Tree:
    path = path.expanduser().resolve()
    if path in seen:
        raise ConfigError(f"{path} extends itself: {' -> '.join(str(item) for item in (*seen, path))}")
    try:
        tree = _parse(path.read_text(), str(path))
    except OSError as error:
        raise ConfigError(f"recipe {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} is no YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"recipe {path}: expected a mapping at the top, got {type(tree).__name__}")
    tree = _substitute(tree, environment, path)
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise ConfigError(f"recipe {path}: extends: {parent!r}; name one file")
    base = _read(path.parent / parent, environment, (*seen, path))
    base.setdefault("folder", str((path.parent / parent).resolve().parent))
    return _merge(base, tree)


def _substitute(value: Any, environment: Mapping[str, str], path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(item, environment, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, environment, path) for item in value]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = environment.get(name) or default
        if found is None:
            raise ConfigError(
                f"recipe {path}: {match.group()} is not set; export {name} or write ${{env:{name},default}}"
            )
        return found

    text = _VARIABLE.sub(look_up, value)
    # A value that is one variable takes the type its text has in YAML; "7" beside other text stays text.
    if not _VARIABLE.fullmatch(value):
        return text
    try:
        return _parse(text, value)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {path}: {value} is {text!r}, which is no YAML value: {error}") from error


def _merge(base: Tree, over: Tree) -> Tree:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _assign(tree: Tree, item: str) -> None:
    _, separator, text = item.partition("=")
    path = _steps(item)
    if not separator or not all(path):
        raise ConfigError(f"{item!r}: write settings as path=value, for example train.learning_rate=1e-3")
    for key in path[:-1]:
        part: Any = tree.setdefault(key, {})
        if not isinstance(part, dict):
            raise ConfigError(f"{item!r}: {key!r} is a value, not a part of the recipe")
        tree = part
    try:
        tree[path[-1]] = _parse(text, item)
    except yaml.YAMLError as error:
        raise ConfigError(f"{item!r}: {text!r} is no YAML value: {error}") from error
