"""Files that name models beside the proxy's own: JSON, each name with where that model is served."""

from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from nexrl.errors import ConfigError

ServedT = TypeVar("ServedT", bound=Struct)


def read_named(option: str, path: Path | None, kind: type[ServedT], example: str) -> dict[str, ServedT]:
    """Return what the file of an option holds, nothing where none is given; raises ConfigError, showing `example`."""
    if path is None:
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, kind])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{option} {path}: {error}; give {example} as JSON") from error
