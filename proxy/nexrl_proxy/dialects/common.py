"""What the request formats share: fields every server of open models takes, and how their errors are told."""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from nexrl_proxy.errors import ApiError

MOST_CHOICES = 128
MOST_STOPS = 16
MOST_LOGPROBS = 20
Range = tuple[str, float | None, float, float]
"""A parameter, its value, the least and the most it may be."""


class Sampled(Struct, forbid_unknown_fields=True, kw_only=True):
    """The sampling fields of a request."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    """Until so many are sampled, no token ends the reply."""
    ignore_eos: bool | None = None
    """No token ends the reply; a stop string or its limit does."""
    seed: int | None = None
    stop: str | list[str] | None = None

    @property
    def stops(self) -> list[str]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]

    def sampling(self, **more: Any) -> dict[str, Any]:
        """Return what was set, in SGLang's names; values that change nothing count as not set."""
        given: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "frequency_penalty": self.frequency_penalty or None,
            "presence_penalty": self.presence_penalty or None,
            "repetition_penalty": None if self.repetition_penalty == 1 else self.repetition_penalty,
            "min_new_tokens": self.min_tokens or None,
            "ignore_eos": self.ignore_eos or None,
            "stop": self.stops or None,
            **more,
        }
        return {name: value for name, value in given.items() if value is not None}

    def refuse_out_of_range(self, more: Iterable[Range]) -> None:
        """Raise ApiError for a value that cannot be."""
        ranges: list[Range] = [
            ("temperature", self.temperature, 0, 100),
            ("top_p", self.top_p, 1e-9, 1),
            ("min_p", self.min_p, 0, 1),
            ("min_tokens", self.min_tokens, 0, 2**31),
            ("number of stop", len(self.stops), 0, MOST_STOPS),
            ("seed", self.seed, -(2**63), 2**63 - 1),
            *more,
        ]
        for name, value, low, high in ranges:
            if value is not None and not low <= value <= high:
                raise ApiError(f"{name} is {value:g}: use {low:g} to {high:g}", param=name.split()[-1])


def param_of(message: str) -> str | None:
    """Return the parameter a validation message is about, from its path or its field's name."""
    _, found, path = message.partition("`$.")
    if found:
        return path.rstrip("`").split(".")[0].split("[")[0]
    return message.split("`")[1] if "`" in message else None
