"""JSON: one array of objects. The file is decoded from the page cache: its text is never in our memory."""

import mmap
from collections.abc import Iterator
from typing import Any, cast

import msgspec

from nexrl.errors import ConfigError
from nexrl_trainer.data.rows import Place, Row


def read(place: Place) -> Iterator[Row]:
    for number, row in enumerate(_decoded(place), start=1):
        where = f"{place.path}, row {number}"
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: {type(row).__name__} {str(row)[:40]!r}; each item must be an object")
        yield Row(number=number, place=where, fields=cast("dict[str, Any]", row))


def _decoded(place: Place) -> list[Any]:
    with place.path.open("rb") as file:
        if not place.path.stat().st_size:
            raise ConfigError(f"{place.path} is empty; write an array of objects")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return msgspec.json.decode(data, type=list[Any])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"{place.path}: {error}; write one array of objects, or one object a line in a .jsonl file"
                ) from error
