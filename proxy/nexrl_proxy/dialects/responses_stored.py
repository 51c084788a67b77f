"""OpenAI Responses, replies that are named by their id: read again, their input listed, deleted.

Pure. A reply that is in memory is shown as it was given, but for logprobs. One that was read back from its record is
shown with what a record holds: tools are functions, by the names the model knows them by, and what a request says of
itself alone (`metadata`, `previous_response_id`, `text` ...) and the details of its usage are left at their defaults.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from nexrl.records import Call
from nexrl_proxy.dialects import Choice, Opening, Stored, Usage
from nexrl_proxy.dialects.common import param_of
from nexrl_proxy.dialects.responses_items import item_id, told
from nexrl_proxy.dialects.responses_reply import ResponsesAsk, Shapes, shown_of
from nexrl_proxy.dialects.responses_request import INCLUDABLE, LOGPROBS, ResponsesRequest
from nexrl_proxy.errors import ApiError, unsupported
from nexrl_proxy.messages import Message, text_of

Items = list[dict[str, Any]]


class Page(Struct, frozen=True):
    """Which of a response's input items are wanted."""

    after: str | None = None
    """The id of the item they come behind."""
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


def stored_of(call: Call, said: Sequence[Message], tools: Items | None, *, prompt_tokens: int) -> Stored:
    """Return a reply from its record; `said` is the conversation from its first message, the reply included."""
    instructions = list(said[: call.instructed])
    request = ResponsesRequest(
        instructions=text_of(instructions[0]["content"], "instructions") if instructions else None,
        temperature=call.temperature,
        top_p=call.sampling.get("top_p"),
    )
    functions = [{"type": "function", **tool["function"], "strict": False} for tool in tools or ()]
    ask = ResponsesAsk(
        model=call.model,
        dialect=call.dialect,
        messages=instructions,
        instructed=call.instructed,
        store=True,
        shown=shown_of(request, functions),
        names={},
    )
    return Stored(
        ask=ask,
        created=call.started_ns // 10**9,
        choice=Choice(message=call.reply, finish_reason=call.finish_reason),
        usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=len(call.completion), cached_tokens=0),
        said=list(said[call.instructed :]),
    )


def response_of(stored: Stored, response: str, *, model: str) -> dict[str, Any]:
    """Return the response object; `model` is what it shows where its request named none."""
    return _shapes(stored, response, model=model).finished(stored.choice, stored.usage)


def deleted_of(response: str) -> dict[str, Any]:
    """Return the answer to a deletion."""
    return {"id": response, "object": "response", "deleted": True}


def input_items(stored: Stored, response: str) -> Items:
    """Return everything the reply answered, as items, first to last.

    What it went on from by an id is part of it, as with the official server; instructions are not. An item's id names
    the response and the message, so that what one assistant message consists of is told apart when it is sent back.
    """
    ask = _ask(stored)
    custom: dict[str, str] = {}
    items: Items = []
    for place, message in enumerate(stored.said[:-1]):
        base = f"{response}-{place}"
        text = text_of(message.get("content"), f"{base}.content")
        match message["role"]:
            case "assistant":
                spelled = _spelled(message, text)
                custom |= _custom(spelled, ask)
                items += _shapes(stored, base).output(Choice(message=spelled, finish_reason="stop"))
            case "tool":
                call = message.get("tool_call_id") or ""
                kind = "custom_tool_call_output" if call in custom else "function_call_output"
                item = {"id": item_id("fco", base), "type": kind, "call_id": custom.get(call, call)}
                items.append({**item, "output": text, "status": "completed"})
            case role:
                item = {"id": item_id("msg", base), "type": "message", "role": role, "status": "completed"}
                items.append({**item, "content": [{"type": "input_text", "text": text}]})
    return items


def listed(items: Items, page: Page) -> dict[str, Any]:
    """Return a page of items, given first to last; raises ApiError where `after` is none of them."""
    ordered = items if page.order == "asc" else items[::-1]
    start = 0
    if page.after is not None:
        places = [place for place, item in enumerate(ordered) if item["id"] == page.after]
        if not places:
            told_so = f"after={page.after!r} is no input item of this response: use the last_id of a page"
            raise ApiError(told_so, param="after")
        start = places[0] + 1
    data = ordered[start : start + page.limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": start + len(data) < len(ordered),
    }


def page_of(query: Mapping[str, str], include: Sequence[str]) -> Page:
    """Return which input items a query asks for; raises ApiError naming the parameter that is wrong."""
    refuse_includes(include)
    try:
        return msgspec.convert(dict(query), Page, strict=False)
    except msgspec.ValidationError as error:
        message = f"the query is not one for input items, of which 1 to 100 are listed, asc or desc: {error}"
        raise ApiError(message, param=param_of(str(error))) from error


def refuse_retrieval(query: Mapping[str, str], include: Sequence[str]) -> None:
    """Raise ApiError for what a query asks of a response that cannot be given."""
    refuse_includes(include)
    for param in ("stream", "starting_after"):
        if query.get(param, "false") != "false":
            raise unsupported(param, f"{param}={query[param]!r}: only a response that runs in the background could be "
                              "streamed again, and none does here; leave it out")  # fmt: skip


def refuse_includes(include: Sequence[str]) -> None:
    """Raise ApiError for what a response that was given cannot have added to it."""
    if LOGPROBS in include:
        raise unsupported("include", f"include={LOGPROBS!r}: logprobs are in the reply to the request itself alone")
    if unknown := set(include) - INCLUDABLE:
        raise unsupported("include", f"include={min(unknown)!r} is not supported: leave it out")


def _shapes(stored: Stored, response: str, *, model: str = "") -> Shapes:
    ask, tokens = _ask(stored), stored.usage.prompt_tokens
    opening = Opening(response=response, model=ask.model or model, created=stored.created, prompt_tokens=tokens)
    return Shapes(ask, opening)


def _ask(stored: Stored) -> ResponsesAsk:
    assert isinstance(stored.ask, ResponsesAsk), "no other dialect's replies are stored"
    return stored.ask


def _spelled(message: Message, text: str) -> Message:
    """Return an assistant message as replies are spelled, whoever wrote it."""
    spelled: Message = {"content": text or None, "reasoning_content": message.get("reasoning_content")}
    if calls := message.get("tool_calls"):
        spelled["tool_calls"] = [{**call, "function": _function(call["function"])} for call in calls]
    return spelled


def _function(function: Message) -> Message:
    given = function.get("arguments") or "{}"
    return {**function, "arguments": given if isinstance(given, str) else msgspec.json.encode(given).decode()}


def _custom(message: Message, ask: ResponsesAsk) -> dict[str, str]:
    """Return the calls of custom tools: their ids inside, and outside."""
    return {
        call["id"]: told(call["id"], call["function"]["arguments"])[0]
        for call in message.get("tool_calls") or ()
        if (named := ask.names.get(call["function"]["name"])) and named.custom
    }
