"""From a source's rows to its tasks: which are kept, what their fields say, what they are called."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl.records import Task
from nexrl_trainer.data.conditions import holds
from nexrl_trainer.data.kinds import function_place, reader_of
from nexrl_trainer.data.rows import Place, Row
from nexrl_trainer.data.sources.python_function import function_in
from nexrl_trainer.recipe.tasks import Source
from nexrl_trainer.templates import fill


class Found(Struct, frozen=True, kw_only=True):
    """A task, and where it stands."""

    task: Task
    place: str


def read_source(source: Source, named: str, resolve: Callable[[str], Path]) -> Iterator[Found]:
    """Yield the tasks of a source, each once.

    `named` is the setting that says where it is, for errors; `resolve` makes its paths absolute. Raises ConfigError
    naming file, row, field and remedy.
    """
    reader, place = reader_of(source, named, resolve)
    called = name_of(source, place)
    keep = _keeper(source, f"{named.removesuffix('.path')}.keep", resolve)
    kept = (row for row in reader(place) if keep(row))
    for row in islice(kept, source.limit):
        fields = {**row.fields, **{name: _filled(text, row) for name, text in source.fields.items()}}
        yield Found(task=Task(id=_id(source, called, row), fields=fields), place=row.place)


def name_of(source: Source, place: Place) -> str:
    """Return what a source is called: as it says, else by its generator, function, split or file."""
    return source.name or place.member or (f"{place.path.stem}-{place.split}" if place.split else place.path.stem)


def _filled(template: str, row: Row) -> str:
    try:
        return fill(template, row.fields)
    except KeyError as error:
        raise ConfigError(
            f"{row.place}: {template!r} asks for {error.args[0]!r}, the row has {', '.join(row.fields)}; "
            "double the braces of what is no field"
        ) from error


def _id(source: Source, called: str, row: Row) -> str:
    if source.id is not None:
        return _filled(source.id, row)
    value = row.fields.get("id", f"{called}-{row.number:05d}")
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
        raise ConfigError(f"{row.place}, field 'id': {value!r} names nothing; use text or a whole number, or set id:")
    return str(value)


def _keeper(source: Source, named: str, resolve: Callable[[str], Path]) -> Callable[[Row], bool]:
    if source.keep is None:
        return lambda row: all(holds(condition, row) for condition in source.where)
    path, member = function_place(source.keep, named, resolve)
    function = function_in(Place(path=path, member=member))

    def keep(row: Row) -> bool:
        return all(holds(condition, row) for condition in source.where) and _asked(function, source, row)

    return keep


def _asked(function: Any, source: Source, row: Row) -> bool:
    try:
        answer = function(dict(row.fields))
    except Exception as error:
        raise ConfigError(f"{row.place}: {source.keep} raised {type(error).__name__}: {error}") from error
    if not isinstance(answer, bool):
        raise ConfigError(f"{row.place}: {source.keep} returned {answer!r}; return True or False")
    return answer
