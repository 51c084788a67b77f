"""OpenAI Responses, the body of a request: its parameters, and the refusal of what could not be honoured.

What would change the result and is not supported is a 400 that names the parameter. Items are `responses_input`'s,
tools `responses_tools`'.
"""

from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw, Struct

from nexrl_proxy.dialects.common import MOST_LOGPROBS, Sampled, param_of
from nexrl_proxy.dialects.responses_input import Item
from nexrl_proxy.errors import ApiError, unsupported

LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = {
    LOGPROBS,
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
}


class TextFormat(Struct):
    type: str = "text"
    schema: dict[str, Any] | None = None


class TextConfig(Struct):
    format: TextFormat | None = None


class ResponsesRequest(Sampled, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/responses`."""

    input: str | list[Item] | None = None
    instructions: str | None = None
    model: str = ""
    tools: Raw = Raw()
    tool_choice: str | dict[str, Any] | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    text: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # Refused where they ask for something.
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    context_management: list[Any] | None = None
    moderation: Any = None
    # Accepted: they do not change what is sampled here.
    truncation: str | None = None
    reasoning: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    safety_identifier: str | None = None
    user: str | None = None
    stream_options: Any = None
    background_options: Any = None
    access_programs: Any = None
    image: Any = None
    client_metadata: Any = None


_decoder = msgspec.json.Decoder(ResponsesRequest)


def request_of(body: bytes) -> ResponsesRequest:
    """Return the request; raises ApiError naming the parameter that is wrong or unsupported."""
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(f"the request is not one for a response: {error}", param=param_of(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(f"the request is not JSON: {error}") from error
    _refuse_unsupported(request)
    _refuse_out_of_range(request)
    return request


@lru_cache(maxsize=256)
def tools_of(raw: bytes) -> list[Any]:
    """Return tool definitions, which agents send with every request: do not change what you get. Raises ApiError."""
    try:
        return msgspec.json.decode(raw, type=list[Any] | None) or [] if raw else []
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ApiError(f"tools: {error}", param="tools") from error


def schema_of(text: dict[str, Any]) -> str | None:
    """Return the schema that the reply's text has to follow, as JSON."""
    try:
        asked = msgspec.convert(text, TextConfig).format or TextFormat()
    except msgspec.ValidationError as error:
        raise ApiError(f"text: {error}", param="text") from error
    match asked.type:
        case "text":
            return None
        case "json_object":
            return '{"type":"object"}'
        case "json_schema":
            if asked.schema is None:
                raise ApiError("text.format of type 'json_schema' has no schema: give one", param="text")
            return msgspec.json.encode(asked.schema).decode()
        case kind:
            choices = "'text', 'json_object' or 'json_schema'"
            raise unsupported("text", f"text.format of type {kind!r} is not supported: use {choices}")


def _refuse_unsupported(request: ResponsesRequest) -> None:
    refused = {
        "background": bool(request.background),
        "conversation": request.conversation is not None,
        "prompt": request.prompt is not None,
        "context_management": bool(request.context_management),
        "moderation": request.moderation is not None,
        "truncation": request.truncation not in (None, "disabled", "auto"),
        "include": not INCLUDABLE.issuperset(request.include or ()),
    }
    remedy = {
        "background": "stream the response, or wait for it",
        "conversation": "use previous_response_id, or send the items in `input`",
        "prompt": "send the prompt's text in `instructions` or `input`",
        "truncation": "use 'disabled' or 'auto'",
        "include": f"choose from {', '.join(sorted(INCLUDABLE))}",
    }
    for param, is_asked in refused.items():
        if is_asked:
            given = getattr(request, param)
            raise unsupported(param, f"{param}={given!r} is not supported: {remedy.get(param, 'leave it out')}")


def _refuse_out_of_range(request: ResponsesRequest) -> None:
    request.refuse_out_of_range(
        [
            ("max_output_tokens", request.max_output_tokens, 1, 2**31),
            ("top_logprobs", request.top_logprobs, 0, MOST_LOGPROBS),
        ]
    )
