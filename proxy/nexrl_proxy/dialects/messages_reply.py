"""Anthropic Messages, the answer: the message, the stream's events, and errors, as clients expect them.

Pure: what to answer was decided elsewhere. A streamed message adds up to the plain one: thinking, text, tool uses.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from nexrl_proxy.dialects import Choice, Opening, TokenText, Usage
from nexrl_proxy.errors import ApiError
from nexrl_proxy.parsers import Content, Reasoning
from nexrl_proxy.reading import Delta

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
SERVER_ERROR = 500


class MessagesReply:
    """Shapes everything that answers one request; while it streams, it knows which content block is open."""

    def __init__(self, opening: Opening, *, shows_thinking: bool = True) -> None:
        self._opening = opening
        self._shows_thinking = shows_thinking
        self._head = {"id": opening.response, "type": "message", "role": "assistant", "model": opening.model}
        self._count = 0
        """Content blocks opened so far."""
        self._kind: type[Content | Reasoning] | None = None
        """What the open block holds."""
        self._piece = b""
        """A delta of the open block, up to its text."""
        self._stop: dict[str, Any] = {}

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """Return the plain reply."""
        [choice] = choices
        return {**self._head, "content": self._content(choice.message), **_stop(choice), "usage": _usage(usage)}

    def first(self) -> bytes:
        """Open the message; of its usage only the prompt is known."""
        usage = _usage(Usage(prompt_tokens=self._opening.prompt_tokens, completion_tokens=0, cached_tokens=0))
        message = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return event("message_start", message=message) + event("ping")

    def delta(self, index: int, deltas: Sequence[Delta], tokens: Sequence[TokenText] | None) -> bytes:  # noqa: ARG002
        """Add text or thinking. Tool calls wait for the end, for text may still come and belongs before them."""
        out = b""
        for delta in deltas:
            if isinstance(delta, Content | Reasoning) and delta.text:
                if type(delta) is not self._kind:
                    out += self._close() + self._open(type(delta))
                if self._shows_thinking or self._kind is Content:
                    out += self._piece + msgspec.json.encode(delta.text) + b"}}\n\n"
        return out

    def last(self, index: int, choice: Choice) -> bytes:  # noqa: ARG002
        """Close what is open, and show the tool calls."""
        self._stop = _stop(choice)
        return self._close() + b"".join(map(self._tool_use, choice.message.get("tool_calls", ())))

    def end(self, usage: Usage) -> bytes:
        """Close the message."""
        return event("message_delta", delta=self._stop, usage=_usage(usage)) + event("message_stop")

    def failed(self, error: ApiError) -> bytes:
        """Close the stream with an error; clients raise it where they read it."""
        return event(**error_body(error))

    def _content(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        if reasoning := message.get("reasoning_content"):
            blocks.append({"type": "thinking", "thinking": reasoning if self._shows_thinking else "", "signature": ""})
        if text := message.get("content"):
            blocks.append({"type": "text", "text": text})
        return [*blocks, *map(_tool_use, message.get("tool_calls", ()))]

    def _open(self, kind: type[Content | Reasoning]) -> bytes:
        self._kind = kind
        index = self._count
        self._count += 1
        block, name, field = _TEXT if kind is Content else _THINKING
        head = f'{{"type":"content_block_delta","index":{index},"delta":{{"type":"{name}","{field}":'
        self._piece = b"event: content_block_delta\ndata: " + head.encode()
        return event("content_block_start", index=index, content_block=block)

    def _close(self) -> bytes:
        if self._kind is None:
            return b""
        self._kind = None
        return event("content_block_stop", index=self._count - 1)

    def _tool_use(self, call: dict[str, Any]) -> bytes:
        index = self._count
        self._count += 1
        block = {**_tool_use(call), "input": {}}
        delta = {"type": "input_json_delta", "partial_json": call["function"]["arguments"]}
        return (
            event("content_block_start", index=index, content_block=block)
            + event("content_block_delta", index=index, delta=delta)
            + event("content_block_stop", index=index)
        )


_TEXT = ({"type": "text", "text": ""}, "text_delta", "text")
_THINKING = ({"type": "thinking", "thinking": "", "signature": ""}, "thinking_delta", "thinking")


def event(type: str, **fields: Any) -> bytes:  # noqa: A002 - it is the name on the wire
    """Return a server-sent event."""
    return b"event: " + type.encode() + b"\ndata: " + msgspec.json.encode({"type": type, **fields}) + b"\n\n"


def error_body(error: ApiError) -> dict[str, Any]:
    """Return an error in Anthropic's shape."""
    otherwise = "api_error" if error.status >= SERVER_ERROR else "invalid_request_error"
    # Claude Code compacts its history when it reads these words.
    message = f"prompt is too long: {error}" if error.code == "context_length_exceeded" else str(error)
    described = {"type": ERROR_TYPES.get(error.status, otherwise), "message": message}
    return {"type": "error", "error": described, "request_id": None}


def _tool_use(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": msgspec.Raw(function["arguments"])}


def _stop(choice: Choice) -> dict[str, Any]:
    """Return why a message ended. An aborted one was cut short, as by a length limit."""
    if choice.finish_reason != "stop":
        reason = "max_tokens"
    elif choice.stop is not None:
        reason = "stop_sequence"
    else:
        reason = "tool_use" if choice.called_tools else "end_turn"
    return {"stop_reason": reason, "stop_sequence": choice.stop if reason == "stop_sequence" else None}


def _usage(usage: Usage) -> dict[str, int]:
    """Return the usage; Anthropic's input tokens are those that no cache held."""
    return {
        "input_tokens": max(usage.prompt_tokens - usage.cached_tokens, 0),
        "output_tokens": usage.completion_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
    }
