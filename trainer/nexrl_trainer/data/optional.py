"""Packages that only some sources need: imported when they are used, refused by name where they are not there."""

import importlib
from typing import Any

from nexrl.errors import ConfigError


def package(module: str, extra: str) -> Any:
    """Import a package; raises ConfigError with the pip command where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{module.partition('.')[0]} is not installed: run pip install 'nexrl[{extra}]'") from error
