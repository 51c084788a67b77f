"""OpenAI Responses: from a request to what it asks for.

The request is `responses_request`, its items and tools `responses_input` and `responses_tools`; answers are
`responses_reply` and `responses_events`.

`instructions` are the first message of every request; as with the official server, those of the response that
`previous_response_id` names are not carried over. `truncation: auto` never drops anything here: what does not fit the
context is an error, as under `disabled`.
"""

from typing import Any

from nexrl_proxy.dialects import Ask, Opening
from nexrl_proxy.dialects.chat_reply import error_body
from nexrl_proxy.dialects.responses_events import ResponsesAnswer
from nexrl_proxy.dialects.responses_input import messages_of
from nexrl_proxy.dialects.responses_reply import ResponsesAsk
from nexrl_proxy.dialects.responses_request import LOGPROBS, ResponsesRequest, request_of, schema_of
from nexrl_proxy.dialects.responses_tools import choice_of, toolbox_of
from nexrl_proxy.errors import ApiError
from nexrl_proxy.messages import Message

NAMES = {"messages": "input", "response_format": "text"}
"""Parameters that chat completions call otherwise."""


class ResponsesDialect:
    """`POST /v1/responses`."""

    response_prefix = "resp_"
    call_prefix = "call_"

    def decode(self, body: bytes) -> Ask:
        return decode(body)

    def answer(self, ask: Ask, opening: Opening) -> ResponsesAnswer:
        assert isinstance(ask, ResponsesAsk), "the request was decoded by another dialect"
        return ResponsesAnswer(ask, opening)

    def error(self, error: ApiError) -> dict[str, Any]:
        """Return an error's body; parameters have the names they have here."""
        body = error_body(error)
        body["error"]["param"] = NAMES.get(error.param or "", error.param)
        return body


def decode(body: bytes) -> ResponsesAsk:
    """Return what the request asks for; raises ApiError naming the parameter that is wrong or unsupported."""
    request = request_of(body)
    toolbox = toolbox_of(request.tools or [])
    choice = choice_of(request.tool_choice, toolbox)
    top = request.top_logprobs or 0
    return ResponsesAsk(
        model=request.model,
        dialect="responses",
        messages=_messages(request),
        tools=choice.chat or None,
        may_call=choice.may_call,
        must_call=choice.must_call,
        template=request.chat_template_kwargs or {},
        sampling=request.sampling(json_schema=schema_of(request.text or {})),
        max_tokens=request.max_output_tokens,
        stops=request.stops,
        seed=request.seed,
        stream=bool(request.stream),
        logprobs=bool(top) or LOGPROBS in (request.include or ()),
        top_logprobs=top,
        instructed=bool(request.instructions),
        previous=request.previous_response_id,
        store=request.store is not False,
        shown=_shown(request),
        names=toolbox.names,
    )


def _messages(request: ResponsesRequest) -> list[Message]:
    messages = messages_of(request.input or [])
    if not messages and not request.previous_response_id:
        raise ApiError("input is empty: give a string or a list of items", param="input")
    if request.instructions:
        return [{"role": "system", "content": request.instructions}, *messages]
    return messages


def _shown(request: ResponsesRequest) -> dict[str, Any]:
    """Return the fields with which a response repeats its request."""
    return {
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None, **(request.reasoning or {})},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.store is not False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {"format": {"type": "text"}, **(request.text or {})},
        "tool_choice": request.tool_choice or "auto",
        "tools": request.tools or [],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "user": request.user,
    }
