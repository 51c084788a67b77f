"""JSON Lines: one object a line (https://jsonlines.org). Lines are read one at a time; empty ones are skipped."""

from collections.abc import Iterator
from typing import Any

import msgspec

from nexrl.errors import ConfigError
from nexrl_trainer.data.rows import Place, Row

_DECODER = msgspec.json.Decoder(dict[str, Any])


def read(place: Place) -> Iterator[Row]:
    with place.path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{place.path}:{number}"
            try:
                fields = _DECODER.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ConfigError(f"{where}: {error}; write one JSON object a line") from error
            yield Row(number=number, place=where, fields=fields)
