"""Which kind of source a path is, and which settings that kind has."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

from nexrl.errors import ConfigError
from nexrl_trainer.data.rows import Place, Reader
from nexrl_trainer.data.sources import csv_table, generated, hugging_face, json_array, jsonl, parquet, python_function
from nexrl_trainer.recipe.tasks import Kind, Source

READERS: dict[Kind, Reader] = {
    "jsonl": jsonl.read,
    "json": json_array.read,
    "csv": csv_table.read,
    "parquet": parquet.read,
    "dataset": hugging_face.read,
    "reasoning_gym": generated.read,
    "python": python_function.read,
}
SUFFIXES: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
GENERATOR = "reasoning_gym:"
SETTINGS: dict[str, set[Kind]] = {"split": {"dataset"}, "options": {"reasoning_gym", "python"}}
"""Settings that only some kinds have."""


def reader_of(source: Source, named: str, resolve: Callable[[str], Path]) -> tuple[Reader, Place]:
    """Return what reads a source, and from where; `named` is the setting that its errors are about.

    Raises ConfigError where nothing is there, its kind cannot be told, or a setting is another kind's.
    """
    kind = source.kind or kind_of(source.path, resolve(source.path), named)
    for setting, kinds in SETTINGS.items():
        if getattr(source, setting) and kind not in kinds:
            raise ConfigError(f"{named}={source.path}: {kind} has no {setting}; only {' and '.join(sorted(kinds))} has")
    path, member = resolve(source.path), ""
    if kind == "reasoning_gym":
        path, member = Path(), source.path.removeprefix(GENERATOR)
    elif kind == "python":
        path, member = function_place(source.path, named, resolve)
    elif kind == "dataset" and not path.is_dir():
        raise ConfigError(f"{named}={source.path}: no directory {path}")
    elif kind != "dataset" and not path.is_file():
        raise ConfigError(f"{named}={source.path}: no file {path}")
    return READERS[kind], Place(path=path, member=member, split=source.split, options=source.options)


def kind_of(text: str, path: Path, named: str) -> Kind:
    """Return the kind that a path's name tells, or what lies there; raises ConfigError where neither does."""
    if text.startswith(GENERATOR):
        return "reasoning_gym"
    if ".py:" in text:
        return "python"
    if path.is_dir():
        return "dataset"
    if kind := SUFFIXES.get(path.suffix):
        return kind
    if not path.exists():
        raise ConfigError(f"{named}={text}: no file {path}")
    raise ConfigError(
        f"{named}={text}: its name does not say what it is; set kind to one of {', '.join(get_args(Kind))}"
    )


def function_place(text: str, named: str, resolve: Callable[[str], Path]) -> tuple[Path, str]:
    """Return the file and the function of `file.py:function`."""
    file, _, function = text.rpartition(":")
    if not file or not function.isidentifier():
        raise ConfigError(f"{named}={text}: write file.py:function")
    if not resolve(file).is_file():
        raise ConfigError(f"{named}={text}: no file {resolve(file)}")
    return resolve(file), function
