"""What of a recipe leaves the machine: all of it but secrets. Pure, given the environment."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from nexrl_trainer.recipe import Recipe

HIDDEN = "(not sent)"
SHORTEST_SECRET = 6
"""Shorter values of secret variables would hide ordinary words."""
_SECRET_NAME = re.compile(r"key|token|secret|password|passwd|credential", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


def without_secrets(recipe: Recipe, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the recipe as plain values, without what must stay here.

    Hidden are all values under `env`, credentials in addresses, and, wherever it appears, whatever stands in a variable
    that is named like a secret.
    """
    every = {**environment, **recipe.engine.env, **(recipe.agent.env if recipe.agent else {})}
    secrets = [value for name, value in every.items() if _SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET]
    return _hidden(msgspec.to_builtins(recipe), sorted(secrets, key=len, reverse=True))


def _hidden(value: Any, secrets: Iterable[str]) -> Any:
    if isinstance(value, dict):
        shown = {key: _hidden(item, secrets) for key, item in value.items()}
        return shown | {key: dict.fromkeys(item, HIDDEN) for key, item in value.items() if key == "env"}
    if isinstance(value, list):
        return [_hidden(item, secrets) for item in value]
    if not isinstance(value, str):
        return value
    for secret in secrets:
        value = value.replace(secret, HIDDEN)
    return _CREDENTIALS.sub("", value)
