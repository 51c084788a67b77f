"""Reward files: import one, and find what is marked in it."""

from pathlib import Path

from nexrl.errors import ConfigError, RewardError
from nexrl.importing import import_file
from nexrl.rewards.function import RewardFunction


def load_rewards(path: Path) -> list[RewardFunction]:
    """Import a file and return its reward functions in order of definition.

    Modules beside the file can be imported from it. Raises RewardError where the file is missing, does not import,
    marks no function, or marks two of the same name.
    """
    path = path.resolve()
    try:
        module = import_file(path, "reward file")
    except ConfigError as error:
        raise RewardError(str(error)) from error
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
