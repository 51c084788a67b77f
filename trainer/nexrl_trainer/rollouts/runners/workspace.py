"""A fresh folder for each attempt, with the task's files in it; removed afterwards, or kept where asked."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from nexrl_trainer.recipe.agent import OUTSIDE, leads_out

Keep = Literal["never", "failed", "always"]
READ_BYTES = 1 << 20


class Workspace:
    """One attempt's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def made(cls, folder: Path, files: Mapping[str, str]) -> "Workspace":
        """Make the folder and write the files, by their paths in it, as UTF-8.

        Raises ValueError for a path that leaves it, OSError where one cannot be written; there is no folder then.
        """
        folder.mkdir(parents=True)
        try:
            for name, text in files.items():
                path = inside(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        except (OSError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(folder)

    def end(self, keep: Keep, *, failed: bool) -> None:
        """Remove the folder unless it is to be kept."""
        if keep == "never" or (keep == "failed" and not failed):
            shutil.rmtree(self.folder, ignore_errors=True)


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder; raises ValueError where it leads out of it."""
    if leads_out(name):
        raise ValueError(OUTSIDE.format(name))
    return folder / os.path.normpath(name)


def read_answer(path: Path) -> str:
    """Return what an agent wrote to a file, up to a megabyte; empty where it did not."""
    # A pipe or a device would never end.
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(READ_BYTES).decode(errors="replace")
