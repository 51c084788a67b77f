"""Anthropic Messages, the request: decoded strictly, refused where it could not be honoured.

What would change the result and is not supported is a 400 that names the parameter. What cannot change it here
(`metadata`, cache breakpoints, beta headers, ...) is accepted. Turns are `messages_blocks`, tools `messages_tools`,
the answer's shapes `messages_reply`.
"""

from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from nexrl_proxy.dialects import Ask, Opening
from nexrl_proxy.dialects.common import MOST_STOPS
from nexrl_proxy.dialects.messages_blocks import AssistantTurn, Text, Turn, chat_messages
from nexrl_proxy.dialects.messages_reply import MessagesReply, error_body
from nexrl_proxy.dialects.messages_tools import ToolChoice, chat_tools, must_call
from nexrl_proxy.errors import ApiError, unsupported

KEEPS_ALL = {"type": "clear_thinking_20251015", "keep": "all"}
"""The one edit of the context that changes nothing: reasoning stays in its chain anyway."""


class ThinkingConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Any = None
    """Accepted: the model's own training decides how long it thinks."""
    display: Literal["summarized", "omitted"] | None = None
    block_binding: Any = None
    """Accepted: what to do where a block fails a check, and none is checked here."""


class OutputFormat(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: OutputFormat | None = None
    effort: Any = None
    """Accepted, as `reasoning_effort` is in chat completions."""


class ContextManagement(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    edits: list[dict[str, Any]] = []


class CountRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/messages/count_tokens`."""

    messages: list[Turn]
    model: str = ""
    system: str | list[Text] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    # Refused where they ask for something.
    context_management: ContextManagement | None = None
    mcp_servers: list[Any] | None = None
    # Accepted: they do not change what is sampled here.
    cache_control: Any = None
    speed: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None


class MessagesRequest(CountRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/messages`."""

    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    # Refused where they ask for something.
    container: Any = None
    compaction: Any = None
    thread: Any = None
    # Accepted: they do not change what is sampled here.
    metadata: Any = None
    service_tier: Any = None
    inference_geo: Any = None
    diagnostics: Any = None
    billing_policy: Any = None
    fallbacks: Any = None
    fallback_credit_token: Any = None


class MessagesAsk(Ask, frozen=True, kw_only=True):
    """What a request for messages asks for."""

    shows_thinking: bool = True
    """False: thinking blocks are left empty."""


RequestT = TypeVar("RequestT", bound=CountRequest)
_messages = msgspec.json.Decoder(MessagesRequest)
_count = msgspec.json.Decoder(CountRequest)


class MessagesDialect:
    """`POST /v1/messages` and `POST /v1/messages/count_tokens`."""

    response_prefix = "msg_"
    call_prefix = "toolu_"

    def decode(self, body: bytes) -> Ask:
        return decode(body)

    def decode_count(self, body: bytes) -> Ask:
        return decode_count(body)

    def counted(self, tokens: int) -> dict[str, Any]:
        return {"input_tokens": tokens}

    def answer(self, ask: Ask, opening: Opening) -> MessagesReply:
        return MessagesReply(opening, shows_thinking=not isinstance(ask, MessagesAsk) or ask.shows_thinking)

    def error(self, error: ApiError) -> dict[str, Any]:
        return error_body(error)


def decode(body: bytes) -> Ask:
    """Return what the request asks for; raises ApiError naming the parameter that is wrong or unsupported."""
    request = _decoded(_messages, body)
    _refuse_unsupported(request)
    _refuse_out_of_range(request)
    asked = _prompt(request)
    stops = [stop for stop in request.stop_sequences or () if stop]
    sampling: dict[str, Any] = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k or None,
        "stop": stops or None,
        "json_schema": _schema(request),
    }
    return msgspec.structs.replace(
        asked,
        sampling={name: value for name, value in sampling.items() if value is not None},
        max_tokens=request.max_tokens,
        stops=stops,
        stream=bool(request.stream),
    )


def decode_count(body: bytes) -> Ask:
    """Return the prompt whose tokens the request wants counted; raises ApiError."""
    return _prompt(_decoded(_count, body))


def _decoded(decoder: "msgspec.json.Decoder[RequestT]", body: bytes) -> RequestT:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(f"the request is not JSON: {error}") from error


def _prompt(request: CountRequest) -> MessagesAsk:
    """Return what makes the prompt."""
    if request.mcp_servers:
        raise unsupported("mcp_servers", "mcp_servers is not supported: let the client call them, and send `tools`")
    for edit in request.context_management.edits if request.context_management else ():
        if edit != KEEPS_ALL:
            raise unsupported("context_management", f"context_management.edits: {edit.get('type')!r} is not supported")
    if not request.messages:
        raise ApiError("messages is empty: send at least one", param="messages")
    tools = chat_tools(request.tools)
    return MessagesAsk(
        model=request.model,
        dialect="messages",
        messages=chat_messages(request.system, request.messages),
        tools=tools,
        may_call=request.tool_choice is None or request.tool_choice.type != "none",
        must_call=must_call(request.tool_choice, tools),
        template={"enable_thinking": request.thinking.type != "disabled"} if request.thinking else {},
        shows_thinking=request.thinking is None or request.thinking.display != "omitted",
    )


def _schema(request: MessagesRequest) -> str | None:
    """Return the JSON schema that the reply has to follow, as JSON."""
    asked = request.output_format or (request.output_config.format if request.output_config else None)
    return msgspec.json.encode(asked.schema).decode() if asked else None


def _refuse_unsupported(request: MessagesRequest) -> None:
    for param in ("container", "compaction", "thread"):
        if getattr(request, param):
            raise unsupported(param, f"{param} is not supported: leave it out")
    if request.messages and isinstance(request.messages[-1], AssistantTurn):
        place = len(request.messages) - 1
        raise unsupported("messages", f"messages[{place}]: going on with an assistant's message (prefill) is not "
                          "supported: end with a user message")  # fmt: skip


def _refuse_out_of_range(request: MessagesRequest) -> None:
    ranges: list[tuple[str, float | None, float, float]] = [
        ("temperature", request.temperature, 0, 100),
        ("top_p", request.top_p, 1e-9, 1),
        ("top_k", request.top_k, 0, 2**31),
        ("max_tokens", request.max_tokens, 1, 2**31),
        ("number of stop_sequences", len(request.stop_sequences or ()), 0, MOST_STOPS),
    ]
    for name, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise ApiError(f"{name} is {value:g}: use {low:g} to {high:g}", param=name.split()[-1])


def _invalid(complaint: str) -> ApiError:
    """Return a validation message as an error that names the parameter, and says what to do about a block."""
    what, _, path = complaint.partition(" - at `$.")
    path = path.rstrip("`")
    if path.endswith(".type") and path.startswith(("messages", "system")):
        what = f"{what}: this block is not supported here; send text, tool_use or tool_result"
    named = path or (what.split("`")[1] if "`" in what else "")
    return ApiError(f"{path}: {what}" if path else f"the request is not one for messages: {what}",
                    param=named.split(".")[0].split("[")[0] or None)  # fmt: skip
