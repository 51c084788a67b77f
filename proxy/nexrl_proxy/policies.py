"""More models that learn behind one proxy: each with engines, a tokenizer and sessions of its own, asked by its name.

Which calls are whose is on the calls (`Call.policy`); what each learns is the trainer's.
"""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl_proxy.named import read_named


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a model that learns is served."""

    engine: str
    """Base URLs of its engines, separated by commas; of the same kind as the proxy's others."""
    model: str
    """Its directory: tokenizer, chat template, config."""


def read_policies(path: Path | None, taken: Mapping[str, str]) -> dict[str, Policy]:
    """Read the file of `--policies`, names and where they are served; raises ConfigError.

    `taken` are names that mean another model already, each with the option that says so.
    """
    found = read_named("--policies", path, Policy, '{"NAME": {"engine": "http://HOST:PORT", "model": "FOLDER"}}')
    for name in found:
        if not name:
            raise ConfigError(f"--policies {path}: a model without a name; give it the one that agents ask for")
        if name in taken:
            raise ConfigError(f"--policies {path}: {name!r} is taken by {taken[name]}: give another name")
    return found
