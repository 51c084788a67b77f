"""A Python function: `file.py:function`, called once with the source's options, returns or yields rows as dicts."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from nexrl.errors import ConfigError
from nexrl.importing import import_file
from nexrl.records import encode
from nexrl_trainer.data.rows import Place, Row


def read(place: Place) -> Iterator[Row]:
    where = f"{place.path}:{place.member}"
    for number, fields in enumerate(_called(place, where), start=1):
        row = f"{where}, row {number}"
        if not isinstance(fields, dict) or not all(isinstance(name, str) for name in cast("dict[Any, Any]", fields)):
            raise ConfigError(f"{row}: {str(fields)[:60]!r}; each row must be a dict whose keys are text")
        for name, value in cast("dict[str, Any]", fields).items():
            _refuse_what_cannot_be_stored(row, name, value)
        yield Row(number=number, place=row, fields=cast("dict[str, Any]", fields))


def _called(place: Place, where: str) -> Iterator[Any]:
    function = function_in(place)
    try:
        rows = function(**place.options)
    except Exception as error:
        raise _raised(where, error) from error
    if not isinstance(rows, Iterable):
        raise ConfigError(f"{where} returned {type(rows).__name__}; return a list of dicts, or yield them")
    try:
        yield from cast("Iterable[Any]", rows)
    except Exception as error:
        raise _raised(where, error) from error


def _raised(where: str, error: Exception) -> ConfigError:
    return ConfigError(f"{where} raised {type(error).__name__}: {error}")


def function_in(place: Place) -> Any:
    """Return the function that a place names; raises ConfigError where there is none."""
    function = getattr(import_file(place.path, "task file"), place.member, None)
    if not callable(function):
        raise ConfigError(f"{place.path} has no function {place.member!r}; name one as file.py:function")
    return function


def _refuse_what_cannot_be_stored(row: str, name: str, value: Any) -> None:
    try:
        encode(value)
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
        raise ConfigError(f"{row}, field {name!r}: {error}; use text, numbers, lists and dicts") from error
