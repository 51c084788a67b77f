"""Functions of other people are told what they ask for by the names of their parameters: reward functions, agents."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any


def wanted_parameters(function: Callable[..., Any], known: Sequence[str]) -> list[str]:
    """Return the parameters to be given; raises ValueError naming one that nobody can give, and those that can be.

    Parameters with a default may have any name. Example: f(task, answer, scale=2), known task, answer, calls
        -> task, answer
    """
    wanted: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in known:
            wanted.append(parameter.name)
        elif parameter.default is parameter.empty and parameter.kind not in {
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        }:
            raise ValueError(f"asks for {parameter.name!r}: it can have {', '.join(known)}")
    return wanted
