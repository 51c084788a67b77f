"""OpenAI Responses, the reply: the response object and the items of its output.

Pure: one completion gives the same items whether the reply was streamed (`responses_events`) or not. Logprobs are those
of every sampled token, markup included, and stand with the text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nexrl_proxy.dialects import Ask, Choice, Opening, Stored, TokenText, Usage
from nexrl_proxy.dialects.logprobs import listed
from nexrl_proxy.dialects.responses_items import add_item, item_id, response_of, told
from nexrl_proxy.dialects.responses_request import ResponsesRequest
from nexrl_proxy.dialects.responses_tools import Named
from nexrl_proxy.errors import ApiError
from nexrl_proxy.messages import Message

SERVER_ERROR = 500


class ResponsesAsk(Ask, frozen=True, kw_only=True):
    """An `Ask` with what the reply says of its request."""

    shown: dict[str, Any]
    """Fields of the response object that repeat the request, defaults filled in."""
    names: dict[str, Named]
    """What the tools are called outside, by the name the model knows them by."""
    references: Sequence[tuple[int, str]] = ()
    """Items that stand in the input by their ids alone: to which message they belong, and the id."""

    @property
    def named(self) -> frozenset[str]:
        """Ids of the replies that the request names."""
        return super().named | {response_of(item) or "" for _, item in self.references}

    def whole(self, stored: Mapping[str, Stored | None]) -> list[Message]:
        """Return the messages with the items that are referred to; raises ApiError naming one that is not there."""
        if not self.references:
            return self.messages
        messages = list(map(dict, self.messages))
        for place, item in self.references:
            reply = stored.get(response_of(item) or "")
            if reply is None or not add_item(messages[place], item, reply.choice.message):
                told_so = f"input refers to {item!r}, which no response of this session has: send the item itself"
                raise ApiError(told_so, param="input", code="item_not_found")
        return messages


class Shapes:
    """Shapes the response object of one request."""

    def __init__(self, ask: ResponsesAsk, opening: Opening) -> None:
        self._opening = opening
        self._shown = ask.shown
        self._names = ask.names

    def started(self) -> dict[str, Any]:
        """Return the response before anything is sampled."""
        return self._response("in_progress", [])

    def finished(self, choice: Choice, usage: Usage) -> dict[str, Any]:
        """Return the response as it ended."""
        output, used = self.output(choice), usage_of(usage)
        if status_of(choice) == "completed":
            return self._response("completed", output, usage=used)
        details = {"reason": "max_output_tokens"}
        return self._response("incomplete", output, usage=used, incomplete_details=details)

    def failed(self, error: ApiError) -> dict[str, Any]:
        """Return the response of a completion that broke off."""
        code = "server_error" if error.status >= SERVER_ERROR else "invalid_prompt"
        return self._response("failed", [], error={"code": code, "message": str(error)})

    def output(self, choice: Choice) -> list[dict[str, Any]]:
        """Return the items of a completion: reasoning, text, calls. What was cut short is its last item."""
        message, status = choice.message, status_of(choice)
        reasoning, content = message.get("reasoning_content"), message.get("content")
        calls: list[dict[str, Any]] = message.get("tool_calls") or []
        has_text = bool(content) or not (calls or (reasoning and status == "incomplete"))
        items = [self.reasoning(reasoning, "completed" if has_text or calls else status)] if reasoning else []
        if has_text:
            items.append(self.message(content or "", choice.tokens, "completed" if calls else status))
        return items + [self.call(place, call) for place, call in enumerate(calls)]

    def reasoning(self, text: str | None, status: str) -> dict[str, Any]:
        """Return a reasoning item; without text it has yet to come."""
        content = [] if text is None else [reasoning_part(text)]
        item = {"id": item_id("rs", self._opening.response), "type": "reasoning", "summary": [], "content": content}
        return {**item, "encrypted_content": None, "status": status}

    def message(self, text: str | None, tokens: list[TokenText] | None, status: str) -> dict[str, Any]:
        """Return a message item; without text it has yet to come."""
        content = [] if text is None else [text_part(text, tokens)]
        item = {"id": item_id("msg", self._opening.response), "type": "message", "role": "assistant"}
        return {**item, "status": status, "content": content}

    def call(self, place: int, call: dict[str, Any], *, started: bool = False) -> dict[str, Any]:
        """Return the item of a tool call; one that is only started has no arguments yet."""
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        named = self._names.get(name, Named(name))
        status = "in_progress" if started else "completed"
        if named.custom:
            ident, text = told(call["id"], arguments)
            kind, written = "custom_tool_call", {"input": "" if started else text}
        else:
            ident = call["id"]
            kind, written = "function_call", {"arguments": "" if started else arguments}
        key = item_id("ctc" if named.custom else "fc", self._opening.response, place)
        item = {"id": key, "type": kind, "call_id": ident, "name": named.name, **written, "status": status}
        return item if named.namespace is None else {**item, "namespace": named.namespace}

    def _response(self, status: str, output: list[dict[str, Any]], **ending: Any) -> dict[str, Any]:
        opening = self._opening
        return {
            "id": opening.response,
            "object": "response",
            "created_at": opening.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": opening.model,
            "output": output,
            "usage": None,
            **self._shown,
            **ending,
        }


def shown_of(request: ResponsesRequest, tools: list[Any]) -> dict[str, Any]:
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
        "tools": tools,
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "user": request.user,
    }


def status_of(choice: Choice) -> str:
    """Return how a completion ended. An aborted one was cut short, as by a length limit."""
    return "completed" if choice.finish_reason == "stop" else "incomplete"


def reasoning_part(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}


def text_part(text: str, tokens: list[TokenText] | None) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": listed(tokens or ())}


def usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
