"""Packages that only some judges need: imported when they are used, refused by name where they are not there."""

import importlib
from types import ModuleType

from nexrl.errors import RewardError


def package(module: str, install: str) -> ModuleType:
    """Import a package; raises RewardError with the pip command where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise RewardError(f"{module} is not installed: run pip install '{install}'") from error
