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
from nexrl_proxy.dialects.responses_input import told_of
from nexrl_proxy.dialects.responses_reply import ResponsesAsk, shown_of
from nexrl_proxy.dialects.responses_request import LOGPROBS, ResponsesRequest, request_of, schema_of, tools_of
from nexrl_proxy.dialects.responses_tools import choice_of, toolbox_of
from nexrl_proxy.errors import ApiError
from nexrl_proxy.messages import Message

NAMES = {"messages": "input", "response_format": "text"}
"""Parameters that chat completions call otherwise."""


class ResponsesDialect:
    """`POST /v1/responses` and `POST /v1/responses/input_tokens`."""

    response_prefix = "resp_"
    call_prefix = "call_"

    def decode(self, body: bytes) -> Ask:
        return decode(body)

    def decode_count(self, body: bytes) -> Ask:
        return decode(body)

    def counted(self, tokens: int) -> dict[str, Any]:
        return {"object": "response.input_tokens", "input_tokens": tokens}

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
    tools = tools_of(bytes(request.tools))
    toolbox = toolbox_of(tools)
    messages, references = _messages(request)
    choice = choice_of(request.tool_choice, toolbox)
    top = request.top_logprobs or 0
    return ResponsesAsk(
        model=request.model,
        dialect="responses",
        messages=messages,
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
        shown=shown_of(request, tools),
        names=toolbox.names,
        references=references,
    )


def _messages(request: ResponsesRequest) -> tuple[list[Message], list[tuple[int, str]]]:
    """Return the messages, and the references among them."""
    said = told_of(request.input or [])
    if not said.messages and not request.previous_response_id:
        raise ApiError("input is empty: give a string or a list of items", param="input")
    if request.instructions:
        instructions: Message = {"role": "system", "content": request.instructions}
        return [instructions, *said.messages], [(1 + place, item) for place, item in said.references]
    return said.messages, said.references
