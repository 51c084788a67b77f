"""What a source is to those who read it: a place, and rows that come one after the other."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct


class Place(Struct, frozen=True, kw_only=True):
    """Where a source's rows are, as its recipe says."""

    path: Path
    """Absolute; of a function's place the file, of a generator's none."""
    member: str = ""
    """The function in the file, or the generator's name."""
    split: str | None = None
    options: Mapping[str, Any] = {}


class Row(Struct, frozen=True, kw_only=True):
    """A row as it stands in its source."""

    number: int
    """From 1; in a text file that of the line it begins on."""
    place: str
    """For people: `train.jsonl:3`, `train.parquet, row 3`."""
    fields: dict[str, Any]


class Reader(Protocol):
    """A kind of source."""

    def __call__(self, place: Place, /) -> Iterator[Row]:
        """Yield the rows in order; raises ConfigError naming file, row, field and remedy where one is none."""
        ...
