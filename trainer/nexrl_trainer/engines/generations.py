"""What differs between the engines that weights are published to: their kinds, and generations of SGLang.

Pure: which requests an update consists of. Nobody else in the trainer knows; `client.py` sends them.
"""

import re
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from nexrl.errors import ConfigError

Updates = Literal["in_flight", "drained"]
OLDEST, NAMES_TOKENS = (0, 5, 13), (0, 5, 23)


class Generation(Struct, frozen=True, kw_only=True):
    """What engines of one kind and generation do around an update."""

    name: str
    names_tokens: bool
    """A reply says of every token which weights sampled it, so that weights may change under a running request."""
    pauses: bool
    """What runs has to be put aside first; else an update waits until nothing is left, or takes care itself."""
    flushes: bool
    """Keys and values of the old weights are thrown away because the update says so; else always."""


class Call(Struct, frozen=True):
    """One POST."""

    route: str
    body: dict[str, Any]


class Update(Struct, frozen=True, kw_only=True):
    """The requests that an update consists of; `after` is sent whatever became of the others."""

    before: Call | None = None
    load: Call
    after: Call | None = None


EMBEDDED = Generation(name="the embedded engine", names_tokens=True, pauses=False, flushes=False)


def sglang(version: str) -> Generation:
    """Return what an SGLang server of that version does; raises ConfigError for one that is too old.

    What lies between two versions that were seen counts as the older one: that is slower at worst.
    Example: 0.5.13 -> names no tokens; 0.5.23.post1 -> names them.
    """
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    numbers = tuple(map(int, found.groups())) if found else ()
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigError(f"SGLang {version}: its weight updates are not those of {oldest} and newer; upgrade it")
    named = numbers >= NAMES_TOKENS
    return Generation(name=f"SGLang {version}", names_tokens=named, pauses=named, flushes=True)


def check(generation: Generation, updates: Updates) -> None:
    """Raise ConfigError where engines of this generation cannot be updated that way."""
    if updates == "in_flight" and not generation.names_tokens:
        raise ConfigError(
            f"engine.updates=in_flight: {generation.name} names one weight version a request, not one a token; "
            "set engine.updates=drained, or upgrade SGLang to "
            f"{'.'.join(map(str, NAMES_TOKENS))}"
        )


def update(generation: Generation, folder: Path, version: int) -> Update:
    """Return how the weights in a folder become `version`.

    SGLang retracts what runs: keys and values are computed anew from the new weights. Left in place they would be a
    mixture that no recomputed logprob agrees with, and stay in the prefix cache for requests to come.
    """
    body: dict[str, Any] = {"model_path": str(folder), "weight_version": str(version)}
    if generation.flushes:
        body["flush_cache"] = True
    load = Call("/update_weights_from_disk", body)
    if not generation.pauses:
        return Update(load=load)
    return Update(
        before=Call("/pause_generation", {"mode": "retract"}), load=load, after=Call("/continue_generation", {})
    )
