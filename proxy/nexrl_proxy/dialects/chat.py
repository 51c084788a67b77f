"""OpenAI chat completions, the request: decoded strictly, refused where it could not be honoured.

What would change the result and is not supported is a 400 that names the parameter. What cannot change it here
(`user`, `metadata`, ...) is accepted. The answer's shapes are `chat_reply`.
"""

from functools import lru_cache
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from nexrl_proxy.dialects import Ask, Opening, Wire
from nexrl_proxy.dialects.chat_reply import ChatReply, error_body
from nexrl_proxy.dialects.common import MOST_CHOICES, MOST_LOGPROBS, Sampled, param_of
from nexrl_proxy.errors import ApiError, unsupported


class StreamOptions(Struct):
    include_usage: bool | None = None


class JsonSchema(Struct):
    schema: dict[str, Any] | None = None


class ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class ChatRequest(Sampled, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/chat/completions`."""

    messages: Raw
    model: str = ""
    tools: Raw = Raw()
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None
    # Refused where they ask for something.
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any | UnsetType = UNSET
    functions: list[Any] | None = None
    function_call: Any = None
    moderation: Any = None
    # Accepted: they do not change what is sampled here.
    user: Any = None
    store: Any = None
    metadata: Any = None
    parallel_tool_calls: Any = None
    service_tier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    safety_identifier: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None


_decoder = msgspec.json.Decoder(ChatRequest)


class ChatDialect:
    """`POST /v1/chat/completions`."""

    response_prefix = "chatcmpl-"
    call_prefix = "call_"

    def decode(self, body: bytes) -> Ask:
        return decode(body)

    def answer(self, ask: Ask, opening: Opening) -> ChatReply:
        return ChatReply(ask, opening)

    def error(self, error: ApiError) -> dict[str, Any]:
        return error_body(error)


def decode(body: bytes) -> Ask:
    """Return what the request asks for; raises ApiError naming the parameter that is wrong or unsupported."""
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(f"the request is not a chat completion: {error}", param=param_of(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(f"the request is not JSON: {error}") from error
    _refuse_unsupported(request)
    _refuse_out_of_range(request)
    tools = _tools(bytes(request.tools)) if bytes(request.tools) else None
    return Ask(
        model=request.model,
        dialect="chat",
        wire=Wire(bytes(request.messages), bytes(request.tools)),
        request=body,
        tools=tools,
        must_call=must_call(request.tool_choice, tools),
        may_call=request.tool_choice != "none",
        template=request.chat_template_kwargs or {},
        sampling=request.sampling(
            logit_bias=request.logit_bias or None, json_schema=schema_of(request.response_format)
        ),
        max_tokens=request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens,
        stops=request.stops,
        n=1 if request.n is None else request.n,
        seed=request.seed,
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        logprobs=bool(request.logprobs),
        top_logprobs=request.top_logprobs or 0,
    )


@lru_cache(maxsize=256)
def _tools(raw: bytes) -> list[dict[str, Any]] | None:
    """Return tool definitions; agents send the same ones with every request."""
    try:
        return msgspec.json.decode(raw, type=list[dict[str, Any]] | None) or None
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ApiError(f"tools: {error}", param="tools") from error


def must_call(choice: str | dict[str, Any] | None, tools: list[dict[str, Any]] | None) -> str | None:
    """Return the tool that a reply has to call, "" for any, None for none; raises ApiError."""
    match choice:
        case None | "auto" | "none":
            return None
        case "required":
            name = ""
        case {"type": "function", "function": {"name": str(name)}} if name:
            pass
        case _:
            message = f"tool_choice {choice!r}: use 'auto', 'none', 'required', or one function by its name"
            raise ApiError(message, param="tool_choice")
    known = [tool.get("function", {}).get("name") for tool in tools or ()]
    if not known or (name and name not in known):
        raise ApiError(f"tool_choice {choice!r}: tools has {known}; name one of them", param="tool_choice")
    return name


def schema_of(form: ResponseFormat | None) -> str | None:
    """Return the JSON schema that a reply's text has to follow; raises ApiError."""
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return '{"type":"object"}'
    if form.json_schema is None or form.json_schema.schema is None:
        raise ApiError("response_format: json_schema.schema is missing", param="response_format")
    return msgspec.json.encode(form.json_schema.schema).decode()


def _refuse_unsupported(request: ChatRequest) -> None:
    refused = {
        "modalities": (request.modalities or ["text"]) != ["text"],
        "audio": request.audio is not None,
        "prediction": request.prediction is not None,
        "web_search_options": request.web_search_options is not UNSET,
        "moderation": request.moderation is not None,
        "functions": bool(request.functions),
        "function_call": request.function_call not in (None, "auto", "none"),
    }
    remedy = {
        "functions": "use `tools`",
        "function_call": "use `tool_choice`",
    }
    for param, is_asked in refused.items():
        if is_asked:
            raise unsupported(param, f"{param} is not supported: {remedy.get(param, 'leave it out')}")


def _refuse_out_of_range(request: ChatRequest) -> None:
    request.refuse_out_of_range(
        [
            ("n", request.n, 1, MOST_CHOICES),
            ("max_tokens", request.max_tokens, 1, 2**31),
            ("max_completion_tokens", request.max_completion_tokens, 1, 2**31),
            ("top_logprobs", request.top_logprobs, 0, MOST_LOGPROBS),
        ]
    )
