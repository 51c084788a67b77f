"""Write the reference of all settings, docs/recipe.md, from the tree itself.

    python -m nexrl_trainer.recipe.reference > docs/recipe.md

The text beside each setting is its note (`notes.py`); a test keeps the page true.
"""

import sys
from typing import Any, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct

from nexrl_trainer.recipe import tree
from nexrl_trainer.recipe.notes import notes_of_settings
from nexrl_trainer.recipe.part import Part

HEAD = """# The recipe

Every setting a recipe can have, its default, and what it does. A recipe is YAML; unknown keys and wrong types are
errors that name the path. `extends: other.yaml` starts from another recipe, `${env:NAME,default}` reads a variable, and
relative paths start at the recipe's folder. What wins, strongest first: the command line (`train.learning_rate=1e-3`),
`NEXRL_*` variables (`NEXRL_TRAIN__LEARNING_RATE=1e-3`), the recipe, what it extends, the defaults.

Written by `python -m nexrl_trainer.recipe.reference`.
"""


def reference() -> str:
    """Return docs/recipe.md."""
    notes = notes_of_settings()
    sections = [HEAD, *_section("At the top", tree.Recipe, "", notes)]
    for field in msgspec.structs.fields(tree.Recipe):
        if inside := _part_inside(field.type):
            part, brackets = inside
            sections += _section(f"`{field.name}`", part, f"{field.name}{brackets}.", notes)
    return "\n".join(sections) + "\n"


def _section(title: str, part: type[Struct], prefix: str, notes: dict[tuple[str, str], str]) -> list[str]:
    return [f"\n## {title}\n", "| setting | default | |", "|---|---|---|", *_rows(part, prefix, notes)]


def _rows(part: type[Struct], prefix: str, notes: dict[tuple[str, str], str]) -> list[str]:
    """Return a row for each setting; parts inside that are alike share theirs: `{train,eval}.temperature`."""
    rows: list[str] = []
    inner: dict[tuple[type[Struct], str], list[str]] = {}
    for field in msgspec.structs.fields(part):
        note = next((notes[at] for kind in part.__mro__ if (at := (kind.__name__, field.name)) in notes), "")
        if inside := _part_inside(field.type):
            inner.setdefault(inside, []).append(field.name)
        if not _is_part(field.type) or (note and prefix):
            shown = "" if _is_part(field.type) else _default(field)
            rows.append(f"| `{prefix}{field.name}` | {shown} | {note} |".replace("  |", " |"))
    for (kind, brackets), names in inner.items() if prefix else ():
        name = names[0] if len(names) == 1 else f"{{{','.join(names)}}}"
        rows += _rows(kind, f"{prefix}{name}{brackets}.", notes)
    return rows


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Part)


def _part_inside(kind: Any) -> tuple[type[Struct], str] | None:
    """Return the part that a setting is or may be (`Lora | None`); "[]" where it has a list of them, or ".NAME"."""
    if _is_part(kind):
        return kind, ""
    for argument in get_args(kind):
        if inside := _part_inside(argument):
            part, brackets = inside
            return part, {list: "[]", dict: ".NAME"}.get(get_origin(kind), "") + brackets
    return None


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not NODEFAULT:
        return "none" if field.default is None else f"`{msgspec.json.encode(field.default).decode()}`"
    if field.default_factory is not NODEFAULT:
        return f"`{msgspec.json.encode(field.default_factory()).decode()}`"
    return "required"


if __name__ == "__main__":
    sys.stdout.write(reference())
