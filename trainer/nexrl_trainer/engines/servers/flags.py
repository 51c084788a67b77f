"""A server's flags as a recipe names them: written for the command line, refused where the installed one has no such.

The installed version is asked (`--help`), which costs an import of it: it has hundreds, and others every month.
"""

import difflib
import os
import re
import subprocess
from collections.abc import Iterable, Mapping

from nexrl.errors import ConfigError
from nexrl_trainer.engines.servers.kinds import Server
from nexrl_trainer.recipe.engine import Flag

_OPTIONS = re.compile(r"^ {1,4}-.*$", re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--([a-zA-Z0-9][\w.-]*)")
LAST_LINES = 8
ANSWER_S = 600.0


def arguments(flags: Mapping[str, Flag]) -> list[str]:
    """Return flags as words of a command line.

    Example: {"tp-size": 2, "enable-metrics": True, "served": ["a", "b"]} ->
    --tp-size 2 --enable-metrics --served a b
    """
    words: list[str] = []
    for name, value in flags.items():
        words.append(f"--{name}")
        if isinstance(value, list):
            words += value
        elif value is not True:
            words.append(str(value))
    return words


def parallel(server: Server, flags: Mapping[str, Flag]) -> dict[str, int]:
    """Return in how many ways a server is split over GPUs: their product is how many it takes.

    Raises ConfigError for what is no number.
    Example: SGLang, {"tensor-parallel-size": 2} -> tp-size 2, pp-size 1, dp-size 1
    """
    return {name: _count(name, flags.get(name, flags.get(other, 1))) for name, other in server.parallel.items()}


def _count(name: str, value: Flag) -> int:
    try:
        return int(str(value))
    except ValueError as error:
        raise ConfigError(f"engine.flags.{name}={value}: give a whole number") from error


def known(help_text: str) -> frozenset[str]:
    """Return the options that argparse lists, without their dashes.

    Example: "  --tp-size TP, --tensor-parallel-size TP  Ranks." -> tp-size, tensor-parallel-size
    """
    heads = (re.split(r" {2,}", line.strip())[0] for line in _OPTIONS.findall(help_text))
    return frozenset(name for head in heads for name in _OPTION.findall(head))


def installed(server: Server, python: str, environment: Mapping[str, str]) -> frozenset[str]:
    """Return the options of the server that a Python has; raises ConfigError where there is none."""
    try:
        asked = subprocess.run(
            [python, "-m", server.module, server.help],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            env={**os.environ, **environment},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        remedy = f"name the Python that {server.name} is installed in"
        raise ConfigError(f"engine.python={python}: {error}; {remedy}") from error
    if asked.returncode:
        said = "\n    ".join(asked.stderr.splitlines()[-LAST_LINES:])
        raise ConfigError(
            f"engine.python={python}: its {server.name} does not start; install it there (docs/sglang.md):\n    {said}"
        )
    return known(asked.stdout)


def refuse_unknown(server: Server, flags: Iterable[str], options: frozenset[str]) -> None:
    """Raise ConfigError for a flag that is no option, with those that it may have meant."""
    for name in flags:
        if name not in options:
            close = difflib.get_close_matches(name.replace("_", "-"), options, n=3)
            meant = f"did you mean {' or '.join(close)}?" if close else f"see `python -m {server.module} {server.help}`"
            raise ConfigError(f"engine.flags.{name}: the installed {server.name} has no such flag; {meant}")
