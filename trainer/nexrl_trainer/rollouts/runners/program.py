"""Whether what a command agent consists of is there: found before anything is started, not once per attempt."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from nexrl.errors import ConfigError
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.templates import fill

INTERPRETERS = re.compile(r"(python|pypy|node|bash|sh|ruby|perl)[\d.]*")
"""Programs whose first argument, where it is no option, is the file that they run."""


def refuse_no_program(agent: Agent, folder: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError where the program of a command, or the script that it names, is not there.

    `folder` is the recipe's. What is a task's, or is looked for in a fresh folder, is known when it runs.
    """
    if not agent.command or agent.files is not None:
        return
    program, script = _known(agent.command[0], folder), _script(agent.command, folder)
    place, path = folder / Path(agent.cwd).expanduser(), agent.env.get("PATH", environment.get("PATH"))
    if program not in {None, "python"}:
        assert program
        if shutil.which(str(place / program) if "/" in program else program, path=path) is None:
            raise ConfigError(f"agent.command: no program {program!r} {_where(program, place)}{_remedy(program)}")
    if script is not None and not (place / script).exists() and shutil.which(script, path=path) is None:
        raise ConfigError(f"agent.command: no file {place / script} for {program} to run; correct path or agent.cwd")


def _script(command: list[str], folder: Path) -> str | None:
    """Return the file that an interpreter is told to run. Example: [python, agent.py, -v] -> agent.py."""
    if len(command) == 1 or command[1].startswith("-") or not INTERPRETERS.fullmatch(Path(command[0]).name):
        return None
    if Path(command[0]).name.startswith("node") and not Path(command[1]).suffix:
        return None  # Node finds names without an ending in ways of its own
    return _known(command[1], folder)


def _known(word: str, folder: Path) -> str | None:
    """Return a word of the command as it will be, None where a task's fields are in it."""
    try:
        return fill(word, {"recipe_folder": str(folder)})
    except KeyError:
        return None


def _where(program: str, place: Path) -> str:
    return f"that can be run in {place}" if "/" in program else "on the PATH"


def _remedy(program: str) -> str:
    parents = Path(program).parents
    environment = next((str(parent) for parent in parents if parent.name in {".venv", "venv"}), None)
    if environment:
        return f"; make its environment first: python -m venv {environment}, and install into it what the agent needs"
    return "; install it, or correct agent.command or agent.cwd"
