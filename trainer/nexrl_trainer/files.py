"""Files that are whole or not there at all, whenever the process or the machine stops."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(data)
    sync(draft)
    draft.rename(path)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
