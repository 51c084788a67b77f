"""What travels over HTTP, and the checks that turn a body into a request the scheduler can run.

Field names are SGLang's. Pure: no socket, no tensor. `server.py` turns a RequestError into a 400.
"""

import math
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from nexrl.errors import NexrlError

_NEUTRAL = {"frequency_penalty": 0.0, "presence_penalty": 0.0, "repetition_penalty": 1.0}
_OF_OTHERS = ("json_schema", "structural_tag", "regex", "ebnf", "logit_bias", "top_logprobs_num")
"""Fields that SGLang has and this engine has not: people meet them through an agent's request."""
_GREEDY_BELOW = 1e-6  # as SGLang: dividing by less would overflow


class RequestError(NexrlError):
    """The client's mistake; the message says which one."""


class SamplingParams(Struct, frozen=True, forbid_unknown_fields=True):
    """How the next token is drawn, and when to stop."""

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    """Until so many are drawn, no token that would end the request can be."""
    temperature: float = 1.0
    """0 is greedy; its logprobs are those at temperature 1."""
    top_p: float = 1.0
    top_k: int = -1
    """-1 for all tokens."""
    min_p: float = 0.0
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    """Ignores `stop_token_ids` too, as SGLang does."""
    sampling_seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError, which msgspec reports with the path, where a value cannot be honoured."""
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "use 1 or more")
        remedy = "use 0 to max_new_tokens"
        _require(0 <= self.min_new_tokens <= self.max_new_tokens, "min_new_tokens", self.min_new_tokens, remedy)
        _require(0 <= self.temperature < math.inf, "temperature", self.temperature, "use 0 (greedy) or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "use more than 0 and at most 1")
        _require(self.top_k == -1 or self.top_k >= 1, "top_k", self.top_k, "use 1 or more, or -1 for all tokens")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "use 0 to 1")
        for name, neutral in _NEUTRAL.items():
            remedy = f"the embedded engine has no penalties; leave it out or use {neutral}"
            _require(getattr(self, name) == neutral, name, getattr(self, name), remedy)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        strings = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(string for string in strings if string)

    @property
    def greedy(self) -> bool:
        return self.temperature < _GREEDY_BELOW or self.top_k == 1

    @property
    def divisor(self) -> float:
        """What logits are divided by."""
        return 1.0 if self.temperature < _GREEDY_BELOW else self.temperature

    @property
    def restricted(self) -> bool:
        """Whether some tokens may not be drawn."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


class GenerateRequest(Struct, frozen=True, forbid_unknown_fields=True):
    input_ids: list[int]
    rid: str | None = None
    sampling_params: SamplingParams = msgspec.field(default_factory=SamplingParams)
    return_logprob: bool = False
    stream: bool = False


class AbortRequest(Struct, frozen=True, forbid_unknown_fields=True):
    rid: str


class UpdateWeightsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    model_path: str
    weight_version: str
    """An integer, written as a string as SGLang has it."""

    def __post_init__(self) -> None:
        digits = self.weight_version
        _require(digits.isascii() and digits.isdigit(), "weight_version", digits, 'use an integer as a string, "4" say')


class CheckWeightsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    action: Literal["checksum"]


class VersionSpan(Struct, frozen=True):
    """Completion tokens start <= i < end were sampled by weights `version`."""

    version: str
    start: int
    end: int


class MetaInfo(Struct, frozen=True, kw_only=True):
    id: str
    finish_reason: dict[str, Any] | None
    """None while the request runs (streamed events)."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Prompt tokens that were not computed when the request was admitted."""
    weight_version: str
    weight_versions: list[VersionSpan]
    output_token_logprobs: list[tuple[float, int, None]] | UnsetType = UNSET


class GenerateReply(Struct, frozen=True):
    output_ids: list[int]
    """Includes the token that stopped the request, as SGLang's does."""
    meta_info: MetaInfo


class Limits(Struct, frozen=True):
    """What the loaded model can take."""

    vocabulary: int
    max_length: int
    """Prompt and completion together, tokens."""
    can_detokenise: bool


def decode(body: bytes, kind: type[Any]) -> Any:
    """Return the body as `kind`; raises RequestError naming the field that is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        lacking = [name for name in _OF_OTHERS if f"unknown field `{name}`" in str(error)]
        remedy = f"the embedded engine has no `{lacking[0]}`; use SGLang or vLLM for it" if lacking else str(error)
        raise RequestError(remedy) from error
    except msgspec.DecodeError as error:
        raise RequestError(f"the body is not JSON: {error}") from error


def check(request: GenerateRequest, limits: Limits) -> None:
    """Raise RequestError where the model cannot run the request."""
    ids = request.input_ids
    if not ids:
        raise RequestError("input_ids is empty: send at least one token id")
    for low_or_high in (min(ids), max(ids)):
        if not 0 <= low_or_high < limits.vocabulary:
            raise RequestError(f"input_ids holds {low_or_high}: the vocabulary has ids 0 to {limits.vocabulary - 1}")
    if len(ids) >= limits.max_length:
        raise RequestError(
            f"the prompt has {len(ids)} tokens: prompt and completion together may have {limits.max_length}; "
            "shorten the prompt or raise --max-length"
        )
    if request.sampling_params.stop_strings and not limits.can_detokenise:
        raise RequestError("stop needs tokenizer.json in the model directory: add it or use stop_token_ids")


def _require(holds: bool, name: str, value: object, remedy: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r}: {remedy}")
