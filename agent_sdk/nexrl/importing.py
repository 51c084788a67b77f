"""Import a Python file that somebody names: a reward file, an agent."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from nexrl.blame import blamed
from nexrl.errors import ConfigError


def import_file(path: Path, kind: str) -> ModuleType:
    """Import a file; modules beside it can be imported from it.

    `kind` says what it is in errors ("reward file"). Raises ConfigError where it is missing or does not import.
    """
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"{kind} {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"nexrl_{kind.replace(' ', '_')}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{kind} {path}: it is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    if str(path.parent) not in sys.path:
        # Last, so that a neighbour never hides an installed package.
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError)
        remedy = f"; it is imported by {sys.executable}: install it there" if missing else ""
        raise ConfigError(f"{kind} {path} does not import: {blamed(error, path.parent)}{remedy}") from error
    return module
