"""Reward files: import one, and find what is marked in it."""

import importlib.util
import sys
from pathlib import Path

from nexrl.errors import RewardError
from nexrl.rewards.function import RewardFunction


def load_rewards(path: Path) -> list[RewardFunction]:
    """Import a file and return its reward functions in order of definition.

    Modules beside the file can be imported from it. Raises RewardError where the file is missing, does not import,
    marks no function, or marks two of the same name.
    """
    path = path.resolve()
    if not path.is_file():
        raise RewardError(f"reward file {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"nexrl_reward_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    if str(path.parent) not in sys.path:
        # Last, so that a neighbour never hides an installed package.
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise RewardError(f"reward file {path} does not import: {type(error).__name__}: {error}") from error
    marked = [value for value in vars(module).values() if isinstance(value, RewardFunction)]
    found = list(dict.fromkeys(marked))
    if not found:
        raise RewardError(f"reward file {path}: nothing is marked with @nexrl.reward")
    names = [function.name for function in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise RewardError(f"reward file {path}: two rewards are named {min(twice)!r}; give one another name=")
    for function in found:
        function.file = path
    return found
