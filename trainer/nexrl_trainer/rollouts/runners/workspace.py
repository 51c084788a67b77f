"""A fresh folder for each attempt, with the task's files in it; removed afterwards, or kept where asked."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Keep = Literal["never", "failed", "always"]
READ_BYTES = 1 << 20


class Workspace:
    """One attempt's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def made(cls, folder: Path, files: Mapping[str, str]) -> "Workspace":
        """Make the folder and write the files, by their paths in it; raises ValueError for a path that leaves it."""
        folder.mkdir(parents=True)
        for name, text in files.items():
            path = inside(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return cls(folder)

    def end(self, keep: Keep, *, failed: bool) -> None:
        """Remove the folder unless it is to be kept."""
        if keep == "never" or (keep == "failed" and not failed):
            shutil.rmtree(self.folder, ignore_errors=True)


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder; raises ValueError where it leads out of it."""
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(folder) or path == folder:
        raise ValueError(f"{name}: give a path inside the agent's folder")
    return path


def read_answer(path: Path) -> str | None:
    """Return what an agent wrote to a file, up to a megabyte; None where it did not."""
    # A pipe or a device would never end.
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(READ_BYTES).decode(errors="replace")
