"""OpenAI chat completions, the request: decoded strictly, refused where it could not be honoured.

What would change the result and is not supported is a 400 that names the parameter. What cannot change it here
(`user`, `metadata`, ...) is accepted. The answer's shapes are `chat_reply`.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from nexrl_proxy.dialects import Ask
from nexrl_proxy.dialects.chat_reply import ChatReply, error_body
from nexrl_proxy.errors import ApiError, unsupported
from nexrl_proxy.messages import Message

MOST_CHOICES = 128
MOST_STOPS = 16


class StreamOptions(Struct):
    include_usage: bool | None = None


class ChatRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/chat/completions`."""

    messages: list[Message]
    model: str = ""
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    # Refused where they ask for something.
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any | UnsetType = UNSET
    functions: list[Any] | None = None
    function_call: Any = None
    # Accepted: they do not change what is sampled here.
    user: Any = None
    store: Any = None
    metadata: Any = None
    parallel_tool_calls: Any = None
    service_tier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None


_decoder = msgspec.json.Decoder(ChatRequest)


class ChatDialect:
    """`POST /v1/chat/completions`."""

    def decode(self, body: bytes) -> Ask:
        return decode(body)

    def answer(self, *, response: str, model: str, created: int) -> ChatReply:
        return ChatReply(response=response, model=model, created=created)

    def error(self, error: ApiError) -> dict[str, Any]:
        return error_body(error)


def decode(body: bytes) -> Ask:
    """Return what the request asks for; raises ApiError naming the parameter that is wrong or unsupported."""
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(f"the request is not a chat completion: {error}", param=_param(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(f"the request is not JSON: {error}") from error
    _refuse_unsupported(request)
    _refuse_out_of_range(request)
    temperature = 1.0 if request.temperature is None else request.temperature
    return Ask(
        model=request.model,
        dialect="chat",
        messages=request.messages,
        tools=None if request.tool_choice == "none" else request.tools or None,
        template=request.chat_template_kwargs or {},
        sampling=_sampling(request, temperature),
        max_tokens=request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens,
        temperature=temperature,
        stops=_stops(request),
        n=1 if request.n is None else request.n,
        seed=request.seed,
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        logprobs=bool(request.logprobs),
    )


def _sampling(request: ChatRequest, temperature: float) -> dict[str, Any]:
    given: dict[str, Any] = {
        "temperature": temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "frequency_penalty": request.frequency_penalty or None,
        "presence_penalty": request.presence_penalty or None,
        "repetition_penalty": None if request.repetition_penalty == 1 else request.repetition_penalty,
        "stop": _stops(request) or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _stops(request: ChatRequest) -> list[str]:
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return [stop for stop in stops if stop]


def _refuse_unsupported(request: ChatRequest) -> None:
    refused = {
        "tool_choice": request.tool_choice not in (None, "auto", "none"),
        "logit_bias": bool(request.logit_bias),
        "response_format": (request.response_format or {}).get("type", "text") != "text",
        "modalities": (request.modalities or ["text"]) != ["text"],
        "audio": request.audio is not None,
        "prediction": request.prediction is not None,
        "web_search_options": request.web_search_options is not UNSET,
        "functions": bool(request.functions),
        "function_call": request.function_call not in (None, "auto", "none"),
        "top_logprobs": bool(request.top_logprobs),
    }
    remedy = {
        "tool_choice": "use 'auto' or 'none'",
        "functions": "use `tools`",
        "function_call": "use `tool_choice`",
        "top_logprobs": "leave it out; `logprobs` gives those of the sampled tokens",
    }
    for param, is_asked in refused.items():
        if is_asked:
            raise unsupported(param, f"{param} is not supported: {remedy.get(param, 'leave it out')}")


def _refuse_out_of_range(request: ChatRequest) -> None:
    ranges: list[tuple[str, float | None, float, float]] = [
        ("temperature", request.temperature, 0, 100),
        ("top_p", request.top_p, 1e-9, 1),
        ("min_p", request.min_p, 0, 1),
        ("n", request.n, 1, MOST_CHOICES),
        ("max_tokens", request.max_tokens, 1, 2**31),
        ("max_completion_tokens", request.max_completion_tokens, 1, 2**31),
        ("stop", len(_stops(request)), 0, MOST_STOPS),
        ("messages", len(request.messages), 1, 2**31),
        ("seed", request.seed, -(2**63), 2**63 - 1),
    ]
    for param, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            counted = "number of " if param in ("stop", "messages") else ""
            raise ApiError(f"{counted}{param} is {value:g}: use {low:g} to {high:g}", param=param)


def _param(message: str) -> str | None:
    """Return the parameter a validation message is about, from its path or its field's name."""
    _, found, path = message.partition("`$.")
    if found:
        return path.rstrip("`").split(".")[0].split("[")[0]
    return message.split("`")[1] if "`" in message else None
