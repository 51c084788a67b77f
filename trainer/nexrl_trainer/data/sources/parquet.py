"""Parquet: columns as they are (lists, structs, decimals, times), a batch of rows at a time."""

from collections.abc import Iterator
from typing import Any

from nexrl.errors import ConfigError
from nexrl_trainer.data.optional import package
from nexrl_trainer.data.rows import Place, Row

BATCH_ROWS = 1024


def read(place: Place) -> Iterator[Row]:
    arrow, parquet = package("pyarrow", "data"), package("pyarrow.parquet", "data")
    try:
        with parquet.ParquetFile(place.path) as file:
            yield from rows_of(file.iter_batches(batch_size=BATCH_ROWS), str(place.path))
    except arrow.ArrowException as error:
        raise ConfigError(f"{place.path} cannot be read as Parquet: {error}") from error


def rows_of(batches: Any, where: str) -> Iterator[Row]:
    """Yield the rows of record batches, or tables, of one file."""
    number = 0
    for batch in batches:
        for fields in batch.to_pylist():
            number += 1
            yield Row(number=number, place=f"{where}, row {number}", fields=fields)
