"""CSV (RFC 4180) and TSV, UTF-8: the first line names the fields, and every value is text."""

import csv
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nexrl.errors import ConfigError
from nexrl_trainer.data.rows import Place, Row

if TYPE_CHECKING:
    import _csv

FIELD_LIMIT = 1 << 30
"""Bytes of one value; Python's own limit of 128 KiB is less than a repository's diff."""


def read(place: Place) -> Iterator[Row]:
    csv.field_size_limit(FIELD_LIMIT)
    delimiter = "\t" if place.path.suffix == ".tsv" else ","
    # A byte order mark, as spreadsheets write it, is no part of the first field's name.
    with place.path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            yield from _rows(place, lines)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ConfigError(f"{place.path}:{lines.line_num + 1}: {error}; is it CSV in UTF-8?") from error


def _rows(place: Place, lines: "_csv.Reader") -> Iterator[Row]:
    names = next(lines, [])
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or not all(names) or twice:
        named = f"two are named {twice[0]!r}" if twice else "one has no name" if names else "there are none"
        raise ConfigError(f"{place.path}:1: the first line names the fields, and {named}; each needs a name of its own")
    while True:
        number = lines.line_num + 1
        values = next(lines, None)
        if values is None:
            return
        if not values:
            continue
        if len(values) != len(names):
            raise ConfigError(
                f"{place.path}:{number}: {len(values)} values for {len(names)} fields ({', '.join(names)}); "
                "quote values that hold a comma or a line's end"
            )
        yield Row(number=number, place=f"{place.path}:{number}", fields=dict(zip(names, values, strict=True)))
