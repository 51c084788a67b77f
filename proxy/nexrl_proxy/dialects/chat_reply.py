"""OpenAI chat completions, the answer: the reply, the stream's chunks, and errors, as clients expect them.

Pure: what to answer was decided elsewhere.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from nexrl_proxy.dialects import Ask, Choice, Opening, TokenText, Usage
from nexrl_proxy.dialects.logprobs import listed
from nexrl_proxy.errors import ApiError
from nexrl_proxy.parsers import Content, Reasoning
from nexrl_proxy.reading import Called, Delta

DONE = b"data: [DONE]\n\n"


class ChatReply:
    """Shapes everything that answers one request; its chunks share id, time and model."""

    def __init__(self, ask: Ask, opening: Opening) -> None:
        self._choices = range(ask.n)
        self._include_usage = ask.include_usage
        self._beginnings: dict[int, bytes] = {}
        self._head = {"id": opening.response, "created": opening.created, "model": opening.model}

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """Return the plain reply."""
        shown = [
            {
                "index": index,
                "message": choice.message,
                "logprobs": Raw(logprobs_of(choice.tokens)) if choice.tokens is not None else None,
                "finish_reason": finish_reason(choice),
            }
            for index, choice in enumerate(choices)
        ]
        return {**self._head, "object": "chat.completion", "choices": shown, "usage": usage_of(usage)}

    def first(self) -> bytes:
        """Return the chunks that open the choices."""
        opened = b'{"role":"assistant","content":""}'
        return b"".join(self._piece(index, opened, None) for index in self._choices)

    def delta(self, index: int, deltas: Sequence[Delta], tokens: Sequence[TokenText] | None) -> bytes:
        """Return one chunk for what arrived at once; none where nothing is to be shown."""
        if not deltas and not tokens:
            return b""
        if len(deltas) == 1 and isinstance(deltas[0], Content):  # as nearly always
            return self._piece(index, b'{"content":%b}' % msgspec.json.encode(deltas[0].text), tokens)
        return self._piece(index, msgspec.json.encode(_merged(deltas)), tokens)

    def last(self, index: int, choice: Choice) -> bytes:
        """Return the chunk that closes a choice."""
        finish = {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish_reason(choice)}
        return self._chunk([finish])

    def end(self, usage: Usage) -> bytes:
        """Close the stream, with the chunk `stream_options.include_usage` asks for."""
        return (self._chunk([], usage=usage_of(usage)) if self._include_usage else b"") + DONE

    def failed(self, error: ApiError) -> bytes:
        """Close the stream with an error; clients raise it where they read it."""
        return event(error_body(error))

    def _piece(self, index: int, delta: bytes, tokens: Sequence[TokenText] | None) -> bytes:
        """Return a chunk of one choice; all its chunks begin with the same bytes."""
        beginning = self._beginnings.get(index)
        if beginning is None:
            empty = self._chunk([{"index": index, "delta": None}])
            beginning = self._beginnings[index] = empty[: empty.rindex(b"null")]
        logprobs = logprobs_of(tokens) if tokens else b"null"
        return b'%b%b,"logprobs":%b,"finish_reason":null}]}\n\n' % (beginning, delta, logprobs)

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return event({**self._head, "object": "chat.completion.chunk", "choices": choices, **more})


def _merged(deltas: Sequence[Delta]) -> dict[str, Any]:
    """Return deltas as one part of an assistant message."""
    merged: dict[str, Any] = {}
    for delta in deltas:
        match delta:
            case Content(text):
                merged["content"] = merged.get("content", "") + text
            case Reasoning(text):
                merged["reasoning_content"] = merged.get("reasoning_content", "") + text
            case Called(index, call, name, arguments):
                function = {"name": name, "arguments": arguments}
                shown = {"index": index, "id": call, "type": "function", "function": function}
                merged.setdefault("tool_calls", []).append(shown)
    return merged


def finish_reason(choice: Choice) -> str:
    """Return OpenAI's word for how a completion ended. An aborted one was cut short, as by a length limit."""
    if choice.finish_reason != "stop":
        return "length"
    return "tool_calls" if choice.called_tools else "stop"


def error_body(error: ApiError) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    return {"error": {"message": str(error), "type": error.kind, "param": error.param, "code": error.code}}


def event(value: Any) -> bytes:
    """Return a server-sent event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def logprobs_of(tokens: Sequence[TokenText]) -> bytes:
    """Return tokens as OpenAI shows their logprobs, in JSON."""
    return b'{"content":%b,"refusal":null}' % listed(tokens)
